"""Small image data sets in the formats that recipes.data reads, for the tests of it."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

IDX_NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
CIFAR_NAMES = {
    "cifar10": (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"),
    "cifar100": ("train.bin", "test.bin"),
}
CIFAR_FOLDERS = {"cifar10": "cifar-10-batches-bin", "cifar100": "cifar-100-binary"}

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


def idx_bytes(array: np.ndarray[Any, Any]) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes((0, 0, 8, array.ndim)) + sizes + array.astype(np.uint8).tobytes()


def write_idx(folder: Path, arrays: Arrays, zipped: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, key in zip(IDX_NAMES, ("x_train", "y_train", "x_test", "y_test")):
        content = idx_bytes(arrays[key])
        (folder / f"{name}{'.gz' if zipped else ''}").write_bytes(gzip.compress(content) if zipped else content)


def cifar_contents(name: str) -> tuple[dict[str, bytes], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Two rows a file; all images, NCHW, and the labels wanted."""
    random = np.random.default_rng(1)
    pixels = random.integers(256, size=(2 * len(CIFAR_NAMES[name]), 3, 32, 32), dtype=np.uint8)
    labels = random.integers(10 if name == "cifar10" else 100, size=len(pixels), dtype=np.uint8)
    coarse = [] if name == "cifar10" else [np.full(len(pixels), 200, np.uint8)]  # an impossible label if it is read
    rows = np.concatenate([*(column[:, None] for column in (*coarse, labels)), pixels.reshape(len(pixels), -1)], 1)
    return {file: rows[2 * i : 2 * i + 2].tobytes() for i, file in enumerate(CIFAR_NAMES[name])}, pixels, labels


def tar_bytes(contents: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def same(tensor: torch.Tensor, array: np.ndarray[Any, Any]) -> bool:
    return tensor.shape == array.shape and bool((tensor.numpy() == array).all())
