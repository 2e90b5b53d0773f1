"""`python -m bench report`: the numbers of the files and their machine, in tables and figures with units."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

import bench_documents as documents
from bench import __main__ as command
from bench import plots
from bench.report import tables_of
from bench.results import read_document, write_document
from places import ROOT
from tiny_bench import edited

FIGURES = {
    "step": ["run-small.png", "run-large.png"],
    "kernels": ["run-kernels.png"],
    "scaling": ["run-parameters.png", "run-tensors.png"],
    "train": ["run-speed.png"],
}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures of a command, which are not written: that takes half a second each."""
    found: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *arguments, **options: found.append(self))
    return found


def written(folder: Path, name: str, document: dict[str, Any]) -> str:
    write_document(folder / f"{name}.json", document)
    return str(folder / f"{name}.json")


def report(folder: Path, documents: Sequence[dict[str, Any]]) -> str:
    """The document over these files."""
    files = [written(folder, f"run{index}", document) for index, document in enumerate(documents)]
    assert command.main(["report", *files, "--out", str(folder / "docs" / "benchmarks.md")]) == 0
    # Of the spaces that pad a table.
    return re.sub(r" +", " ", (folder / "docs" / "benchmarks.md").read_text())


def test_a_document_of_every_command(tmp_path: Path, drawn: list[Figure]) -> None:
    runs = [getattr(documents, name)() for name in FIGURES]
    text = report(tmp_path, [*runs, documents.step(gpu="NVIDIA H200", threads=4)])
    assert text.index("## NVIDIA H200") < text.index(f"## {runs[0]['environment']['cpu']}")
    for title in ("### Steps", "### Kernels", "### Scaling", "### Training"):
        assert title in text
    assert "| title of clip_sgd | 100 µs (90 to 120) | 40.0 | 80 | 0.00 | 4.00 (3.60 to 4.80) | 2.00" in text
    assert 2 * "| 100,000 (90,000 to 120,000), 80 % " in text and "| adamw+clip |" in text
    assert text.count("commit 0123456789ab") == 5
    figures = re.findall(r"\]\((figures/[^)]+)\)", text)
    assert len(figures) == len(drawn) == 2 + 1 + 2 + 1 + 2
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({line.count("|") for line in table.splitlines()}) == 1, "a table with rows of different lengths"


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
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


def test_runs_share_tables_or_have_their_own(tmp_path: Path, drawn: list[Figure]) -> None:
    """With those of their machine, unless they were measured beside more competitors or on another processor."""
    same, more, other = documents.step(), documents.step(), documents.step(cpu="another processor")
    for row in same["rows"]:
        row["algorithm"] = row["title"] = f"other {row['algorithm']}"
    edited(more, "settings.beside", ["compiled", "peers"])
    swept = {"swept_seconds": documents.time(3e-4), "swept_speedup_of_ours": documents.time(1.5)}
    for contender in other["rows"][0]["contenders"].values():
        contender |= swept
    text = report(tmp_path, [documents.step(), more, same, other])
    assert text.index("### Steps\n") < text.index("### Steps, beside compiled and peers too\n")
    assert text.count("#### small") == 3
    assert "| other clip_sgd |" in text and text.count("| title of clip_sgd | ") == 2 * 3
    assert "## another processor" in text
    assert "| 80 | 300 µs (270 to 360) | 0.00 |" in text and "| fused, swept |" in text


def test_committed_results_have_tables() -> None:
    paths = sorted((ROOT / "bench" / "results").glob("*.json"))
    assert len(paths) > 5
    for path in paths:
        document = read_document(path)
        assert len(tables_of(document["command"], document["rows"])) > 3, path


@pytest.mark.parametrize("name", FIGURES)
def test_figures_of_a_file(name: str, tmp_path: Path, drawn: list[Figure]) -> None:
    assert [path.name for path in plots.draw(getattr(documents, name)(), tmp_path, "run")] == FIGURES[name]
    units = ("µs", "ms", "GB/s", "%", "per second")
    for figure in drawn:
        for axes in figure.axes:
            assert any(unit in axes.get_xlabel() + axes.get_ylabel() for unit in units), axes.get_title()
        assert any("commit 0123456789" in text.get_text() for text in figure.texts)


def test_the_same_numbers_make_the_same_file(tmp_path: Path) -> None:
    first, second = (plots.draw(documents.kernels(), tmp_path / name, "run")[0].read_bytes() for name in "ab")
    assert first == second and len(first) > 1000


def test_bars_have_the_lengths_of_the_medians(tmp_path: Path, drawn: list[Figure]) -> None:
    plots.draw(documents.step(), tmp_path, "run")
    axes = drawn[0].axes[0]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([100.0, 400.0, 200.0])  # µs
    assert [text.get_text() for text in axes.texts] == ["100 µs", "4.00 ×", "2.00 ×"]
    assert axes.get_xlim()[0] == 0


def test_curves_run_from_left_to_right_whatever_the_order_of_rows(tmp_path: Path, drawn: list[Figure]) -> None:
    document = documents.scaling()
    document["rows"].reverse()
    plots.draw(document, tmp_path, "run")
    lines = [container.lines[0] for figure in drawn for axes in figure.axes for container in axes.containers]
    assert any(len(line.get_xdata()) > 1 for line in lines)
    for line in lines:
        assert list(line.get_xdata()) == sorted(line.get_xdata())


def test_colours_tell_apart_what_stands_in_one_figure() -> None:
    for together in (
        ("ours", "loop", "foreach", "fused", "compiled"),
        ("ours", "fused", "scaled"),
        ("ours", "authors"),
    ):
        assert len({plots.color_of(name) for name in together}) == len(together)
