"""Images in one .npz file: what anyone can write with numpy, and so the way to train on one's own."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recipes.data.errors import RecipeDataError
from recipes.data.parts import Parts

KEYS = "x_train, y_train, x_test, y_test"
_MOST_CHANNELS = 4  # more of them are a height or a width: the channels stand elsewhere


def read_npz(path: Path) -> Parts:
    """Arrays x_train, x_test: uint8 [n, h, w] or [n, h, w, channels]; y_train, y_test: integers, n of them.

    Raises: RecipeDataError for a file without them, and for arrays of another type or shape.
    """
    try:
        # Without pickles, so that reading a file from elsewhere runs no code of it.
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("it holds a single array")
        with archive:
            missing = [key for key in KEYS.split(", ") if key not in archive.files]
            if missing:
                raise RecipeDataError(
                    f"{path} lacks {', '.join(missing)}: it has {', '.join(archive.files) or 'nothing'}"
                )
            arrays = {key: archive[key] for key in KEYS.split(", ")}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise RecipeDataError(f"{path} is no .npz file with the arrays {KEYS}: {error}") from error
    train_images, test_images = (_images(path, key, arrays[key]) for key in ("x_train", "x_test"))
    train_labels, test_labels = (_labels(path, key, arrays[key]) for key in ("y_train", "y_test"))
    return Parts(train_images, train_labels, test_images, test_labels)


def _images(path: Path, key: str, array: np.ndarray[Any, Any]) -> Tensor:
    if array.dtype != np.uint8:
        raise RecipeDataError(f"{path}: {key} is {array.dtype}, expected uint8, pixels from 0 to 255")
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4 or array.shape[3] > _MOST_CHANNELS:
        raise RecipeDataError(
            f"{path}: {key} has shape {array.shape}, expected [n, height, width] or [n, height, width, channels] "
            f"with at most {_MOST_CHANNELS} channels"
        )
    return torch.from_numpy(np.ascontiguousarray(array.transpose(0, 3, 1, 2)))


def _labels(path: Path, key: str, array: np.ndarray[Any, Any]) -> Tensor:
    if not np.issubdtype(array.dtype, np.integer):
        raise RecipeDataError(f"{path}: {key} is {array.dtype}, expected integers, the classes from 0")
    return torch.from_numpy(array.reshape(-1).astype(np.int64))
