"""`python -m bench plot`: every kind of file has its figures, drawn from the file alone and with units."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

import bench_documents as documents
from bench import __main__ as command
from bench.plots import style
from bench.store import write_document
from tiny_bench import edited

EXPECTED = {
    "step": ["run-large.png", "run-small.png"],
    "kernels": ["run-kernels.png"],
    "scaling": ["run-parameters.png", "run-tensors.png"],
    "train": ["run-adaloss.png", "run-grda.png", "run-speed.png"],
}
MAKE: dict[str, Callable[[], dict[str, Any]]] = {name: getattr(documents, name) for name in EXPECTED}


@pytest.mark.parametrize("name", EXPECTED)
def test_figures_of_a_file(name: str, tmp_path: Path, figures: list[Figure]) -> None:
    path, out = tmp_path / "run.json", tmp_path / "figures"
    write_document(path, MAKE[name]())
    assert command.main(["plot", str(path), "--out", str(out)]) == 0
    assert sorted(file.name for file in out.iterdir()) == EXPECTED[name]
    units = ("µs", "ms", "GB/s", "%", "per second")
    for figure in figures:
        for axes in figure.axes:
            assert any(unit in axes.get_xlabel() + axes.get_ylabel() for unit in units), axes.get_title()
        assert any("commit 0123456789" in text.get_text() for text in figure.texts)


def test_bars_have_the_lengths_of_the_medians(tmp_path: Path, figures: list[Figure]) -> None:
    path = tmp_path / "run.json"
    write_document(path, documents.step())
    assert command.main(["plot", str(path), "--out", str(tmp_path)]) == 0
    axes = figures[0].axes[0]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([100.0, 400.0, 200.0])  # µs
    assert [text.get_text() for text in axes.texts] == ["100 µs", "4.00 ×", "2.00 ×"]
    assert axes.get_xlim()[0] == 0


def test_curves_run_from_left_to_right_whatever_the_order_of_rows(tmp_path: Path, figures: list[Figure]) -> None:
    document = documents.scaling()
    document["rows"].reverse()
    path = tmp_path / "run.json"
    write_document(path, document)
    assert command.main(["plot", str(path), "--out", str(tmp_path)]) == 0
    lines = [line for figure in figures for axes in figure.axes for line in axes.lines]
    assert any(len(line.get_xdata()) > 1 for line in lines)
    for line in lines:
        assert list(line.get_xdata()) == sorted(line.get_xdata())


def test_colours_tell_apart_what_stands_in_one_figure() -> None:
    for together in (
        ("ours", "loop", "foreach", "fused", "compiled"),
        ("ours", "fused", "scaled"),
        ("ours", "authors"),
    ):
        assert len({style.color_of(name) for name in together}) == len(together)


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        ("rows.0.contenders.ours.seconds.p50", float("nan"), "rows[0].contenders.ours.seconds.p50 is nan"),
        ("rows", [], "run has nothing to draw"),
        ("version", 1, "holds no results of version"),
    ],
)
def test_a_file_that_cannot_be_drawn_is_an_error(
    place: str, value: Any, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.json"
    path.write_text(json.dumps(edited(documents.step(), place, value)))
    with pytest.raises(SystemExit):
        command.main(["plot", str(path), "--out", str(tmp_path)])
    assert words in capsys.readouterr().err
