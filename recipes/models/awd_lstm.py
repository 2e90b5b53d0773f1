"""AWD-LSTM (Merity, Keskar & Socher, 2018, arXiv 1708.02182): the language model of the clipping paper.

Section numbers are the paper's. Its averaged SGD is an optimizer's matter; this is the model and its dropouts.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout as independent_dropout
from torch.nn.functional import linear

Hidden = list[tuple[Tensor, Tensor]]  # (h, c) of each layer, [1, batch, size of the layer]


class AWDLSTMOutput(NamedTuple):
    """What a forward pass gives."""

    logits: Tensor  # [steps, batch, vocabulary]
    hidden: Hidden  # still in the graph: detach it before the next batch
    raw: Tensor  # [steps, batch, embedding], the last layer's outputs, for temporal activation regularisation
    dropped: Tensor  # [steps, batch, embedding], the same after dropout, for activation regularisation


def locked_dropout(inputs: Tensor, p: float, training: bool) -> Tensor:
    """inputs · mask / (1 - p), one mask [1, batch, features] for all of [steps, batch, features] (section 4.2)."""
    if not training or p == 0:
        return inputs
    return inputs * independent_dropout(torch.ones_like(inputs[:1]), p)


def lstm_kernels() -> AbstractContextManager[None]:
    """Under autocast on a CPU, torch's own: oneDNN has no LSTM of half precision for many processors."""
    return torch.backends.mkldnn.flags(enabled=False) if torch.is_autocast_enabled("cpu") else nullcontext()


class WeightDropLSTM(nn.Module):
    """One LSTM layer with DropConnect on its hidden-to-hidden weights (section 2).

    The mask is drawn once for each forward pass in training. The weight that the optimizer sees is the whole one,
    and no gradient reaches what a pass has dropped.
    """

    def __init__(self, inputs: int, outputs: int, weight_dropout: float) -> None:
        super().__init__()
        self.lstm = nn.LSTM(inputs, outputs)
        self.weight_dropout = weight_dropout

    def forward(self, inputs: Tensor, hidden: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """[steps, batch, inputs], (h, c) -> [steps, batch, outputs], (h, c)."""
        with lstm_kernels():
            if not self.training or self.weight_dropout == 0:
                outputs, (h, c) = self.lstm(inputs, hidden)
                return outputs, (h, c)
            # The function behind nn.LSTM, one kernel call for all steps. Substituting the weight in the module itself
            # would make it move all its weights to another buffer on CUDA, at every pass, under the optimizer's feet.
            weight_ih, weight_hh, bias_ih, bias_hh = self.lstm.all_weights[0]
            weights = [weight_ih, independent_dropout(weight_hh, self.weight_dropout), bias_ih, bias_hh]
            # The numbers: with biases, one layer, no dropout between layers, in training, one direction, steps first.
            outputs, h, c = torch.lstm(inputs, hidden, weights, True, 1, 0.0, True, False, False)
        return outputs, (h, c)


class AWDLSTM(nn.Module):
    """Layers of LSTM with locked dropout in between; the decoder's weight is the embedding's (section 4.4).

    ``embedding`` is the size of a word vector and of the last layer (section 4.5), ``hidden`` that of the others.
    Dropouts are probabilities in [0, 1): of the last layer's outputs, of those between layers, of the word vectors, of
    whole words, each everywhere in a pass (section 4.3), and of the hidden-to-hidden weights.
    """

    def __init__(
        self,
        vocabulary: int,
        embedding: int = 400,
        hidden: int = 1150,
        layers: int = 3,
        dropout: float = 0.4,
        dropout_hidden: float = 0.25,
        dropout_input: float = 0.4,
        dropout_embedding: float = 0.1,
        weight_dropout: float = 0.5,
    ) -> None:
        super().__init__()
        if min(vocabulary, embedding, hidden, layers) < 1:
            raise ValueError(f"{vocabulary=}, {embedding=}, {hidden=}, {layers=}: wanted at least 1 of each")
        if not all(0 <= p < 1 for p in (dropout, dropout_hidden, dropout_input, dropout_embedding, weight_dropout)):
            raise ValueError(
                f"{dropout=}, {dropout_hidden=}, {dropout_input=}, {dropout_embedding=}, {weight_dropout=}:"
                " wanted probabilities in [0, 1); 0 switches one off"
            )
        self.dropout, self.dropout_hidden, self.dropout_input = dropout, dropout_hidden, dropout_input
        self.dropout_embedding = dropout_embedding
        self.embedding = nn.Embedding(vocabulary, embedding)
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)  # section 5; nn.LSTM itself starts as is said there
        self.decoder_bias = nn.Parameter(torch.zeros(vocabulary))
        self._sizes = [embedding, *[hidden] * (layers - 1), embedding]
        self.layers = nn.ModuleList(
            WeightDropLSTM(inputs, outputs, weight_dropout)
            for inputs, outputs in zip(self._sizes[:-1], self._sizes[1:], strict=True)
        )

    def initial_hidden(self, batch: int) -> Hidden:
        """Zeros for each layer, of the weights' type and on their device."""
        zeros = [self.embedding.weight.new_zeros(1, batch, size) for size in self._sizes[1:]]
        return [(h, torch.zeros_like(h)) for h in zeros]

    def forward(self, tokens: Tensor, hidden: Hidden) -> AWDLSTMOutput:
        """[steps, batch] -> logits [steps, batch, vocabulary], and what the two regularisations need."""
        vectors: Tensor = self.embedding(tokens)
        if self.training and self.dropout_embedding > 0:  # masking the vectors spares masking the whole embedding
            words = independent_dropout(torch.ones_like(self.embedding.weight[:, :1]), self.dropout_embedding)
            vectors = vectors * words[tokens]
        raw = outputs = locked_dropout(vectors, self.dropout_input, self.training)
        states = []
        for index, (layer, state) in enumerate(zip(self.layers, hidden, strict=True)):
            raw, new_state = layer(outputs, state)
            states.append(new_state)
            last = index == len(self.layers) - 1
            outputs = locked_dropout(raw, self.dropout if last else self.dropout_hidden, self.training)
        logits = linear(outputs, self.embedding.weight, self.decoder_bias)
        return AWDLSTMOutput(logits, states, raw, outputs)
