"""`bench step --precision`: words by what is held, and a table of what could be measured."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from bench import precision
from bench.measure import Settings
from bench.precision import Form, measure_precision


@pytest.mark.parametrize("form", precision._OURS, ids=lambda form: form.name)
def test_words_are_those_of_what_is_held(form: Form) -> None:
    """A gradient is read; parameter and state are read and written, and a parameter beside its master only written."""
    step = form.step(((64, 128),), torch.device("cpu"))
    optimizer = step.__self__
    (param,) = optimizer.param_groups[0]["params"]
    state = [value for key, value in optimizer.state[param].items() if key != "step"]
    held = sum(tensor.numel() * tensor.element_size() for tensor in (param, *state))
    moved = 2 * held + param.grad.numel() * param.grad.element_size()
    moved -= param.numel() * param.element_size() if "master" in optimizer.state[param] else 0
    assert moved / 4 / param.numel() == pytest.approx(form.words, abs=1e-3)


def test_a_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    ours, torchs = precision._OURS[0], precision._THEIRS[0]
    forms = (torchs, replace(torchs, name="idle", more={"lr": 0.0}), replace(torchs, name="gone", module="no_such"))
    monkeypatch.setattr(precision, "_OURS", (ours,))
    monkeypatch.setattr(precision, "_THEIRS", forms)
    monkeypatch.setitem(precision.SHAPE_SETS, "small", lambda: ((5000,),))
    assert measure_precision("small", torch.device("cpu"), Settings(seconds=0, min_rounds=3, warmup=1)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [
        "Left out: idle: RuntimeError: its step wrote nothing, or what is not finite",
        "Left out: gone: ModuleNotFoundError: No module named 'no_such'",
    ]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| ")]
    assert [row[0] for row in rows] == ["AdamW", ours.name, "torch fused"]
    assert [row[3] for row in rows[1:]] == ["5", "7"] and all(float(row[2]) > 0 for row in rows[1:])
