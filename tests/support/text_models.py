"""Small models of text, and batches for them."""

from __future__ import annotations

import torch
from torch import Tensor

from recipes.models.awd_lstm import AWDLSTM, AWDLSTMOutput

WORDS, STEPS, BATCH = 30, 7, 4


def language_model(**dropouts: float) -> AWDLSTM:
    """Of 30 words, without any dropout that is not asked for."""
    torch.manual_seed(0)
    none = dict.fromkeys(("dropout", "dropout_hidden", "dropout_input", "dropout_embedding", "weight_dropout"), 0.0)
    return AWDLSTM(WORDS, embedding=12, hidden=16, **{**none, **dropouts})


def words() -> Tensor:
    return torch.randint(WORDS, (STEPS, BATCH), generator=torch.Generator().manual_seed(1))


def run(model: AWDLSTM) -> AWDLSTMOutput:
    return model(words(), model.initial_hidden(BATCH))
