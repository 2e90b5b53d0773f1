"""A classifier of texts: one LSTM, and the mean of its outputs."""

from __future__ import annotations

from torch import Tensor, nn

from recipes.models.half_lstm import kernels_for

PADDING = 0


class TextClassifier(nn.Module):
    """logits = W · mean over the real tokens of LSTM(embedding(tokens)) + b.

    Args:
        vocabulary: the number of different tokens, the padding included.
        classes: the number of logits.
        embedding: the size of a word vector.
        hidden: the size of the LSTM's state.
    """

    def __init__(self, vocabulary: int, classes: int, embedding: int = 100, hidden: int = 128) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, embedding, padding_idx=PADDING)
        self.lstm = nn.LSTM(embedding, hidden, batch_first=True)
        self.classifier = nn.Linear(hidden, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """[batch, steps] -> [batch, classes].

        Texts are padded with 0 at their end, where no real token's output depends on it. A text without a real token
        gets the mean 0.

        Raises:
            ValueError: tokens is not of two dimensions.
        """
        if tokens.dim() != 2:
            raise ValueError(f"tokens is of shape {tuple(tokens.shape)}: wanted [batch, steps], padded with {PADDING}")
        real = (tokens != PADDING).unsqueeze(2)
        with kernels_for(tokens.device):
            outputs, _ = self.lstm(self.embedding(tokens))
        mean = outputs.masked_fill(~real, 0).sum(1) / real.sum(1).clamp(min=1)
        logits: Tensor = self.classifier(mean)
        return logits
