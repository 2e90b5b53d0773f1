"""``python -m recipes text``: classification of texts by an LSTM, AdaLoss's text experiment in small.

Wu et al. 2022 (arXiv 2109.08282) train an LSTM on texts with AdaLoss and its baselines; here on IMDB's reviews (Maas et
al. 2011), by Hugging Face ``datasets``, or on a folder of .txt files, to tell which of them a piece is from::

    python -m recipes text --dataset imdb --epochs 10 --b0 0.1
    python -m recipes text --dataset some_folder --algo adagrad_norm
"""

import argparse
import math
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from recipes.command import lower, make_parser, positive, run_recipe
from recipes.data import RecipeDataError, package
from recipes.data.corpus import read_lines
from recipes.data.images import generator
from recipes.image import classification_metrics
from recipes.models.awd_lstm import lstm_kernels
from recipes.training import Task

_PADDING, _UNKNOWN, _FIRST_WORD = 0, 1, 2  # indices; the last is that of the most frequent word
_WORDS = 20_000  # of the vocabulary
_WORD = re.compile(r"\w+(?:'\w+)?|[^\w\s]")  # with what an apostrophe joins to it; or one punctuation mark

Examples = list[tuple[list[str], int]]  # the words of a text, and its class


def read_imdb(length: int) -> list[Examples]:
    """The first ``length`` words of every review, negative 0 and positive 1, for training and for testing."""
    datasets = package("datasets", "pip install datasets, or give --dataset a folder of .txt files")
    reviews = datasets.load_dataset("stanfordnlp/imdb")
    return [
        [(_WORD.findall(row["text"].replace("<br />", " ").lower())[:length], row["label"]) for row in reviews[part]]
        for part in ("train", "test")
    ]


def read_folder(folder: Path, length: int) -> list[Examples]:
    """Every .txt file is a class, each ``length`` words of it an example; the first 80 % of them are for training."""
    files, parts = sorted(folder.glob("*.txt")), [Examples(), Examples()]
    if len(files) < 2:
        raise RecipeDataError(f"--dataset {folder} has {len(files)} .txt files: wanted two, each a class, or imdb")
    for label, file in enumerate(files):
        text = _WORD.findall("".join(read_lines(file)).lower())
        windows = [(text[at : at + length], label) for at in range(0, len(text) - length + 1, length)]
        if len(windows) < 2:
            raise RecipeDataError(f"{file} has {len(text)} words, expected at least {2 * length}: lower --length")
        split = len(windows) * 80 // 100  # in order, so that no test example stands between two training examples
        parts[0] += windows[:split]
        parts[1] += windows[split:]
    return parts


def indexed(parts: Sequence[Examples], words: int = _WORDS) -> tuple[int, list[tuple[Tensor, Tensor]]]:
    """How many indices there are, and of every part the tokens [n, longest] and the labels [n], int64, shuffled.

    The ``words`` most frequent words of the first part have an index of their own. Texts are padded at their end.
    """
    counts = Counter(word for text, _ in parts[0] for word in text)
    indices = {word: index for index, (word, _) in enumerate(counts.most_common(words), start=_FIRST_WORD)}
    draws = torch.Generator().manual_seed(0)  # the sources have all examples of a class in a row
    tensors = []
    for part in parts:
        rows = [torch.tensor([indices.get(word, _UNKNOWN) for word in text], dtype=torch.int64) for text, _ in part]
        order = torch.randperm(len(part), generator=draws)
        tokens = pad_sequence(rows, batch_first=True, padding_value=_PADDING)
        tensors.append((tokens[order], torch.tensor([label for _, label in part])[order]))
    return _FIRST_WORD + len(indices), tensors


class TextClassifier(nn.Module):
    """logits = W · mean over the real tokens of LSTM(embedding(tokens)) + b: [batch, steps] -> [batch, classes]."""

    def __init__(self, vocabulary: int, classes: int, embedding: int = 100, hidden: int = 128) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, embedding, padding_idx=_PADDING)
        self.lstm = nn.LSTM(embedding, hidden, batch_first=True)
        self.classifier = nn.Linear(hidden, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        real = (tokens != _PADDING).unsqueeze(2)  # padding is at the end, where no real token's output depends on it
        with lstm_kernels():
            outputs, _ = self.lstm(self.embedding(tokens))
        mean = outputs.masked_fill(~real, 0).sum(1) / real.sum(1).clamp(min=1)
        logits: Tensor = self.classifier(mean)
        return logits


class TextTask(Task):
    """Cross-entropy on texts, in batches whose order (seed, epoch) alone decides."""

    def __init__(self, options: argparse.Namespace, device: torch.device) -> None:
        length = options.length
        parts = read_imdb(length) if options.dataset == "imdb" else read_folder(Path(options.dataset), length)
        vocabulary, (train, test) = indexed(parts)
        self._train, self._test = ([one[: options.texts].to(device) for one in part] for part in (train, test))
        self._batch_size, self._seed = options.batch_size, options.seed
        self.model = TextClassifier(vocabulary, int(train[1].max()) + 1).to(device)

    def steps(self, epoch: int) -> int:
        batches: int = math.ceil(len(self._train[1]) / self._batch_size)
        return batches

    def batches(self, epoch: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        tokens, labels = self._train
        order = torch.randperm(len(labels), generator=generator(self._seed, epoch)).to(labels.device)
        for chosen in order.split(self._batch_size)[start:]:
            yield tokens[chosen], labels[chosen]

    def evaluate(self) -> dict[str, float]:
        return classification_metrics(self.model, zip(*(part.split(500) for part in self._test), strict=True))


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = make_parser("text", "Classification of texts by an LSTM.", epochs="10", algo="adaloss")
    add = parser.add_argument_group("texts").add_argument
    add("--dataset", default="imdb", metavar="NAME", help="imdb, or a folder of .txt files, each a class")
    add("--length", type=positive, default=200, help="words of a text (default 200)")
    add("-b", "--batch-size", type=positive, default=64, help="default 64")
    add("--texts", type=positive, metavar="N", help="only the first N of each part")
    options = parser.parse_args(arguments)
    if options.algo == "adaloss" and options.lr is None:
        options.lr = 1.0  # three epochs on two classes took the loss to 0.64 with AdaLoss's own 0.1, to 0.03 with 1
    if options.quick:
        options.epochs = [2]
        lower(options, length=64, texts=2000)
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    return run_recipe("text", options, f"{Path(options.dataset).name}-{options.algo}-seed{options.seed}", TextTask)


if __name__ == "__main__":
    sys.exit(main())
