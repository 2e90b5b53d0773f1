"""The file of a benchmark: rows are not measured twice, never mixed with another run's, and hold numbers alone."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from bench import __main__ as command
from bench import results, step
from bench.algorithm import OURS
from bench.cases import ALGORITHMS
from bench.results import Results, header_of, read_document, write_document
from bench.row import temporary_bytes
from tiny_bench import CPU, edited, shrink

HEADER = header_of("step", CPU, {"seconds": 1.0})


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch)
    monkeypatch.setenv("TORCHCLIP_COMMIT", HEADER["commit"])


def command_line(path: Path, *more: str) -> list[str]:
    selection = ["--sets", "small", "--algorithms", "sgd", "grda"]
    return ["step", *selection, "--seconds", "0.001", "--json", str(path), *more]


def test_a_run_goes_on_where_it_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rows.json"
    assert command.main(command_line(path)) == 0
    document = read_document(path, "step")
    first, second = document["rows"]
    write_document(path, {**document, "rows": [first]})
    assert command.main(command_line(path)) == 0
    assert capsys.readouterr().out.count("measured before") == 1
    again = read_document(path)["rows"]
    assert again[0] == first and again[1] != second and again[1]["algorithm"] == "grda"
    assert command.main(command_line(path, "--fresh")) == 0
    assert read_document(path)["rows"][0] != first
    write_document(path, edited(document, "settings.seconds", 3.0))
    with pytest.raises(SystemExit):
        command.main(command_line(path))
    assert "give --fresh to replace" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        ("environment.cpu", "another processor", "cpu another processor instead of"),
        ("environment.threads", 64, "threads 64 instead of"),
        ("settings.seconds", 3.0, "seconds 3.0 instead of 1.0"),
        ("commit", "0" * 40, f"commit {'0' * 40} instead of"),
        ("command", "kernels", "command kernels instead of step"),
        ("version", 1, "no results of version 2"),
    ],
)
def test_another_run_is_not_continued(tmp_path: Path, place: str, value: object, words: str) -> None:
    path = tmp_path / "rows.json"
    write_document(path, edited({**json.loads(json.dumps(HEADER)), "rows": []}, place, value))
    with pytest.raises(ValueError, match=words) as raised:
        Results(HEADER, path, ("name",))
    assert f"choose another file, or give --fresh to replace {path}" in str(raised.value)
    assert Results(HEADER, path, ("name",), fresh=True).rows == []


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None])
def test_numbers_that_are_none_are_refused(tmp_path: Path, value: object) -> None:
    path = tmp_path / "rows.json"
    results = Results(HEADER, path, ("name",))
    with pytest.raises(ValueError, match=r"a\.seconds\[1\] is"):
        results.add({"name": "a", "seconds": [1.0, value]})
    results.add({"name": "a", "seconds": [1.0, 2.0]})
    path.write_text(path.read_text().replace("2.0]", f"{json.dumps(value)}]"))
    with pytest.raises(ValueError, match=r"rows\[0\]\.seconds\[1\] is"):
        read_document(path)


def test_a_wrong_result_is_no_row_and_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ours without clipping, and a row that fails, which stops no other."""

    def build(*arguments: object) -> None:
        raise RuntimeError("launch failed")

    clip, grda, path = ALGORITHMS["clip_sgd"], ALGORITHMS["grda"], tmp_path / "rows.json"
    wrong = dataclasses.replace(clip, contenders={**clip.contenders, OURS: ALGORITHMS["sgd"].contenders[OURS]})
    broken = dataclasses.replace(grda, contenders={**grda.contenders, OURS: build})
    monkeypatch.setattr(step, "ALGORITHMS", {"sgd": wrong, "grda": broken, "adamw": ALGORITHMS["adamw"]})
    assert command.main(["step", "--sets", "small", "--seconds", "0.001", "--json", str(path)]) == 1
    out = capsys.readouterr().out
    assert "small clip_sgd  WRONG RESULT: ours is" in out
    assert "small grda  FAILED" in out and "launch failed" in out
    document = read_document(path)
    assert [row["algorithm"] for row in document["rows"]] == ["adamw"]


def test_the_commit_names_what_was_changed_since(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "ROOT", tmp_path)
    assert results.describe_commit() == HEADER["commit"], "TORCHCLIP_COMMIT goes before what git says"
    monkeypatch.delenv("TORCHCLIP_COMMIT")
    assert results.describe_commit() == "unknown"
    (tmp_path / "bench" / "results").mkdir(parents=True)
    source = tmp_path / "bench" / "a.py"
    source.write_text("1\n")
    for arguments in ("init", "add .", "-c user.name=a -c user.email=a@b commit -m first"):
        assert results._git(*arguments.split()) is not None
    commit = results.describe_commit()
    assert len(commit) == 40
    (tmp_path / "bench" / "results" / "cpu.json").write_text("{}")
    assert results.describe_commit() == commit
    source.write_text("2\n")
    changed = results.describe_commit()
    (tmp_path / "bench" / "b.py").write_text("3\n")
    assert changed.startswith(f"{commit}+") and results.describe_commit() not in (commit, changed)


def test_temporaries_are_what_is_held_at_once() -> None:
    a = torch.ones(1000)

    def step() -> None:
        for _ in range(3):
            b = a + 1
            c = b * 2
            del b, c

    assert 8000 <= temporary_bytes(step, CPU) < 12000
    assert temporary_bytes(lambda: a.add_(1.0), CPU) < 1000
