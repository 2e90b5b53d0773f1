"""Runs of `python -m recipes image` in this process: made images, a tiny model, an interruption at a step of choice."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import optimizer as torch_optimizer

from places import PYTHONPATH, SUPPORT
from recipes import image
from recipes.run_folder import CHECKPOINT, LOG, read_log

STEPS = 4  # of an epoch: 60 images in batches of 16, the last of which is smaller


def write_images(folder: Path, shape: tuple[int, ...] = (8, 8, 3), name: str = "made") -> None:
    """60 and 40 images of four classes, each of which has a brighter quarter of its own."""
    random = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for part, count in (("train", 60), ("test", 40)):
        labels = np.arange(count) % 4
        images = random.integers(120, size=(count, *shape), dtype=np.uint8)
        half = shape[0] // 2
        for one, label in zip(images, labels):
            one[label // 2 * half :][:half, label % 2 * half :][:, :half] += 120
        arrays |= {f"x_{part}": images, f"y_{part}": labels}
    np.savez(folder / f"{name}.npz", **arrays)


def tiny(name: str, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Instead of make_model: few parameters, and both of what makes resuming hard."""
    channels, height, width = shape
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3, stride=2, padding=1),
        nn.BatchNorm2d(4),  # buffers
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.2),  # random numbers
        nn.Linear(4 * -(-height // 2) * -(-width // 2), classes),
    )


def run(data: Path, result: Path, text: str = "", *others: str) -> int:
    """The exit status of a run of three epochs, unless the text says otherwise."""
    options = ["--dataset", "made", "--device", "cpu", "-b", "16", "--epochs", "3", "--quiet"]
    places = ["--data-dir", str(data), "--result-dir", str(result)]
    return image.main([*options, *places, *text.split(), *others])


@contextmanager
def interrupted_after(*steps: int) -> Iterator[None]:
    """SIGINT in these steps of the optimizer, the first that is taken here being 1; twice where one is named twice."""
    taken = 0

    def hook(*_: Any) -> None:
        nonlocal taken
        taken += 1
        for _ in range(steps.count(taken)):
            signal.raise_signal(signal.SIGINT)

    handle = torch_optimizer.register_optimizer_step_post_hook(hook)
    try:
        yield
        assert taken >= max(steps, default=0), "the interruption came"
    finally:
        handle.remove()


def rows(folder: Path) -> list[dict[str, Any]]:
    """The log, without what no two runs have in common."""
    return [{key: value for key, value in row.items() if key != "seconds"} for row in read_log(folder)]


def epochs(folder: Path) -> list[dict[str, Any]]:
    return [row for row in read_log(folder) if row["kind"] == "epoch"]


def checkpoint(folder: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(folder / CHECKPOINT, weights_only=True)
    return state


def differences(one: Any, other: Any, place: str = "") -> list[str]:
    """Where two checkpoints differ, in as much as a bit; the times apart."""
    if isinstance(one, Tensor):
        same = isinstance(other, Tensor) and one.dtype == other.dtype and one.shape == other.shape
        equal = same and one.numpy().tobytes() == other.numpy().tobytes()
        return [] if equal else [place]
    if type(one) is not type(other):
        return [place]
    if isinstance(one, dict):
        found = [f"{place}.{key}" for key in one.keys() ^ other.keys()]
        keys = [key for key in one if key in other and key != "seconds"]
        return found + [where for key in keys for where in differences(one[key], other[key], f"{place}.{key}")]
    if isinstance(one, (list, tuple)):
        if len(one) != len(other):
            return [place]
        return [w for i, (a, b) in enumerate(zip(one, other)) for w in differences(a, b, f"{place}[{i}]")]
    return [] if one == other or (one != one and other != other) else [place]


def assert_same_run(one: Path, other: Path) -> None:
    """Weights, optimizer, random numbers and log are those of the other, bit for bit."""
    assert not differences(checkpoint(one), checkpoint(other))
    assert rows(one) == rows(other)


def assert_valid_json(folder: Path) -> None:
    """JSON has no NaN and no Infinity, though Python's would write and read them."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} in {folder / LOG}")

    for line in (folder / LOG).read_text().splitlines():
        json.loads(line, parse_constant=refuse)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def start_two_processes(program: str, *folders: Path, timeout: float) -> None:
    """Runs a program of tests/support, which makes the two processes that torchrun would, to its end."""
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    finished = subprocess.run(
        [sys.executable, str(SUPPORT / program), *map(str, folders)],
        env={**os.environ, **shared, "PYTHONPATH": PYTHONPATH},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
    )
    assert finished.returncode == 0, finished.stdout
