"""Images on disk as ImageNet has them, a folder for every class, cropped as its training and its evaluation crop.

The crops of an image are drawn from (seed, epoch, image) alone: they do not depend on the worker that reads it, the
process, or whether the run was stopped before.
"""

import math
import signal
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from recipes.data import RecipeDataError
from recipes.data.images import epoch_order
from recipes.world import World

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])  # of ImageNet's pixels in [0, 1]

_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
_ATTEMPTS = 10
_CROPPING = 2  # what the draws are for, beside the order (0) and the augmentation (1) of recipes.data.images


Files = list[tuple[Path, int]]  # with their labels


class Draw(NamedTuple):
    """An image in an epoch of the training, or in an evaluation."""

    epoch: int
    image: int  # its place among the files


def find_images(path: Path, count: int | None = None) -> tuple[list[str], Files]:
    """The classes' names, and the image files of ``path``/CLASS/, class by class in the order of the names.

    With ``count`` so many of them, evenly over all and so over the classes.
    """
    classes = sorted(folder.name for folder in path.iterdir() if folder.is_dir()) if path.is_dir() else []
    if len(classes) < 2:
        raise RecipeDataError(f"{path} has {len(classes)} folders: wanted CLASS/*.jpg, at least two classes")
    files: Files = []
    for label, name in enumerate(classes):
        found = sorted(file for file in (path / name).iterdir() if file.suffix.lower() in _SUFFIXES)
        if not found:
            raise RecipeDataError(f"{path / name} has no image: wanted files that end in {', '.join(_SUFFIXES)}")
        files += [(file, label) for file in found]
    chosen = min(count or len(files), len(files))
    return classes, [files[number * len(files) // chosen] for number in range(chosen)]


def random_box(width: int, height: int, random: np.random.Generator) -> tuple[int, int, int, int]:
    """A crop (left, top, right, bottom) of random area and shape: the area uniform in [0.08, 1] of the image's.

    log(width / height) of it is uniform between 3 : 4 and 4 : 3. Where ten draws do not fit into the image, the largest
    crop from its middle whose shape is allowed. Szegedy et al. 2015, arXiv 1409.4842, section 6.
    """
    for _ in range(_ATTEMPTS):
        area = width * height * random.uniform(0.08, 1.0)
        ratio = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = (int(random.integers(rest + 1)) for rest in (width - w, height - h))
            return left, top, left + w, top + h
    w, h = min(width, max(1, round(height * 4 / 3))), min(height, max(1, round(width * 4 / 3)))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


@dataclass(frozen=True)
class Crops(Dataset[tuple[Tensor, int]]):
    """uint8 [3, side, side] and the label, for a :class:`Draw`.

    In training random crops, flipped at random. In evaluation the middle of the image, scaled so that its shorter side
    is 8/7 of ``side`` (256 for 224). Raises RecipeDataError for a file that is no image.
    """

    files: Files
    side: int
    seed: int | None = None  # of the training; None in an evaluation

    def __getitem__(self, draw: Draw) -> tuple[Tensor, int]:
        file, label = self.files[draw.image]
        try:
            with Image.open(file) as opened:
                image = opened.convert("RGB")
        except (OSError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise RecipeDataError(f"{file} is no image that can be read ({error}): replace or remove it") from error
        crop = self._middle(image) if self.seed is None else self._random(image, self.seed, draw)
        return torch.from_numpy(np.array(crop).transpose(2, 0, 1).copy()), label

    def _random(self, image: Image.Image, seed: int, draw: Draw) -> Image.Image:
        random = np.random.default_rng(np.random.SeedSequence((_CROPPING, seed, *draw)))
        box = random_box(*image.size, random)
        crop = image.resize((self.side, self.side), Image.Resampling.BILINEAR, box=box)
        return crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if random.random() < 0.5 else crop

    def _middle(self, image: Image.Image) -> Image.Image:
        scale = max(round(self.side * 8 / 7), self.side) / min(image.size)
        width, height = (max(self.side, round(length * scale)) for length in image.size)
        left, top = (width - self.side) // 2, (height - self.side) // 2
        scaled = image.resize((width, height), Image.Resampling.BILINEAR)
        return scaled.crop((left, top, left + self.side, top + self.side))


def training_draws(
    count: int, batch_size: int, world: World, seed: int, epoch: int, start: int
) -> Iterator[list[Draw]]:
    """This process's part of every batch of the epoch from ``start`` on, the order drawn from (seed, epoch).

    An epoch is its full batches: what is left at its end, other images every time, the processes cannot share evenly.
    """
    order = epoch_order(count, seed, epoch).tolist()
    for step in range(start, count // batch_size):
        batch = order[step * batch_size : (step + 1) * batch_size]
        yield [Draw(epoch, index) for index in batch[world.rank :: world.size]]


def evaluation_draws(count: int, batch_size: int, world: World) -> Iterator[list[Draw]]:
    """This process's part of ``count`` images, in lists of ``batch_size`` and a shorter one at the end."""
    mine = [Draw(0, index) for index in range(world.rank, count, world.size)]
    return (mine[first : first + batch_size] for first in range(0, len(mine), batch_size))


def read(crops: Crops, batches: Iterable[Sequence[Draw]], workers: int, pin: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches as (uint8 [batch, 3, height, width], int64 [batch]), read by ``workers`` processes; 0: by this one.

    Raises:
        RecipeDataError: for an image that cannot be read.
    """
    loader: DataLoader[Any] = DataLoader(
        crops,
        batch_sampler=batches,  # type: ignore[arg-type, unused-ignore]
        num_workers=workers,
        worker_init_fn=_ignore_interruption,
        pin_memory=pin,
        # The loader seeds its workers, which draw nothing from it: torch's own generator must not advance, or a
        # resumed run, which starts one loader more, would draw other dropout.
        generator=torch.Generator(),
    )
    try:
        yield from loader
    except RecipeDataError as error:  # a worker's has its traceback in front
        raise RecipeDataError(str(error).strip().rpartition("RecipeDataError: ")[2]) from None


def _ignore_interruption(worker: int) -> None:
    """Ctrl-C reaches the workers too; the run that they read for ends its step and saves first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
