"""The file of a benchmark: rows come back, are not measured twice, and are never mixed with another run's."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from bench import __main__ as command
from bench import revision, step
from bench.algorithm import OURS
from bench.cases import ALGORITHMS
from bench.commands import step as step_command
from bench.environment import describe_environment
from bench.memory import temporary_bytes
from bench.row_json import row_as_json, row_from_json
from bench.store import Header, Results, read_document, write_document
from tiny_bench import CPU, SETTINGS, edited, shrink

HEADER = Header("step", describe_environment(CPU), "commit", {"seconds": 1.0})


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch)


def command_line(path: Path, *more: str) -> list[str]:
    selection = ["--sets", "small", "--algorithms", "sgd", "grda"]
    return ["step", *selection, "--seconds", "0.001", "--json", str(path), *more]


@pytest.mark.parametrize("name", ["clip_sgd", "adaloss"])  # with a reference among the contenders, and with yardsticks
def test_a_row_comes_back_from_json(name: str) -> None:
    probe = step.BandwidthProbe(CPU)
    row = step.measure_row("small", ALGORITHMS[name], probe, SETTINGS, lambda fraction: None)
    entry = json.loads(json.dumps(row_as_json(row), allow_nan=False))
    again = row_from_json(entry, ALGORITHMS[name])
    assert row_as_json(again).keys() == entry.keys()
    for part in ("checks", "samples_seconds"):
        assert json.loads(json.dumps(row_as_json(again)[part])) == entry[part]
    for name in row.algorithm.contenders:
        assert again.ratio(name).p50 == pytest.approx(row.ratio(name).p50, rel=1e-3)
    assert len(entry["samples_seconds"][OURS]) == entry["rounds"] == 4
    assert set(entry["contenders"][OURS]["seconds"]) == {"p20", "p50", "p80"}


def test_a_run_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rows.json"
    assert command.main(command_line(path)) == 0
    document = read_document(path, "step")
    first, second = document["rows"]
    write_document(path, {**document, "rows": [first]})
    measured: list[str] = []

    def measure_row(set_name: str, algorithm: object, *rest: object) -> step.Row:
        measured.append(algorithm.name)
        return step.measure_row(set_name, algorithm, *rest)

    monkeypatch.setattr(step_command, "measure_row", measure_row)
    assert command.main(command_line(path)) == 0
    assert measured == [second["algorithm"]]
    assert capsys.readouterr().out.count("measured before") == 1
    assert read_document(path)["rows"][0] == first
    assert command.main(command_line(path, "--fresh")) == 0
    assert measured == [second["algorithm"], "sgd", "grda"]


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        ("environment.cpu", "another processor", "cpu another processor instead of"),
        ("environment.threads", 64, "threads 64 instead of"),
        ("settings.seconds", 3.0, "seconds 3.0 instead of 1.0"),
        ("commit", "0" * 40, f"commit {'0' * 40} instead of commit"),
        ("command", "kernels", "command kernels instead of step"),
        ("version", 1, "no results of version 2"),
    ],
)
def test_another_run_is_not_continued(tmp_path: Path, place: str, value: object, words: str) -> None:
    path = tmp_path / "rows.json"
    write_document(path, edited({**json.loads(json.dumps(HEADER.as_json())), "rows": []}, place, value))
    with pytest.raises(ValueError, match=words) as raised:
        Results.open(HEADER, path, ("name",))
    assert f"choose another file, or give --fresh to replace {path}" in str(raised.value)
    assert Results.open(HEADER, path, ("name",), fresh=True).rows == []


def test_another_run_is_an_error_of_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rows.json"
    write_document(path, {**HEADER.as_json(), "rows": []})
    with pytest.raises(SystemExit):
        command.main(command_line(path))
    assert "give --fresh to replace" in capsys.readouterr().err


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None])
def test_numbers_that_are_none_are_refused(tmp_path: Path, value: object) -> None:
    results = Results(HEADER, tmp_path / "rows.json", ("name",))
    with pytest.raises(ValueError, match=r"a\.seconds\[1\] is"):
        results.add({"name": "a", "seconds": [1.0, value]})
    results.add({"name": "a", "seconds": [1.0, 2.0]})
    text = (tmp_path / "rows.json").read_text()
    (tmp_path / "rows.json").write_text(text.replace("2.0]", f"{json.dumps(value)}]"))
    with pytest.raises(ValueError, match=r"rows\[0\]\.seconds\[1\] is"):
        read_document(tmp_path / "rows.json")


def test_a_wrong_result_is_no_row_and_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ours without clipping."""
    path = tmp_path / "rows.json"
    contenders = {**ALGORITHMS["clip_sgd"].contenders, OURS: ALGORITHMS["sgd"].contenders[OURS]}
    monkeypatch.setattr(
        step_command, "ALGORITHMS", {"sgd": dataclasses.replace(ALGORITHMS["clip_sgd"], contenders=contenders)}
    )
    arguments = ["step", "--sets", "small", "--algorithms", "sgd", "--seconds", "0.001", "--json", str(path)]
    assert command.main(arguments) == 1
    assert "WRONG RESULT: ours is" in capsys.readouterr().out
    document = read_document(path)
    assert document["rows"] == []
    assert [row["algorithm"] for row in document["wrong"]] == ["clip_sgd"]


def test_the_commit_names_what_was_changed_since(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> None:
        assert revision._git(*arguments) is not None

    monkeypatch.setattr(revision, "_ROOT", tmp_path)
    monkeypatch.delenv("TORCHCLIP_COMMIT", raising=False)
    assert revision.describe_commit() == "unknown"
    monkeypatch.setenv("TORCHCLIP_COMMIT", "c0ffee")
    assert revision.describe_commit() == "c0ffee"
    monkeypatch.delenv("TORCHCLIP_COMMIT")
    (tmp_path / "bench" / "results").mkdir(parents=True)
    source = tmp_path / "bench" / "a.py"
    source.write_text("1\n")
    git("init")
    git("add", ".")
    git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-m", "first")
    commit = revision.describe_commit()
    assert len(commit) == 40
    (tmp_path / "bench" / "results" / "cpu.json").write_text("{}")
    assert revision.describe_commit() == commit
    source.write_text("2\n")
    changed = revision.describe_commit()
    (tmp_path / "bench" / "b.py").write_text("3\n")
    assert changed.startswith(f"{commit}+") and revision.describe_commit() not in (commit, changed)


def test_temporaries_are_what_is_held_at_once() -> None:
    a = torch.ones(1000)

    def step() -> None:
        for _ in range(3):
            b = a + 1
            c = b * 2
            del b, c

    assert 8000 <= temporary_bytes(step, CPU) < 12000
    assert temporary_bytes(lambda: a.add_(1.0), CPU) < 1000
