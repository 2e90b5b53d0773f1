"""`python -m bench scaling` on tiny sets."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bench import __main__ as command
from bench.check import sample_indices
from bench.results import read_document
from bench.shapes import element_count, scaling_sets
from bench.step import Scaling
from tiny_bench import SETTINGS, shrink


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch)


def test_the_sets() -> None:
    sets = scaling_sets("cpu")
    counts = {name: element_count(shapes) for name, shapes in sets.items() if name.startswith("parameters")}
    assert counts == {f"parameters-1e{e}": 10**e for e in range(3, 9)}
    # Whole tensors are what results are checked on.
    assert all(sample_indices(shapes) for shapes in sets.values())
    assert [len(shapes) for name, shapes in sets.items() if name.startswith("tensors")] == [1, 10, 100, 1000, 10_000]
    assert element_count(scaling_sets("cuda")["parameters-1e9"]) == 10**9


def test_rows_over_sizes_and_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Scaling, "settings", lambda self: SETTINGS)
    path = tmp_path / "scaling.json"
    before = torch.get_num_threads()
    arguments = ["scaling", "--sets", "tensors-1", "--threads", "1", "2"]
    arguments += ["--seconds", "0.001", "--json", str(path)]
    assert command.main(arguments) == 0
    assert torch.get_num_threads() == before
    entries = read_document(path, "scaling")["rows"]
    keys = [(entry["set"], entry["algorithm"], entry["threads"]) for entry in entries]
    assert len(set(keys)) == len(keys) == 2 * 2
    assert list(entries[0]["contenders"]) == ["ours", "foreach", "fused"]
    assert command.main(arguments) == 0
    assert read_document(path)["rows"] == entries, "rows that are there were measured again"
    assert capsys.readouterr().out.count("tensors-1 clip") == 2 * 4
