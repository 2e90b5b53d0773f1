"""`bench step --precision`: words by what is held, and a table of what could be measured."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from bench import precision
from bench.measure import Settings
from bench.precision import Form, measure_precision

FORMS = [form for rule in ("adamw", "sgd") for form in precision._ours(rule)]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: f"{form.cls}-{form.name}")
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
    idle = replace(precision._torchs("adamw")[0], name="idle", arguments={"lr": 0.0})
    gone = replace(idle, name="gone", module="no_such")
    monkeypatch.setattr(precision, "_OURS", precision._OURS[:2])
    monkeypatch.setattr(precision, "_THEIRS", (idle, gone))
    monkeypatch.setitem(precision.SHAPE_SETS, "small", lambda: ((5000,),))
    assert measure_precision("small", torch.device("cpu"), Settings(seconds=0, min_rounds=3, warmup=1)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [
        "Left out: idle: RuntimeError: its step wrote nothing, or what is not finite",
        "Left out: gone: ModuleNotFoundError: No module named 'no_such'",
    ]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| ")]
    form = "StateDtype(bfloat16)"
    assert [row[0] for row in rows] == [
        *("AdamW", form, "torch fused", "torch fused, bfloat16"),
        *("SGD momentum", form, "torch fused", "torch fused, bfloat16"),
    ]
    assert [row[4] for row in rows] == ["words", "5", "7", "3.5", "words", "4", "5", "2.5"]
    assert [row[3] for row in rows if row[0] == "torch fused"] == ["1", "1"]
    assert all(float(speed) > 0 for row in rows if row[0] == form for speed in row[2:4])
