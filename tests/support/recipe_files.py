"""Small image data sets in .npz files and in MNIST's own, for the tests of recipes.data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

Arrays = dict[str, np.ndarray[Any, Any]]


def some_arrays(shape: tuple[int, ...] = (4, 5), seed: int = 0) -> Arrays:
    random = np.random.default_rng(seed)
    return {
        "x_train": random.integers(256, size=(7, *shape), dtype=np.uint8),
        "y_train": np.array([0, 1, 2, 9, 3, 3, 0]),
        "x_test": random.integers(256, size=(3, *shape), dtype=np.uint8),
        "y_test": np.array([4, 1, 2]),
    }


def write_npz(path: Path, arrays: Arrays) -> Arrays:
    np.savez(path, **arrays)
    return arrays


def write_idx(folder: Path, arrays: Arrays) -> None:
    """The four files of MNIST: two zero bytes, the type, the number of dimensions, their sizes, the data."""
    folder.mkdir(parents=True)
    for key, array in arrays.items():
        part, kind = "train" if "train" in key else "t10k", "images-idx3" if key[0] == "x" else "labels-idx1"
        sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
        content = bytes((0, 0, 8, array.ndim)) + sizes + array.astype(np.uint8).tobytes()
        (folder / f"{part}-{kind}-ubyte").write_bytes(content)


def same(tensor: torch.Tensor, array: np.ndarray[Any, Any]) -> bool:
    return tensor.shape == array.shape and bool((tensor.numpy() == array).all())
