"""`python -m bench train` with few steps: rows, and results that differ from the reference path's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bench import __main__ as command
from bench import train
from bench.measure import Settings
from bench.results import read_document
from bench.train import TASKS, losses_agree, measure_speed, take_step
from tiny_bench import CPU

FAST = Settings(seconds=1e-3, warmup=2, min_rounds=2, max_rounds=2)


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train.Train, "settings", lambda self: FAST)


def test_models_learn_from_the_same_start() -> None:
    task = TASKS["transformer"]
    model, (batch, *_) = task.model(CPU), task.batches(CPU)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = [float(take_step(model, optimizer, batch)) for _ in range(6)]
    assert losses[-1] < 0.9 * losses[0]
    assert float(take_step(task.model(CPU), optimizer, batch)) == losses[0]
    assert sum(parameter.numel() for parameter in TASKS["resnet20"].model(CPU).parameters()) == 272_474


def test_the_first_losses_are_those_of_the_reference_path() -> None:
    """Of one that torch has, beside its namesake; a run of the command itself checks every one."""
    entry, wrong = measure_speed("transformer", "AdamW", CPU, FAST)
    assert not wrong
    assert entry["beside"] == "torch AdamW, fused, clip_grad_norm_"
    assert entry["contenders"]["ours"]["seconds"]["p50"] > 0
    assert len(entry["samples_seconds"]["torch"]) == 2


@pytest.mark.parametrize(
    ("ours", "words"),
    [
        ([2.0, 1.9, 1.8], None),
        ([2.0, 1.9, 1.7], "the loss of step 2 is 1.7"),
        ([2.0, float("nan"), 1.8], "the loss of step 1 is nan"),
    ],
)
def test_losses_that_differ(ours: list[float], words: str | None) -> None:
    found = losses_agree(ours, [2.0, 1.9, 1.8])
    assert (not found) if words is None else found[0].startswith(words)
    assert "proves nothing" in losses_agree([2.0, 2.0], [2.0, 2.0])[0]


def test_the_command_measures_resumes_and_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "train.json"
    arguments = ["train", "--models", "transformer", "--optimizers", "SGD"]
    assert command.main([*arguments, "--json", str(path)]) == 0
    entries = read_document(path, "train")["rows"]
    assert [(entry["set"], entry["algorithm"]) for entry in entries] == [("transformer", "SGD")]
    assert command.main([*arguments, "--json", str(path)]) == 0
    assert read_document(path)["rows"] == entries, "rows that are there were measured again"

    make = train.make_optimizer

    def drifting(name: str, who: str, model: torch.nn.Module) -> torch.optim.Optimizer:
        optimizer = make(name, who, model)
        optimizer.param_groups[0]["lr"] *= 10 if who == "ours" else 1
        return optimizer

    monkeypatch.setattr(train, "make_optimizer", drifting)
    capsys.readouterr()
    assert command.main([*arguments, "--json", str(tmp_path / "wrong.json")]) == 1
    assert "transformer SGD  WRONG RESULT: the loss of step" in capsys.readouterr().out
