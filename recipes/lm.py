"""``python -m recipes lm``: language models with any algorithm, the clipping paper's PTB experiment by default.

AWD-LSTM (Merity et al. 2018, arXiv 1708.02182) as trained by Zhang et al. 2020 (arXiv 2010.02519, section 5)::

    python -m recipes lm --data ptb --algo sgd_clip
    python -m recipes lm --data ptb --algo mix_clip --momentum 0.999 --gamma 5
    python -m recipes lm --data some_text.txt --level character --emsize 128 --nhid 256 --nlayers 2 --epochs 20

Batches are of varied length, and lr and gamma vary with it; the hidden state goes on from batch to batch; and when the
validation loss stops falling, evaluation goes on with the average of the weights after each epoch, which training does
not see: NT-ASGD's (Merity et al., section 3), taken once an epoch.
"""

import argparse
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel

from recipes.command import lower, make_parser, positive, run_recipe
from recipes.data import RecipeDataError
from recipes.data.corpus import LEVELS, Corpus, columns
from recipes.data.images import generator
from recipes.models.awd_lstm import AWDLSTM, Hidden
from recipes.training import Loss, Task

# As the authors' code has them. Ten columns of validation text are quick; two of test text cut off next to none of it.
_VALID_COLUMNS, _TEST_COLUMNS = 10, 2
_LONG, _SHORTEST, _DEVIATION = 0.95, 5, 5.0
_FEWEST_ROWS = 3  # a batch of two tokens, which temporal regularisation needs, and the last target

# The paper's, where the command line says nothing else; of other algorithms the defaults are their own. They are for
# the loss's mean over tokens, and for sgd they are AWD-LSTM's, with --clip 0.25: without it, sgd does not bear that lr.
_LR, _WEIGHT_DECAY = 30.0, 1.2e-6
_GAMMA: Mapping[str, float | None] = {"sgd": None, "sgd_clip": 7.5, "mom_clip": 7.5, "mix_clip": 5.0}

_QUICK = {"emsize": 64, "nhid": 128, "nlayers": 2, "epochs": [2]}


class Stretch(NamedTuple):
    """A batch of running text."""

    tokens: Tensor  # int64 [steps, batch]
    targets: Tensor  # int64 [steps, batch], for each token the one that follows it


def draw_lengths(rows: int, bptt: int, draws: torch.Generator) -> list[int]:
    """The lengths of an epoch's batches: max(5, N(bptt, 5)), for one in twenty of half that mean; the last is cut.

    Merity et al. 2018, section 4.1. A text of ``rows`` has rows - 1 tokens with a target; one may remain.
    """
    lengths = []
    remaining = rows - 1
    while remaining > 1:
        mean = bptt if float(torch.rand((), generator=draws)) < _LONG else bptt / 2
        length = max(_SHORTEST, int(torch.normal(mean, _DEVIATION, (1,), generator=draws)))
        lengths.append(min(length, remaining))
        remaining -= lengths[-1]
    return lengths


@torch.no_grad()
def mean_loss(model: AWDLSTM, text: Tensor, bptt: int) -> float:
    """Cross-entropy per token of text [rows, columns], the model in evaluation mode."""
    model.eval()
    hidden = model.initial_hidden(text.shape[1])
    loss_sum = torch.zeros((), dtype=torch.float64, device=text.device)
    for tokens, targets in zip(text[:-1].split(bptt), text[1:].split(bptt), strict=True):
        logits, hidden, _, _ = model(tokens, hidden)
        loss_sum += cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
    return float(loss_sum) / text[1:].numel()


def losses(part: str, loss: float) -> dict[str, float]:
    """The loss and exp(loss), the perplexity: infinite where that is beyond a float's range."""
    return {f"{part}_loss": loss, f"{part}_perplexity": math.exp(loss) if loss < 700 else math.inf}


class LanguageModelTask(Task):
    """Cross-entropy + ar · mean(dropped²) + tar · mean((raw_{t+1} - raw_t)²) of AWD-LSTM (section 4.6)."""

    model: AWDLSTM

    def __init__(self, options: argparse.Namespace, device: torch.device) -> None:
        with torch.device("meta"):  # sizes that no model has are told before the text is read
            _model(options, vocabulary=1)
        corpus = Corpus.load(options.data if options.data.exists() else options.data_dir / options.data, options.level)
        self.model = _model(options, len(corpus.vocabulary)).to(device)
        self._train = _text("training", corpus.train[: options.train_tokens], options.batch_size).to(device)
        self._valid = _text("validation", corpus.valid[: options.test_tokens], _VALID_COLUMNS).to(device)
        self._test = _text("test", corpus.test[: options.test_tokens], _TEST_COLUMNS).to(device)
        self._options = options
        self._average = AveragedModel(self.model)
        self._losses: list[float] = []  # of validation, by epoch
        self._averages = False
        self._hidden: Hidden = self.model.initial_hidden(options.batch_size)

    def _lengths(self, epoch: int) -> list[int]:
        return draw_lengths(len(self._train), self._options.bptt, generator(self._options.seed, epoch))

    def steps(self, epoch: int) -> int:
        return len(self._lengths(epoch))

    def batches(self, epoch: int, start: int) -> Iterator[Stretch]:
        if start == 0:
            self._hidden = self.model.initial_hidden(self._train.shape[1])
        lengths = self._lengths(epoch)
        row = sum(lengths[:start])
        for length in lengths[start:]:
            yield Stretch(self._train[row : row + length], self._train[row + 1 : row + 1 + length])
            row += length

    def scale(self, batch: Stretch) -> float:
        return len(batch.tokens) / float(self._options.bptt)

    def loss(self, batch: Stretch) -> Loss:
        logits, hidden, raw, dropped = self.model(batch.tokens, self._hidden)
        # In the weights' type, which autocast's is not: a kernel takes only one.
        self._hidden = [(h.detach().float(), c.detach().float()) for h, c in hidden]
        reported = cross_entropy(logits.flatten(0, 1), batch.targets.flatten())
        backward, ar, tar = reported, self._options.ar, self._options.tar
        if ar:
            backward = backward + ar * dropped.square().mean()
        if tar:
            backward = backward + tar * (raw[1:] - raw[:-1]).square().mean()
        return Loss(backward, reported, batch.targets.numel())

    def evaluate(self) -> dict[str, float]:
        """Of the average, from the epoch on that follows a loss above the lowest of all before the last ``nonmono``."""
        if self._averages:
            self._average.update_parameters(self.model)
        model: AWDLSTM = self._average.module if self._averages else self.model  # type: ignore[assignment]
        metrics = losses("valid", mean_loss(model, self._valid, self._options.bptt))
        if len(self._losses) == self._options.epochs[-1] - 1:  # after the last epoch
            metrics |= losses("test", mean_loss(model, self._test, self._options.bptt))
        earlier = self._losses[: max(len(self._losses) - self._options.nonmono, 0)]
        self._averages = self._averages or (bool(earlier) and metrics["valid_loss"] > min(earlier))
        self._losses.append(metrics["valid_loss"])
        return metrics | {"averaged_epochs": float(self._average.n_averaged)}

    def state_dict(self) -> dict[str, Any]:
        state = {"hidden": self._hidden, "losses": self._losses, "averages": self._averages}
        return state | {"average": self._average.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._hidden, self._losses, self._averages = state["hidden"], state["losses"], state["averages"]
        self._average.load_state_dict(state["average"])


def _model(options: argparse.Namespace, vocabulary: int) -> AWDLSTM:
    return AWDLSTM(
        vocabulary,
        options.emsize,
        options.nhid,
        options.nlayers,
        dropout=options.dropout,
        dropout_hidden=options.dropouth,
        dropout_input=options.dropouti,
        dropout_embedding=options.dropoute,
        weight_dropout=options.wdrop,
    )


def _text(part: str, tokens: Tensor, batch: int) -> Tensor:
    """[rows, batch]. Raises RecipeDataError where there is nothing to predict."""
    if len(tokens) < _FEWEST_ROWS * batch:
        wanted = f"{_FEWEST_ROWS * batch}, {_FEWEST_ROWS} for each of {batch} columns"
        raise RecipeDataError(f"the {part} text has {len(tokens)} tokens, expected at least {wanted}: give more text")
    return columns(tokens, batch)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = make_parser("lm", "Language models: AWD-LSTM with any algorithm.", epochs="250", algo="sgd_clip")
    add = parser.add_argument_group("text").add_argument
    where = "folder of {train,valid,test}.txt, or a text; here or in --data-dir (default ptb)"
    add("--data", type=Path, default=Path("ptb"), metavar="PATH", help=where)
    add("--level", choices=LEVELS, default="word", help="what a token is")
    add("-b", "--batch-size", type=positive, default=20, help="default 20")
    add("--bptt", type=positive, default=70, help="mean length of a batch (default 70)")
    add("--train-tokens", type=int, metavar="N", help="only the first N")
    add("--test-tokens", type=int, metavar="N", help="only the first N of the validation and the test text")
    add = parser.add_argument_group("model").add_argument
    add("--emsize", type=int, default=400, help="size of a word vector and of the last layer (default 400)")
    add("--nhid", type=int, default=1150, help="size of the other layers (default 1150)")
    add("--nlayers", type=int, default=3, help="default 3")
    add("--dropout", type=float, default=0.4, metavar="P", help="of the last layer's outputs (default 0.4)")
    add("--dropouth", type=float, default=0.25, metavar="P", help="between layers (default 0.25)")
    add("--dropouti", type=float, default=0.4, metavar="P", help="of word vectors (default 0.4)")
    add("--dropoute", type=float, default=0.1, metavar="P", help="of whole words (default 0.1)")
    add("--wdrop", type=float, default=0.5, metavar="P", help="of hidden-to-hidden weights (default 0.5)")
    add("--ar", type=float, default=2.0, help="activation regularisation, AWD-LSTM's alpha (default 2)")
    add("--tar", type=float, default=1.0, help="temporal activation regularisation, AWD-LSTM's beta (default 1)")
    add("--nonmono", type=int, default=5, metavar="N", help="epochs of patience before weights are averaged: 5")
    options = parser.parse_args(arguments)
    if options.algo in _GAMMA:
        for name, value in (("lr", _LR), ("weight_decay", _WEIGHT_DECAY), ("gamma", _GAMMA[options.algo])):
            if getattr(options, name) is None:
                setattr(options, name, value)
    if options.quick:
        vars(options).update(_QUICK)
        lower(options, train_tokens=20_000, test_tokens=5_000)
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    name = f"{options.data.stem}-{options.level}-{options.algo}-seed{options.seed}"
    return run_recipe("lm", options, name, LanguageModelTask)


if __name__ == "__main__":
    sys.exit(main())
