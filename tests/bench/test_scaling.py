"""`python -m bench scaling` on tiny sets, and first steps in fresh processes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from bench import __main__ as command
from bench.scaling import sizes, startup
from bench.shapes import SHAPE_SETS, element_count, sample_indices
from bench.store import read_document
from tiny_bench import CPU, shrink


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch)


def test_the_sets() -> None:
    sets = sizes.scaling_sets(CPU)
    counts = {name: element_count(shapes) for name, shapes in sets.items() if name.startswith("parameters")}
    assert counts == {f"parameters-1e{e}": 10**e for e in range(3, 9)}
    # Whole tensors are what results are checked on.
    assert all(sample_indices(shapes, 64, 1 << 20) for shapes in sets.values())
    assert [len(shapes) for name, shapes in sets.items() if name.startswith("tensors")] == [1, 10, 100, 1000, 10_000]
    assert element_count(sizes.scaling_sets(torch.device("cuda"))["parameters-1e9"]) == 10**9


def test_named_models_have_their_parameters() -> None:
    for make in SHAPE_SETS.values():
        assert element_count(make()) > 0  # each counts its tensors and elements itself


def test_rows_over_sizes_and_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("bench.commands.scaling._MIN_ROUNDS", 2)  # torch's two threads wait for each other in each
    path = tmp_path / "scaling.json"
    before = torch.get_num_threads()
    arguments = ["scaling", "--sets", "parameters-1e3", "tensors-1", "--threads", "1", "2"]
    arguments += ["--seconds", "0.001", "--json", str(path)]
    assert command.main(arguments) == 0
    assert torch.get_num_threads() == before
    entries = read_document(path, "scaling")["rows"]
    keys = [(entry["set"], entry["algorithm"], entry["threads"]) for entry in entries]
    assert len(set(keys)) == len(keys) == 2 * 2 * 2
    assert list(entries[0]["contenders"]) == ["ours", "foreach", "fused"]
    assert command.main(arguments) == 0
    assert read_document(path)["rows"] == entries, "rows that are there were measured again"
    assert capsys.readouterr().out.count("parameters-1e3 ") == 2 * 4


def test_what_does_not_fit_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("bench.commands.scaling.available_bytes", lambda device: 1)
    assert command.main(["scaling", "--sets", "tensors-1", "--threads", "1", "--seconds", "0.001"]) == 1
    assert "tensors-1 clip_sgd 1 FAILED: tensors-1 needs" in capsys.readouterr().out


@pytest.mark.thorough  # twenty seconds: each imports torch, and torch's compiler with the first optimizer
def test_first_steps_in_fresh_processes() -> None:
    for form in startup.FORMS:
        entry = startup.measure_startup(form, CPU, 1, 2, lambda fraction: None)
        parts = [part for part in startup.PARTS if form == "ours" or part != "import torchclip"]
        assert [part for part in startup.PARTS if part in entry["seconds"]] == parts
        assert all(len(values) == 2 for values in entry["samples_seconds"].values())
        assert form in startup.format_startup(entry)


@pytest.mark.parametrize(
    ("output", "code", "words"),
    [
        ('{"seconds": {"first step": 1.0}, "moved": 0.0}', 0, "moved a parameter by 0.0"),
        ('{"seconds": {"first step": 1.0}, "moved": NaN}', 0, "moved a parameter by nan"),
        ("", 1, "the first step of ours failed"),
    ],
)
def test_a_first_step_that_does_nothing_is_an_error(
    output: str, code: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished = SimpleNamespace(returncode=code, stdout=output, stderr="")
    monkeypatch.setattr(startup.subprocess, "run", lambda *arguments, **options: finished)
    with pytest.raises(RuntimeError, match=words):
        startup.measure_startup("ours", CPU, 1, 2, lambda fraction: None)
