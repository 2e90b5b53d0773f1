"""Images on disk as ImageNet has them, a folder for every class, cropped as its training and its evaluation crop.

The crops of an image are drawn from (seed, epoch, image) alone: they do not depend on the worker that reads it, the
process, or whether the run was stopped before.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset

from recipes.data.errors import RecipeDataError

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])  # of ImageNet's pixels in [0, 1]

_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
_AREA = (0.08, 1.0)  # of the crop, as a fraction of the image's
_RATIO = (3 / 4, 4 / 3)  # of the crop's width to its height
_ATTEMPTS = 10
_CROPPING = 2  # what the draws are for, beside the order (0) and the augmentation (1) of recipes.data.batches

Box = tuple[int, int, int, int]  # left, top, right, bottom


class Draw(NamedTuple):
    """An image in an epoch of the training."""

    epoch: int
    image: int  # its place in the folder


@dataclass(frozen=True)
class ImageFolder:
    """The image files of ``path``/CLASS/, class by class in the order of the classes' names."""

    path: Path
    classes: tuple[str, ...]
    files: tuple[Path, ...]
    labels: tuple[int, ...]  # of the files

    @classmethod
    def find(cls, path: Path) -> ImageFolder:
        """Raises RecipeDataError when there is no folder, no class in it, or a class without images."""
        if not path.is_dir():
            raise RecipeDataError(f"{path} is no folder: wanted {path}/CLASS/*.jpg, a folder for every class")
        classes = sorted(folder.name for folder in path.iterdir() if folder.is_dir())
        if len(classes) < 2:
            raise RecipeDataError(f"{path} has {len(classes)} folders: wanted one for every class, at least two")
        files: list[Path] = []
        labels: list[int] = []
        for label, name in enumerate(classes):
            found = sorted(file for file in (path / name).iterdir() if file.suffix.lower() in _SUFFIXES)
            if not found:
                raise RecipeDataError(f"{path / name} has no image: wanted files that end in {', '.join(_SUFFIXES)}")
            files += found
            labels += [label] * len(found)
        return cls(path, tuple(classes), tuple(files), tuple(labels))

    def __len__(self) -> int:
        return len(self.files)

    def spread(self, count: int | None) -> ImageFolder:
        """``count`` of the images, evenly over all of them and so over the classes; None takes all."""
        if count is None or count >= len(self):
            return self
        chosen = [number * len(self) // count for number in range(count)]
        files, labels = tuple(self.files[index] for index in chosen), tuple(self.labels[index] for index in chosen)
        return ImageFolder(self.path, self.classes, files, labels)

    def image(self, index: int) -> Image.Image:
        """In RGB. Raises RecipeDataError for a file that is broken or no image."""
        try:
            with Image.open(self.files[index]) as image:
                converted: Image.Image = image.convert("RGB")
        except (OSError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise RecipeDataError(
                f"{self.files[index]} is no image that can be read ({error}): replace or remove it"
            ) from error
        return converted


def random_box(width: int, height: int, random: np.random.Generator) -> Box:
    """A crop of random area and shape: the area uniform in [0.08, 1] of the image's, log(width / height) uniform.

    The shape is between 3 : 4 and 4 : 3. Where ten draws do not fit into the image, the largest crop from its middle
    whose shape is allowed. Szegedy et al. 2015, arXiv 1409.4842, section 6.
    """
    for _ in range(_ATTEMPTS):
        area = width * height * random.uniform(*_AREA)
        ratio = math.exp(random.uniform(math.log(_RATIO[0]), math.log(_RATIO[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = (int(random.integers(rest + 1)) for rest in (width - w, height - h))
            return left, top, left + w, top + h
    w, h = min(width, max(1, round(height * _RATIO[1]))), min(height, max(1, round(width / _RATIO[0])))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def pixels(image: Image.Image) -> Tensor:
    """uint8 [3, height, width]"""
    return torch.from_numpy(np.array(image).transpose(2, 0, 1).copy())


class TrainingImages(Dataset[tuple[Tensor, int] | RecipeDataError]):
    """Random crops, flipped at random: uint8 [3, side, side] and the label, for a :class:`Draw`.

    A broken image is returned as the error, not raised: raised in a worker, it would come with the worker's traceback.
    """

    def __init__(self, folder: ImageFolder, side: int, seed: int) -> None:
        self._folder, self._side, self._seed = folder, side, seed

    def __getitem__(self, draw: Draw) -> tuple[Tensor, int] | RecipeDataError:
        try:
            image = self._folder.image(draw.image)
        except RecipeDataError as error:
            return error
        random = np.random.default_rng(np.random.SeedSequence((_CROPPING, self._seed, *draw)))
        box = random_box(*image.size, random)
        crop = image.resize((self._side, self._side), Image.Resampling.BILINEAR, box=box)
        if random.random() < 0.5:
            crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return pixels(crop), self._folder.labels[draw.image]


class EvaluationImages(Dataset[tuple[Tensor, int] | RecipeDataError]):
    """The middle ``side`` × ``side`` of the image, scaled so that its shorter side is 8/7 of that (256 for 224)."""

    def __init__(self, folder: ImageFolder, side: int) -> None:
        self._folder, self._side = folder, side

    def __getitem__(self, index: int) -> tuple[Tensor, int] | RecipeDataError:
        try:
            image = self._folder.image(index)
        except RecipeDataError as error:
            return error
        scale = max(round(self._side * 8 / 7), self._side) / min(image.size)
        width, height = (max(self._side, round(length * scale)) for length in image.size)
        left, top = (width - self._side) // 2, (height - self._side) // 2
        scaled = image.resize((width, height), Image.Resampling.BILINEAR)
        return pixels(scaled.crop((left, top, left + self._side, top + self._side))), self._folder.labels[index]
