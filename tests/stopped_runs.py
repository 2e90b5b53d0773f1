"""A recipe's run that is stopped in the middle of an epoch and resumed, beside one that is not."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from guarded import same_bits
from recipes.run_folder import read_log
from recipes.training import Training


def weights(folder: Path) -> dict[str, torch.Tensor]:
    model: dict[str, torch.Tensor] = torch.load(folder / "checkpoint.pt", weights_only=True)["model"]
    return model


def rows(folder: Path) -> list[dict[str, Any]]:
    """Of the log, without what no two runs share."""
    return [{key: value for key, value in row.items() if key != "seconds"} for row in read_log(folder)]


def check_stopped_run(
    main: Callable[[Sequence[str]], int],
    arguments: Sequence[str],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    stop: int,
) -> None:
    """Runs twice, once with an interruption in step ``stop``, counted from 1."""
    whole, stopped = folder / "whole", folder / "stopped"
    assert main([*arguments, "--quiet", "--result-dir", str(whole)]) == 0
    step, taken = Training._step, 0

    def interrupted(training: Training, batch: Any) -> Any:
        nonlocal taken
        taken += 1
        if taken == stop:
            signal.raise_signal(signal.SIGINT)
        return step(training, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "_step", interrupted)
        assert main([*arguments, "--quiet", "--result-dir", str(stopped)]) == 130
        assert taken == stop
    progress = torch.load(stopped / "checkpoint.pt", weights_only=True)["progress"]
    assert progress["step"] > 0, "the stop was not in the middle of an epoch"
    before = weights(stopped)
    assert main([*arguments, "--quiet", "--result-dir", str(stopped), "--resume"]) == 0
    expected, found = weights(whole), weights(stopped)
    assert any(not same_bits(before[key], value) for key, value in expected.items())
    assert expected.keys() == found.keys()
    assert all(same_bits(found[key], value) for key, value in expected.items())
    assert rows(stopped) == rows(whole)
