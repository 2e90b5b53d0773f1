"""`python -m recipes.demo` with a fifth of its steps: every optimizer, the comparison, the table and the picture."""

from __future__ import annotations

import dataclasses
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from recipes import demo
from recipes.demo import BATCH_SIZE, Digits

pytestmark = pytest.mark.skipif(
    find_spec("sklearn") is None, reason="the digits come with scikit-learn: pip install -e '.[demo]'"
)

STEPS = 5


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    load = Digits.load

    def load_few(dtype: torch.dtype = torch.float32) -> Digits:
        digits, count = load(dtype), STEPS * BATCH_SIZE
        return digits._replace(train_images=digits.train_images[:count], train_labels=digits.train_labels[:count])

    monkeypatch.setattr(Digits, "load", load_few)
    monkeypatch.setattr(demo, "FLOAT64_EPOCHS", 1)


def test_it_finds_the_curves_equal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert demo.main(["--epochs", "1"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("agrees") == 2 and "FAILS" not in printed
    assert all(f"{name} " in printed for name in demo.CONTESTANTS)
    assert demo.PICTURE.stat().st_size > 10_000


def test_another_formula_is_found_out(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """In float64, an epsilon of AdamW's that float32 would not show."""
    ours = "torchclip AdamW(clip=1.0)"
    contestant = demo.CONTESTANTS[ours]

    def make(parameters: Any) -> torch.optim.Optimizer:
        optimizer = contestant.make(parameters)
        optimizer.param_groups[0]["eps"] *= 2
        return optimizer

    monkeypatch.setitem(demo.CONTESTANTS, ours, dataclasses.replace(contestant, make=make))
    assert not demo.agreement(demo.train_all(Digits.load(), 1)[1])
    said = capsys.readouterr().out
    assert said.count("FAILS") == 1 and said.count("agrees") == 1
