"""The binary version of CIFAR-10 and CIFAR-100: https://www.cs.toronto.edu/~kriz/cifar.html."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from recipes.data.download import RemoteFile, unpack, verify
from recipes.data.errors import RecipeDataError
from recipes.data.parts import Parts

_SHAPE = (3, 32, 32)
_PIXELS = 3 * 32 * 32


def read_cifar(path: Path, label_bytes: int) -> tuple[Tensor, Tensor]:
    """Images uint8 [n, 3, 32, 32] and labels int64 [n] of one .bin file.

    A row is the labels, the finest last, and then the red, the green and the blue plane.

    Raises: RecipeDataError for a file that does not consist of whole rows.
    """
    row = label_bytes + _PIXELS
    size = path.stat().st_size
    if size == 0 or size % row:
        raise RecipeDataError(f"{path} has {size:,} bytes, expected rows of {row:,}: delete it and fetch it again")
    rows = torch.from_numpy(np.fromfile(path, np.uint8)).view(-1, row)
    images = rows[:, label_bytes:].reshape(-1, *_SHAPE)
    return images, rows[:, label_bytes - 1].long()


@dataclass(frozen=True)
class CifarFiles:
    """A data set in .bin files, which lie in one folder or below it as the archive unpacks; or still in the archive."""

    classes: int
    archive: RemoteFile
    subfolder: str
    train: tuple[str, ...]
    test: str
    label_bytes: int

    def missing(self, folder: Path) -> list[RemoteFile]:
        """The files to fetch before ``read``."""
        there = self._unpacked(folder) or (folder / self.archive.name).is_file()
        return [] if there else [self.archive]

    def read(self, folder: Path) -> Parts:
        unpacked = self._unpacked(folder)
        if unpacked is None:
            archive = folder / self.archive.name
            verify(archive, self.archive)
            unpack(archive, folder)
            unpacked = folder / self.subfolder
        train = [read_cifar(unpacked / name, self.label_bytes) for name in self.train]
        images, labels = (torch.cat(tensors) for tensors in zip(*train, strict=True))
        return Parts(images, labels, *read_cifar(unpacked / self.test, self.label_bytes))

    def _unpacked(self, folder: Path) -> Path | None:
        for place in (folder, folder / self.subfolder):
            if all((place / name).is_file() for name in (*self.train, self.test)):
                return place
        return None


_TORONTO = "https://www.cs.toronto.edu/~kriz"
CIFAR10 = CifarFiles(
    10,
    RemoteFile(f"{_TORONTO}/cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530", 170_052_171),
    "cifar-10-batches-bin",
    ("data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"),
    "test_batch.bin",
    label_bytes=1,
)
CIFAR100 = CifarFiles(
    100,
    RemoteFile(f"{_TORONTO}/cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8", 168_513_733),
    "cifar-100-binary",
    ("train.bin",),
    "test.bin",
    label_bytes=2,  # the coarse label, then the fine one
)
