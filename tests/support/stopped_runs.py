"""A recipe's run that is stopped in the middle of an epoch and resumed, beside one that is not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from memory_guard import same_bits
from recipe_runs import assert_same_run, checkpoint, interrupted_after


def weights(folder: Path) -> dict[str, torch.Tensor]:
    model: dict[str, torch.Tensor] = checkpoint(folder)["model"]
    return model


def check_stopped_run(main: Callable[[Sequence[str]], int], arguments: Sequence[str], folder: Path, stop: int) -> None:
    """Runs twice, once with an interruption in step ``stop``, counted from 1."""
    whole, stopped = folder / "whole", folder / "stopped"
    assert main([*arguments, "--quiet", "--result-dir", str(whole)]) == 0
    with interrupted_after(stop):
        assert main([*arguments, "--quiet", "--result-dir", str(stopped)]) == 130
    assert checkpoint(stopped)["processes"][0]["progress"]["step"] > 0, "that was not in the middle of an epoch"
    before = weights(stopped)
    assert main([*arguments, "--quiet", "--result-dir", str(stopped), "--resume"]) == 0
    assert any(not same_bits(before[key], value) for key, value in weights(whole).items())
    assert_same_run(whole, stopped)
