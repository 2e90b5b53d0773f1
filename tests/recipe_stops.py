"""Runs of recipes that are stopped in mid-epoch and go on, for the tests of them."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from recipes.run_folder import read_log
from recipes.training import Task

Main = Callable[[Sequence[str]], int]


def checkpoint(folder: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(folder / "checkpoint.pt", weights_only=True)
    return state


def epochs(folder: Path) -> list[dict[str, Any]]:
    """The log's rows of epochs, without what no two runs share."""
    rows = [row for row in read_log(folder) if row["kind"] == "epoch"]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def differences(first: Any, second: Any, path: str = "") -> list[str]:
    """Where two nests of dicts, sequences and tensors are not the same, bit for bit."""
    if isinstance(first, torch.Tensor):
        return [] if isinstance(second, torch.Tensor) and torch.equal(first, second) else [path]
    if isinstance(first, dict):
        if not isinstance(second, dict) or first.keys() != second.keys():
            return [path]
        return [one for key in first for one in differences(first[key], second[key], f"{path}/{key}")]
    if isinstance(first, (list, tuple)):
        if not isinstance(second, (list, tuple)) or len(first) != len(second):
            return [path]
        return [one for i in range(len(first)) for one in differences(first[i], second[i], f"{path}/{i}")]
    return [] if first == second else [path]


def run_with_stops(main: Main, arguments: Sequence[str], task: type[Task], at: Sequence[int]) -> list[int]:
    """Runs to the end, with an interrupt in each of these steps, counted over the whole run; the exit statuses."""
    loss, count = task.loss, 0

    def interrupting(self: Task, batch: Any) -> Any:
        nonlocal count
        count += 1
        if count in at:
            signal.raise_signal(signal.SIGINT)
        return loss(self, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task, "loss", interrupting)
        statuses = [main(arguments)]
        while statuses[-1] == 130:
            statuses.append(main([*arguments, "--resume"]))
    return statuses
