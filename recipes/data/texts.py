"""Labelled texts for classification: IMDB's reviews, or any folder with one text file a class."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from recipes.data import imdb
from recipes.data.errors import RecipeDataError
from recipes.data.imdb import Example

PADDING, UNKNOWN = 0, 1
_FIRST_WORD = 2  # the index of the most frequent one
_TRAINING_PERCENT = 80
_SEED = 0  # of the order of the examples, which is then the same in every run

# A word, with what an apostrophe joins to it, or one punctuation mark.
_TOKEN = re.compile(r"\w+(?:'\w+)?|[^\w\s]")

Words = list[str]


@dataclass(frozen=True)
class Texts:
    """Texts as rows of word indices, padded on the right: 0 is padding, 1 a word that is not in the vocabulary."""

    vocabulary: int  # how many indices there are, padding and unknown included
    classes: tuple[str, ...]
    train_tokens: Tensor  # int64 [n_train, length]
    train_labels: Tensor  # int64 [n_train], in [0, len(classes))
    test_tokens: Tensor  # int64 [n_test, length]
    test_labels: Tensor  # int64 [n_test]


def load_texts(
    path_or_name: str, data_dir: Path, length: int = 200, words: int = 20_000, download: bool = True
) -> Texts:
    """The first ``length`` words of every text, in lower case; the ``words`` most frequent in training have an index.

    ``"imdb"`` is Maas et al. 2011, in ``data_dir``/imdb/ and fetched if missing. A path is a folder with
    train/{neg,pos}/ and test/{neg,pos}/ like it, or a folder of .txt files: each file is a class, each ``length`` words
    of it an example, the first 80 % of them for training.

    Raises: ValueError for a length or a number of words below 1; RecipeDataError if there are no such texts.
    """
    if length < 1 or words < 1:
        raise ValueError(f"{length=}, {words=}, expected at least 1 of each")
    if path_or_name == imdb.NAME:
        return _from_reviews(imdb.read(data_dir, download), length, words)
    folder = Path(path_or_name)
    if imdb.is_unpacked(folder):
        return _from_reviews(imdb.read_folder(folder), length, words)
    files = sorted(folder.glob("*.txt"))
    if len(files) < 2:
        found = f"has {len(files)} .txt files" if folder.is_dir() else "does not exist"
        raise RecipeDataError(
            f"{path_or_name!r} is not {imdb.NAME!r}, and as a folder it {found}. Give {imdb.NAME!r}, a folder with "
            "train/{neg,pos}/*.txt and test/{neg,pos}/*.txt, or a folder of at least two .txt files, one for each class"
        )
    return _from_files(files, length, words)


def _split(text: str) -> Iterable[str]:
    return (match.group() for match in _TOKEN.finditer(text.lower()))


def _from_reviews(parts: tuple[list[Example], list[Example]], length: int, words: int) -> Texts:
    train, test = (
        [(list(islice(_split(example.text), length)), example.label) for example in examples] for examples in parts
    )
    return _indexed(imdb.CLASSES, train, test, length, words)


def _from_files(files: Sequence[Path], length: int, words: int) -> Texts:
    """Split in order, so that no test example stands between two training examples."""
    train: list[tuple[Words, int]] = []
    test: list[tuple[Words, int]] = []
    for label, file in enumerate(files):
        text = list(_split(imdb.read_text(file)))
        windows = [(text[at : at + length], label) for at in range(0, len(text) - length + 1, length)]
        if len(windows) < 2:
            raise RecipeDataError(
                f"{file} has {len(text)} words, expected at least {2 * length}, an example of {length} for training "
                "and one for testing: give more text, or a smaller length"
            )
        training = len(windows) * _TRAINING_PERCENT // 100
        train += windows[:training]
        test += windows[training:]
    return _indexed(tuple(file.stem for file in files), train, test, length, words)


def _indexed(
    classes: tuple[str, ...],
    train: Sequence[tuple[Words, int]],
    test: Sequence[tuple[Words, int]],
    length: int,
    words: int,
) -> Texts:
    counts = Counter(word for text, _ in train for word in text)
    indices = {word: index for index, (word, _) in enumerate(counts.most_common(words), start=_FIRST_WORD)}
    generator = torch.Generator().manual_seed(_SEED)
    return Texts(
        _FIRST_WORD + len(indices),
        classes,
        *_tensors(train, indices, length, generator),
        *_tensors(test, indices, length, generator),
    )


def _tensors(
    examples: Sequence[tuple[Words, int]], indices: dict[str, int], length: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Tokens [n, length] and labels [n], shuffled: the sources have all examples of a class in a row."""
    rows = [[indices.get(word, UNKNOWN) for word in text] + [PADDING] * (length - len(text)) for text, _ in examples]
    order = torch.randperm(len(examples), generator=generator)
    return torch.tensor(rows)[order], torch.tensor([label for _, label in examples])[order]
