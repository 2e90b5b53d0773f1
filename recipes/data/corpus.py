"""Running text for language models: Penn Treebank, WikiText-2, or any text file."""

from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from recipes.data import RecipeDataError

END_OF_LINE, UNKNOWN = "<eos>", "<unk>"
LEVELS = ("word", "character")  # what a token is


@dataclass(frozen=True)
class Corpus:
    """Three texts as indices into one vocabulary, which is the training text's, and ``<unk>`` for all else."""

    vocabulary: list[str]
    train: Tensor  # int64 [tokens]
    valid: Tensor  # int64 [tokens]
    test: Tensor  # int64 [tokens]

    @classmethod
    def load(cls, path: Path, level: str) -> "Corpus":
        """A folder with train.txt, valid.txt and test.txt, or one file, whose lines are split 90 to 5 to 5 in order.

        Words end at white space, and every line ends in ``<eos>``.
        """
        texts = [_tokens(lines, level) for lines in _lines(path)]
        vocabulary = list(dict.fromkeys([*texts[0], UNKNOWN]))  # in order of first appearance
        indices = {token: index for index, token in enumerate(vocabulary)}
        unknown = indices[UNKNOWN]
        return cls(vocabulary, *(torch.tensor([indices.get(token, unknown) for token in text]) for text in texts))


def columns(tokens: Tensor, batch: int) -> Tensor:
    """[steps, batch] from [tokens]: each column a stretch of the text; the rest that fills no row is cut off."""
    steps = len(tokens) // batch
    return tokens[: steps * batch].view(batch, steps).t().contiguous()


def _lines(path: Path) -> list[list[str]]:
    """The lines of the training, validation and test text."""
    if path.is_file():
        lines = read_lines(path)
        train, valid = len(lines) * 90 // 100, len(lines) * 95 // 100
        return [lines[:train], lines[train:valid], lines[valid:]]
    files = [path / f"{part}.txt" for part in ("train", "valid", "test")]
    if missing := [file.name for file in files if not file.is_file()]:
        if not path.is_dir():
            raise RecipeDataError(f"there is no {path}: put it there, or give --data-dir, where it lies")
        raise RecipeDataError(
            f"{path} has no {', '.join(missing)}: wanted train.txt, valid.txt and test.txt (those of Penn Treebank or "
            "WikiText-2 under these names), or one text file, which is split 90 to 5 to 5"
        )
    return [read_lines(file) for file in files]


def read_lines(path: Path) -> list[str]:
    """Raises RecipeDataError for a file that is empty or no UTF-8 text."""
    try:
        with path.open(encoding="utf-8") as file:
            lines = file.readlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeDataError(f"cannot read {path} as UTF-8 text: {error}") from error
    if not lines:
        raise RecipeDataError(f"{path} is empty, expected text")
    return lines


def _tokens(lines: list[str], level: str) -> list[str]:
    if level == "character":
        return list(chain.from_iterable(lines))
    return [word for line in lines for word in (*line.split(), END_OF_LINE)]
