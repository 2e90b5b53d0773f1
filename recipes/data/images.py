"""Image data sets by name: from an .npz file, from their authors' files, or from their authors' servers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from recipes.data.cifar import CIFAR10, CIFAR100, CifarFiles
from recipes.data.download import fetch, put_by_hand
from recipes.data.errors import RecipeDataError
from recipes.data.idx import FASHION_MNIST, MNIST, IdxFiles
from recipes.data.npz import KEYS, read_npz
from recipes.data.parts import Parts

_OFFICIAL: dict[str, IdxFiles | CifarFiles] = {
    "mnist": MNIST,
    "fashion_mnist": FASHION_MNIST,
    "cifar10": CIFAR10,
    "cifar100": CIFAR100,
}
IMAGE_DATASETS = tuple(_OFFICIAL)


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


def load_images(name: str, data_dir: Path, download: bool = True) -> Images:
    """The data set ``data_dir``/name.npz, or a known one's official files in ``data_dir``/name/, fetched if missing.

    Raises: RecipeDataError if it is not there and cannot be fetched, or is not what its format says.
    """
    npz = data_dir / f"{name}.npz"
    if npz.is_file():
        return _checked(name, npz, read_npz(npz), None)
    if name not in _OFFICIAL:
        raise RecipeDataError(
            f"no image data set {name!r}: known by name are {', '.join(IMAGE_DATASETS)}; the .npz files in {data_dir} "
            f"are {_npz_files(data_dir)}. Put one with the arrays {KEYS} at {npz}, or give --data-dir"
        )
    source, folder = _OFFICIAL[name], data_dir / name
    alternatives = f"or an .npz with {KEYS} at {npz}, or give --data-dir"
    missing = source.missing(folder)
    if missing and not download:
        raise RecipeDataError(
            f"{name} is neither {npz} nor whole in {folder}, and is not to be downloaded: "
            f"{put_by_hand(missing, folder)}, {alternatives}"
        )
    for file in missing:
        fetch(file, folder, alternatives)
    return _checked(name, folder, source.read(folder), source.classes)


def _npz_files(data_dir: Path) -> str:
    return ", ".join(sorted(path.name for path in data_dir.glob("*.npz"))) or "none"


def _checked(name: str, origin: Path, parts: Parts, classes: int | None) -> Images:
    """What no reader can see from one array; without a known number of classes, it is the largest label + 1."""
    train, test = parts.train_images.shape, parts.test_images.shape
    for part, images, labels in (("training", *parts[:2]), ("test", *parts[2:])):
        if len(images) != len(labels) or len(images) == 0:
            raise RecipeDataError(
                f"{origin}: the {part} part has {len(images):,} images and {len(labels):,} labels, "
                "expected as many of each, and at least one"
            )
    if train[1:] != test[1:]:
        raise RecipeDataError(
            f"{origin}: the training images are {_sizes(train)}, and the test images {_sizes(test)}, expected the same"
        )
    labels = torch.cat((parts.train_labels, parts.test_labels))
    lowest, highest = int(labels.min()), int(labels.max())
    classes = classes or highest + 1
    if lowest < 0 or highest >= classes:
        raise RecipeDataError(
            f"{origin}: the labels go from {lowest} to {highest}, expected them in [0, {max(classes, 1)})"
        )
    return Images(name, classes, *parts)


def _sizes(shape: torch.Size) -> str:
    return "×".join(str(size) for size in shape[1:])
