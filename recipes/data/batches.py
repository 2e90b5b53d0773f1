"""Batches of images by number, so that a run resumed in the middle of an epoch sees what it would have seen."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

_PADDING = 4  # pixels on every side, as He et al. 2016 have it
_ORDER, _AUGMENTATION = 0, 1  # what a generator is for, so that no two share their draws


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
