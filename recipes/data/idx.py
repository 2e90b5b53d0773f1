"""The idx format of MNIST and Fashion-MNIST: http://yann.lecun.com/exdb/mnist/."""

from __future__ import annotations

import gzip
import math
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from recipes.data.download import RemoteFile
from recipes.data.errors import RecipeDataError
from recipes.data.parts import Parts

_UNSIGNED_BYTE = 8  # the format's code for the element type


def read_idx(path: Path, dimensions: int) -> Tensor:
    """The uint8 array of an idx file, gzipped if its name ends in .gz.

    Two zero bytes, the element type, the number of dimensions, each dimension as a big-endian 32-bit integer, the data.

    Raises: RecipeDataError for another format, element type or number of dimensions, and for a truncated file.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise RecipeDataError(f"{path} is no whole gzip file ({error}): delete it and fetch it again") from error
    magic = bytes((0, 0, _UNSIGNED_BYTE, dimensions))
    if content[:4] != magic:
        raise RecipeDataError(
            f"{path} starts with {content[:4].hex(' ')}, expected {magic.hex(' ')}: "
            f"an idx file of unsigned bytes in {dimensions} dimensions"
        )
    header = 4 + 4 * dimensions
    shape = [int.from_bytes(content[at : at + 4], "big") for at in range(4, header, 4)]
    if len(content) - header != math.prod(shape):
        raise RecipeDataError(
            f"{path} has {len(content):,} bytes, and its header with the shape {shape} asks for "
            f"{header + math.prod(shape):,}: delete it and fetch it again"
        )
    array = np.frombuffer(bytearray(content), np.uint8, offset=header)  # a bytearray, since tensors must be writable
    return torch.from_numpy(array.reshape(shape))


@dataclass(frozen=True)
class IdxFiles:
    """A data set in four idx files, which lie in one folder, gzipped or not."""

    classes: int
    train_images: RemoteFile
    train_labels: RemoteFile
    test_images: RemoteFile
    test_labels: RemoteFile

    def missing(self, folder: Path) -> list[RemoteFile]:
        """The files to fetch before ``read``."""
        files = (self.train_images, self.train_labels, self.test_images, self.test_labels)
        return [file for file in files if not any(path.is_file() for path in _candidates(file, folder))]

    def read(self, folder: Path) -> Parts:
        def images(file: RemoteFile) -> Tensor:
            return read_idx(_found(file, folder), 3).unsqueeze(1)

        def labels(file: RemoteFile) -> Tensor:
            return read_idx(_found(file, folder), 1).long()

        return Parts(
            images(self.train_images), labels(self.train_labels), images(self.test_images), labels(self.test_labels)
        )


def _candidates(file: RemoteFile, folder: Path) -> tuple[Path, Path]:
    return folder / file.name.removesuffix(".gz"), folder / file.name


def _found(file: RemoteFile, folder: Path) -> Path:
    return next(path for path in _candidates(file, folder) if path.is_file())


_MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist"
MNIST = IdxFiles(
    10,
    RemoteFile(f"{_MNIST}/train-images-idx3-ubyte.gz", "f68b3c2dcbeaaa9fbdd348bbdeb94873", 9_912_422),
    RemoteFile(f"{_MNIST}/train-labels-idx1-ubyte.gz", "d53e105ee54ea40749a09fcbcd1e9432", 28_881),
    RemoteFile(f"{_MNIST}/t10k-images-idx3-ubyte.gz", "9fb629c4189551a2d022fa330f9573f3", 1_648_877),
    RemoteFile(f"{_MNIST}/t10k-labels-idx1-ubyte.gz", "ec29112dd5afa0611ce80d1b7f02629c", 4_542),
)
_FASHION = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"  # the authors serve it without TLS
FASHION_MNIST = IdxFiles(
    10,
    RemoteFile(f"{_FASHION}/train-images-idx3-ubyte.gz", "8d4fb7e6c68d591d4c3dfef9ec88bf0d", 26_421_880),
    RemoteFile(f"{_FASHION}/train-labels-idx1-ubyte.gz", "25c81989df183df01b3e8a0aad5dffbe", 29_515),
    RemoteFile(f"{_FASHION}/t10k-images-idx3-ubyte.gz", "bef4ecab320f06d8554ea6380940ec79", 4_422_102),
    RemoteFile(f"{_FASHION}/t10k-labels-idx1-ubyte.gz", "bb300cfdad3c16e7a12a480ee83cd310", 5_148),
)
