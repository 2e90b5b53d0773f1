"""Image data sets by name: from an .npz file, which anyone can write with numpy, or by torchvision."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recipes.data import TORCHVISION, RecipeDataError, package

KEYS = ("x_train", "y_train", "x_test", "y_test")

_OF_TORCHVISION = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "cifar10": "CIFAR10", "cifar100": "CIFAR100"}
IMAGE_DATASETS = tuple(_OF_TORCHVISION)


@dataclass(frozen=True)
class Images:
    """Labelled images; the pixels are bytes and the labels int64 in [0, classes)."""

    name: str
    classes: int
    train_images: Tensor  # [n_train, channels, height, width]
    train_labels: Tensor  # [n_train]
    test_images: Tensor  # [n_test, channels, height, width]
    test_labels: Tensor  # [n_test]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width)"""
        _, channels, height, width = self.train_images.shape
        return channels, height, width

    def first(self, training: int | None, test: int | None) -> Images:
        """The first ``training`` and ``test`` images; None takes all."""
        some = self.train_images[:training], self.train_labels[:training]
        return Images(self.name, self.classes, *some, self.test_images[:test], self.test_labels[:test])

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, float32 [channels], of the training images' pixels in [0, 1]."""
        values = torch.arange(256, dtype=torch.float64) / 255
        means, deviations = [], []
        # A pixel has one of 256 values, so counting them is exact and needs no copy of the images in floating point.
        for channel in self.train_images.unbind(1):
            fractions = torch.bincount(channel.flatten(), minlength=256) / channel.numel()
            mean = (fractions * values).sum()
            means.append(mean)
            deviations.append((fractions * (values - mean) ** 2).sum().sqrt())
        return torch.stack(means).float(), torch.stack(deviations).float()


def load_images(name: str, data_dir: Path) -> Images:
    """The data set ``data_dir``/name.npz, or one that torchvision knows, in ``data_dir``/name/ and fetched if missing.

    Raises:
        RecipeDataError: it is not there and cannot be fetched, or is of another form.
    """
    npz = data_dir / f"{name}.npz"
    put = f"put an .npz with the arrays {', '.join(KEYS)} at {npz}, or give --data-dir"
    if npz.is_file():
        return _checked(name, npz, _read_npz(npz))
    if name not in _OF_TORCHVISION:
        there = ", ".join(sorted(path.name for path in data_dir.glob("*.npz"))) or "none"
        raise RecipeDataError(
            f"no image data set {name!r}: known by name are {', '.join(IMAGE_DATASETS)}; the .npz files in {data_dir} "
            f"are {there}. Else {put}"
        )
    try:
        make = getattr(package("torchvision.datasets", TORCHVISION), _OF_TORCHVISION[name])
        parts = [make(data_dir / name, train=train, download=True) for train in (True, False)]
    except (OSError, RuntimeError) as error:  # of the import, the network or the disk; of a wrong checksum
        raise RecipeDataError(f"{name} cannot be had by torchvision ({error}): mend that, or {put}") from error
    arrays = [np.asarray(values) for part in parts for values in (part.data, part.targets)]
    return _checked(name, data_dir / name, dict(zip(KEYS, arrays, strict=True)))


def _read_npz(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    try:
        # Without pickles, so that reading a file from elsewhere runs no code of it.
        with np.load(path, allow_pickle=False) as archive:
            return {key: archive[key] for key in KEYS}
    # A KeyError names an array that is missing; a single array, an .npy, is no context manager.
    except (OSError, ValueError, TypeError, AttributeError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise RecipeDataError(f"{path} is no .npz file with the arrays {', '.join(KEYS)}: {error}") from error


def _checked(name: str, origin: Path, arrays: Mapping[str, np.ndarray[Any, Any]]) -> Images:
    """x: uint8 [n, h, w] or [n, h, w, channels] with at most 4 channels; y: integers from 0, n of them.

    The number of classes is the largest label + 1.
    """
    images: dict[str, Tensor] = {}
    labels: dict[str, Tensor] = {}
    for part in ("train", "test"):
        x, y = arrays[f"x_{part}"], arrays[f"y_{part}"]
        x = x[..., None] if x.ndim == 3 else x
        if x.dtype != np.uint8 or x.ndim != 4 or x.shape[3] > 4:
            wanted = "uint8 [n, height, width] or [n, height, width, channels] with at most 4 channels"
            raise RecipeDataError(f"{origin}: x_{part} is {x.dtype} {list(x.shape)}, expected {wanted}")
        if not np.issubdtype(y.dtype, np.integer) or y.size != len(x) or not y.size or y.min() < 0:
            wanted = f"integers from 0, one for each of {len(x)} images"
            raise RecipeDataError(f"{origin}: y_{part} is {y.dtype} {list(y.shape)}, expected {wanted}")
        images[part] = torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))
        labels[part] = torch.from_numpy(y.reshape(-1).astype(np.int64))
    if images["train"].shape[1:] != images["test"].shape[1:]:
        sizes = [list(one.shape[1:]) for one in images.values()]
        raise RecipeDataError(f"{origin}: training images are {sizes[0]}, and test images {sizes[1]}")
    classes = 1 + max(int(one.max()) for one in labels.values())
    return Images(name, classes, images["train"], labels["train"], images["test"], labels["test"])
