"""`python -m recipes compare spikes`: faults strike where they should, and what they cost is counted right."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import torchclip
from recipes.__main__ import main
from recipes.comparison import spikes
from recipes.comparison.spike_report import cost, tables
from recipes.models.transformer import Transformer

RUN = ("compare", "spikes", "--seeds", "0", "--before", "6", "--after", "4")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "tiny_shakespeare.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 40)
    random = np.random.default_rng(0)
    arrays = {
        f"{key}_{part}": random.integers(256, size=(count, 12, 12, 3), dtype=np.uint8) if key == "x" else labels
        for part, count, labels in (("train", 40, np.arange(40) % 4), ("test", 4, np.arange(4)))
        for key in "xy"
    }
    np.savez(tmp_path / "cifar10_subset.npz", **arrays)
    return tmp_path


def line() -> spikes.Workload:
    """Two classes whose logits are the weights, 0 at first: the gradient is -0.5 and 0.5, of noise 0.5 and -0.5."""
    model = torch.nn.Linear(1, 2, bias=False)
    torch.nn.init.zeros_(model.weight)
    batch = torch.ones(1, 1), torch.zeros(1, dtype=torch.int64)
    noise = torch.ones(1, 1), torch.ones(1, dtype=torch.int64)
    return spikes.Workload(
        model, lambda step: batch, noise, lambda params, **policy: torchclip.SGD(params, 0.1, **policy)
    )


def test_a_fault_multiplies_the_gradient_of_one_step() -> None:
    moved = {}
    for fault in (None, "×10", "noise", "Inf"):
        work = line()
        losses = spikes.train(work, work.optimizer(work.model.parameters()), range(5, 6), fault)
        assert losses == pytest.approx([math.log(2)])
        moved[fault] = float(work.model.weight.detach()[0, 0])
    assert moved[None] == pytest.approx(0.05) and moved["×10"] == pytest.approx(0.5)
    assert moved["noise"] == pytest.approx(-0.05) and moved["Inf"] == -math.inf


def test_every_branch_begins_where_the_fault_strikes() -> None:
    branches = spikes.drill(line(), {}, before=3, after=2)
    work = line()
    alone = spikes.train(work, work.optimizer(work.model.parameters()), range(6))
    assert branches["none"]["losses"] == pytest.approx(alone[4:])
    assert branches["×10"]["losses"][0] < branches["none"]["losses"][0] < branches["noise"]["losses"][0]
    assert branches["NaN"] == {"losses": [None, None], "poisoned": 1.0}
    assert branches["noise"]["poisoned"] == 0.0


def test_a_skipped_fault_costs_one_step() -> None:
    skip = torchclip.SkipSpikes(window=4, on=("grad_norm",))
    branches = spikes.drill(line(), {"skip": skip}, before=4, after=2)
    work = line()
    *_, struck = spikes.train(work, work.optimizer(work.model.parameters()), range(5))
    for fault in ("×100", "Inf", "NaN"):
        assert branches[fault]["losses"] == pytest.approx([struck, branches["none"]["losses"][0]])


def test_what_a_fault_costs() -> None:
    clean = [1.0] * 40
    assert cost(clean, clean) == (0.0, 0.0)
    assert cost(clean, [2.0] * 5 + [1.0] * 35) == (pytest.approx(0.125), 3.0)
    assert cost(clean, [2.0] * 40) == (1.0, math.inf)
    assert cost(clean, [2.0, *[None] * 39]) == (math.inf, math.inf)


def test_a_cell_tells_of_poison() -> None:
    branches = {"none": {"losses": [1.0] * 20, "poisoned": 0.0}, "NaN": {"losses": [None] * 20, "poisoned": 0.5}}
    text = tables([{"model": "M", "policy": "P", "seed": seed, "branches": branches} for seed in (0, 1)])
    assert text.splitlines()[-1] == "| P | 1.000 ± 0.000 | NaN, 50% poisoned |"


def test_the_transformer_sees_nothing_ahead() -> None:
    model = Transformer(vocabulary=7, context=8)
    tokens = torch.randint(7, (2, 8))
    changed = tokens.clone()
    changed[:, 5] = (changed[:, 5] + 1) % 7
    before, after = model(tokens), model(changed)
    torch.testing.assert_close(before[:, :5], after[:, :5])
    assert not torch.allclose(before[:, 5], after[:, 5])


def test_the_command(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "results"
    policies = {name: spikes.POLICIES[name] for name in ("no clipping", 'global clip, nonfinite="skip"')}
    monkeypatch.setattr(spikes, "POLICIES", policies)
    places = ("--data-dir", str(data), "--result-dir", str(folder))
    assert main([*RUN, *places, "--draw"]) == 1
    assert main([*RUN, *places]) == 0
    said = capsys.readouterr().out
    assert (folder / "table.md").read_text() in said and (folder / "figure.png").stat().st_size > 10_000
    rows = list(csv.DictReader((folder / "drills.csv").open()))
    assert len(rows) == 2 * 2 * len(spikes.FAULTS)
    poisoned = {(row["policy"], row["fault"]) for row in rows if float(row["poisoned"]) > 0}
    assert poisoned == {("no clipping", "Inf"), ("no clipping", "NaN")}
    files = {path: path.read_text() for path in folder.glob("*.json")}
    assert len(files) == 4 and all(json.loads(content)["seed"] == 0 for content in files.values())
    monkeypatch.setattr(spikes, "drill", None)  # what was run is not run again
    assert main([*RUN, *places]) == 0


def test_without_its_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*RUN, "--data-dir", str(tmp_path), "--result-dir", str(tmp_path / "results")]) == 2
    said = capsys.readouterr().err
    assert "recipes compare spikes: there is no" in said and "or give --data-dir" in said
