"""Image data sets by name, from an .npz file, which anyone can write with numpy, or by torchvision; and their batches.

Batches go by number, so that a run resumed in the middle of an epoch sees what it would have seen.
"""

import math
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from recipes.data import TORCHVISION, RecipeDataError, package

_PADDING = 4  # pixels on every side, as He et al. 2016 have it
_ORDER, _AUGMENTATION = 0, 1  # what a generator is for, so that no two share their draws

KEYS = ("x_train", "y_train", "x_test", "y_test")

_OF_TORCHVISION = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "cifar10": "CIFAR10", "cifar100": "CIFAR100"}
IMAGE_DATASETS = tuple(_OF_TORCHVISION)


@dataclass(frozen=True)
class Images:
    """Labelled images; the pixels are bytes and the labels int64 in [0, classes)."""

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

    def first(self, training: int | None, test: int | None) -> "Images":
        """The first ``training`` and ``test`` images; None takes all."""
        some = self.train_images[:training], self.train_labels[:training]
        return Images(self.classes, *some, self.test_images[:test], self.test_labels[:test])

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
        return _checked(npz, _read_npz(npz))
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
    return _checked(data_dir / name, dict(zip(KEYS, arrays, strict=True)))


def _read_npz(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    told = f"{path} is no .npz file with the arrays {', '.join(KEYS)}"
    if not zipfile.is_zipfile(path):
        raise RecipeDataError(f"{told}, but a file of another kind: write one by numpy.savez")
    try:
        # Without pickles, so that reading a file from elsewhere runs no code of it.
        with np.load(path, allow_pickle=False) as archive:
            return {key: archive[key] for key in KEYS}
    # A KeyError names an array that is missing.
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        holds_objects = "allow_pickle" in str(error)  # numpy's advice, which would run the file's code
        reason = "one of them holds Python objects, where numbers are wanted" if holds_objects else error
        raise RecipeDataError(f"{told}: {reason}") from error


def _checked(origin: Path, arrays: Mapping[str, np.ndarray[Any, Any]]) -> Images:
    """x: uint8 [n, h, w] or [n, h, w, channels] with at most 4 channels; y: integers from 0, n of them.

    The number of classes is the largest label + 1.
    """
    images: list[Tensor] = []
    labels: list[Tensor] = []
    for part in ("train", "test"):
        x, y = arrays[f"x_{part}"], arrays[f"y_{part}"]
        x = x[..., None] if x.ndim == 3 else x
        pixels = x.dtype == np.uint8 and x.ndim == 4 and x.shape[3] <= 4
        if not (pixels and np.issubdtype(y.dtype, np.integer) and y.size == len(x) and y.size):
            raise RecipeDataError(
                f"{origin}: x_{part} is {x.dtype} {list(x.shape)} and y_{part} {y.dtype} {list(y.shape)}, expected "
                "uint8 [n, height, width] or [n, height, width, channels], at most 4 channels, and n integers from 0"
            )
        if y.min() < 0:
            raise RecipeDataError(f"{origin}: y_{part} has the label {y.min()}, and classes are counted from 0")
        images.append(torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2))))
        labels.append(torch.from_numpy(y.reshape(-1).astype(np.int64)))
    sizes = [list(one.shape[1:]) for one in images]
    if sizes[0] != sizes[1]:
        raise RecipeDataError(f"{origin}: training images are {sizes[0]}, and test images {sizes[1]}")
    return Images(1 + max(int(one.max()) for one in labels), images[0], labels[0], images[1], labels[1])


def generator(*key: int) -> torch.Generator:
    """A generator of its own for every key. On the CPU, so that the draws are the same for every device."""
    state = np.random.SeedSequence(key).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


def epoch_order(count: int, seed: int, epoch: int) -> Tensor:
    """A permutation of ``count`` numbers, int64 on the CPU, drawn from (seed, epoch)."""
    return torch.randperm(count, generator=generator(_ORDER, seed, epoch))


def normalised(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """(images / 255 − mean) / std in float32: images uint8 [n, channels, height, width], mean and std [channels]."""
    mean, std = (moment.to(images.device, torch.float32).view(-1, 1, 1) * 255 for moment in (mean, std))
    return images.float().sub_(mean).div_(std)


def augmented(images: Tensor, draws: torch.Generator) -> Tensor:
    """Every image padded by 4 black pixels, cropped at random to its size again, and flipped at random.

    images: [n, channels, height, width], any dtype. He et al. 2016, arXiv 1512.03385, section 4.2.
    """
    n, _, height, width = images.shape
    offsets = torch.randint(2 * _PADDING + 1, (2, n), generator=draws)
    drawn = torch.cat((offsets, torch.randint(2, (1, n), generator=draws)))
    # A GPU copies page-locked memory alone without making the host wait for its queue.
    drawn = drawn.pin_memory().to(images.device, non_blocking=True) if images.is_cuda else drawn
    top, left, flips = drawn
    # Views of every crop there is, [n, channels, 9, 9, height, width], of which one an image is copied.
    crops = pad(images, (_PADDING,) * 4).unfold(2, height, 1).unfold(3, width, 1)
    cropped = crops[torch.arange(n, device=images.device), :, top, left]
    return torch.where(flips.view(n, 1, 1, 1) == 1, cropped.flip(3), cropped)


@dataclass
class ImageBatches:
    """The batches of every epoch: the order is drawn from (seed, epoch), the augmentation from (seed, epoch, step).

    An epoch has every image once, in full batches and, unless they divide evenly, one smaller batch at its end.
    """

    images: Tensor  # uint8 [n, channels, height, width]
    labels: Tensor  # int64 [n]
    batch_size: int
    seed: int  # at least 0
    mean: Tensor  # [channels], of pixels in [0, 1]
    std: Tensor  # [channels]
    augment: bool = False
    device: torch.device | str | None = None  # of the batches; the images' own by default
    _order: tuple[int, Tensor] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if not bool((self.std > 0).all()):
            raise ValueError(f"std={self.std.tolist()}, expected above 0: a channel of one colour cannot be normalised")
        self.images, self.labels = self.images.to(self.device), self.labels.to(self.device)
        self.mean, self.std = self.mean.to(self.images.device), self.std.to(self.images.device)

    def __len__(self) -> int:
        """Batches in an epoch."""
        return math.ceil(len(self.images) / self.batch_size)

    def batch(self, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        """Normalised images, float32 [b, channels, height, width], and their labels, int64 [b]; step < len(self)."""
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, epoch_order(len(self.images), self.seed, epoch).to(self.images.device)
        chosen = self._order[1][step * self.batch_size : (step + 1) * self.batch_size]
        images = self.images[chosen]
        if self.augment:
            images = augmented(images, generator(_AUGMENTATION, self.seed, epoch, step))
        return normalised(images, self.mean, self.std), self.labels[chosen]


def evaluation_batches(
    images: Tensor, labels: Tensor, batch_size: int, mean: Tensor, std: Tensor, device: torch.device | str | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Every image once and in order, normalised as in training, with its label; images uint8 [n, channels, h, w]."""
    for some, their in zip(images.split(batch_size), labels.split(batch_size), strict=True):
        yield normalised(some.to(device), mean, std), their.to(device)
