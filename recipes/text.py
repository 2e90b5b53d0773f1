"""``python -m recipes text``: classification of texts by an LSTM, AdaLoss's text experiment in small.

Wu et al. 2022 (arXiv 2109.08282) train an LSTM on texts with AdaLoss and its baselines; here on IMDB's reviews, or on
any folder of .txt files, to tell which of them a piece is from::

    python -m recipes text --dataset imdb --epochs 10 --b0 0.1
    python -m recipes text --dataset some_folder --algo adagrad_norm
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from recipes.classification import classification_metrics
from recipes.command import lower, make_parser, run_recipe
from recipes.data.batches import generator
from recipes.data.texts import Texts, load_texts
from recipes.models.text_classifier import TextClassifier
from recipes.training import Loss, Task
from recipes.world import World

_EVALUATION_BATCH = 500

# Three epochs on two classes took the loss to 0.64 with AdaLoss's own 0.1, to 0.03 with 1.
_ADALOSS_LR = 1.0


class TextTask(Task):
    """Cross-entropy on texts, in batches whose order (seed, epoch) alone decides.

    Raises:
        ValueError: for a batch size below 1 or a seed below 0.
    """

    def __init__(self, options: argparse.Namespace, texts: Texts, device: torch.device) -> None:
        if options.batch_size < 1 or options.seed < 0:
            values = f"batch_size={options.batch_size}, seed={options.seed}"
            raise ValueError(f"{values}: expected --batch-size of at least 1, and --seed of at least 0")
        self.model = TextClassifier(texts.vocabulary, len(texts.classes)).to(device)
        self._tokens = texts.train_tokens[: options.train_texts].to(device)
        self._labels = texts.train_labels[: options.train_texts].to(device)
        self._test_tokens = texts.test_tokens[: options.test_texts].to(device)
        self._test_labels = texts.test_labels[: options.test_texts].to(device)
        self._batch_size: int = options.batch_size
        self._seed: int = options.seed

    def steps(self, epoch: int) -> int:
        return -(-len(self._labels) // self._batch_size)

    def batches(self, epoch: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self._labels), generator=generator(self._seed, epoch)).to(self._labels.device)
        for chosen in order.split(self._batch_size)[start:]:
            yield self._tokens[chosen], self._labels[chosen]

    def loss(self, batch: tuple[Tensor, Tensor]) -> Loss:
        tokens, labels = batch
        loss = cross_entropy(self.model(tokens), labels)
        return Loss(loss, loss, len(labels))

    def evaluate(self) -> dict[str, float]:
        batches = zip(
            self._test_tokens.split(_EVALUATION_BATCH), self._test_labels.split(_EVALUATION_BATCH), strict=True
        )
        return classification_metrics(self.model, batches)


def make_task(options: argparse.Namespace, device: torch.device, world: World) -> TextTask:
    world.refuse_others()
    return TextTask(options, load_texts(options.dataset, options.data_dir, options.length, options.words), device)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = make_parser("text", "Classification of texts by an LSTM.", epochs="10", algo="adaloss")
    add = parser.add_argument_group("texts").add_argument
    add("--dataset", default="imdb", metavar="NAME", help="imdb, or a folder of .txt files, each a class")
    add("--length", type=int, default=200, help="words of a text (default 200)")
    add("--words", type=int, default=20_000, help="size of the vocabulary (default 20000)")
    add("-b", "--batch-size", type=int, default=64, help="default 64")
    add("--train-texts", type=int, metavar="N", help="only the first N")
    add("--test-texts", type=int, metavar="N", help="only the first N")
    options = parser.parse_args(arguments)
    if options.algo == "adaloss" and options.lr is None:
        options.lr = _ADALOSS_LR
    if options.quick:
        options.epochs = [2]
        lower(options, length=64, train_texts=2000, test_texts=2000)
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    return run_recipe("text", options, f"{Path(options.dataset).name}-{options.algo}-seed{options.seed}", make_task)
