"""`python -m bench report`: the document has the numbers of the files and their machine, and mixes no machines."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import bench_documents as documents
from bench import __main__ as command
from bench.store import write_document
from tiny_bench import edited


def written(folder: Path, name: str, document: dict[str, Any]) -> str:
    write_document(folder / f"{name}.json", document)
    return str(folder / f"{name}.json")


def test_a_document_of_every_command(tmp_path: Path) -> None:
    names = ("step", "kernels", "scaling", "train")
    files = [written(tmp_path, name, getattr(documents, name)()) for name in names]
    files.append(written(tmp_path, "gpu", documents.step(gpu="NVIDIA H200", threads=4)))
    out = tmp_path / "docs" / "benchmarks.md"
    assert command.main(["report", *files, "--out", str(out)]) == 0
    text = out.read_text()
    assert text.index("## NVIDIA H200") < text.index(f"## {documents.step()['environment']['cpu']}")
    for title in ("### Steps", "### Kernels", "### Scaling, imports and first steps", "### Training"):
        assert title in text
    assert "| title of clip_sgd | 100 µs (90 to 120) | 40.0 | 80 | 0.00 | 4.00 (3.60 to 4.80) | 2.00" in text
    assert "| adamw+clip | 1000 (900 to 1200), 80 % | 1000 (900 to 1200), 80 % |" in text
    assert "| gRDA | c = 0.01 | 90.5 (90.2 to 90.8) | 50.0 (50.0 to 50.0) | 2 |" in text
    assert text.count("commit 0123456789ab") == len(files)
    figures = re.findall(r"\]\((figures/[^)]+)\)", text)
    assert len(figures) == 2 + 1 + 2 + 3 + 2
    assert all((out.parent / figure).stat().st_size > 1000 for figure in figures)
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({line.count("|") for line in table.splitlines()}) == 1, "a table with rows of different lengths"


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        ("environment.cpu", "another processor", "measured on different machines (cpu"),
        ("environment.torch", "1.0", "measured on different machines (torch"),
        ("environment.threads", 64, "measured on different machines (threads"),
        ("environment.python", documents.step()["environment"]["python"], "both have small/clip_sgd"),
        ("rows.0.contenders.ours.seconds.p50", None, "rows[0].contenders.ours.seconds.p50 is None"),
        ("command", "other", "holds results of `other`, which has no table"),
    ],
)
def test_what_a_document_refuses(
    place: str, value: Any, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = documents.step(), edited(documents.step(), place, value)
    (tmp_path / "second.json").write_text(json.dumps(second))
    out = tmp_path / "benchmarks.md"
    with pytest.raises(SystemExit):
        command.main(["report", written(tmp_path, "first", first), str(tmp_path / "second.json"), "--out", str(out)])
    assert words in capsys.readouterr().err
    assert not out.exists()


def test_two_runs_of_one_machine_share_a_table(tmp_path: Path) -> None:
    first, second = documents.step(), documents.step()
    for row in second["rows"]:
        row["algorithm"] = row["title"] = f"other {row['algorithm']}"
    out = tmp_path / "benchmarks.md"
    files = [written(tmp_path, "first", first), written(tmp_path, "second", second)]
    assert command.main(["report", *files, "--out", str(out)]) == 0
    text = out.read_text()
    assert text.count("#### small") == 1
    assert "| other clip_sgd |" in text and "| title of clip_sgd |" in text


def test_a_run_beside_more_competitors_has_tables_of_its_own(tmp_path: Path) -> None:
    more = edited(documents.step(), "settings.beside", ["compiled", "peers"])
    out = tmp_path / "benchmarks.md"
    files = [written(tmp_path, "more", more), written(tmp_path, "first", documents.step())]
    assert command.main(["report", *files, "--out", str(out)]) == 0
    text = out.read_text()
    assert text.index("### Steps\n") < text.index("### Steps, beside compiled and peers too\n")
    assert text.count("| title of clip_sgd | ") == 2 * 2
