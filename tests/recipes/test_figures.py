"""recipes.comparison's figures and tables, from logs that are made here: what is drawn is what the logs say."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

from recipes.comparison.figures import draw
from recipes.comparison.runs import Result, results_of, runs_of, table
from recipes.comparison.studies import Drawing, Line, Study
from recipes.run_folder import LOG

Row = dict[str, Any]


def row(loss: float | None, accuracy: float | None, sparsity: float = 0.0) -> Row:
    return {"train_loss": loss, "test_accuracy": accuracy, "sparsity": sparsity}


def made(study: Study, folder: Path, logs: Sequence[Sequence[Sequence[Row]]], ended: bool = True) -> list[Result]:
    """The results of these logs: [lines][seeds][epochs]."""
    runs = runs_of(study, range(max(map(len, logs))), folder)
    for run in runs:
        seeds = logs[study.lines.index(run.line)]
        if run.seed >= len(seeds):
            continue
        numbered = [{"kind": "epoch", "epoch": i + 1, **one} for i, one in enumerate(seeds[run.seed])]
        run.folder.mkdir(parents=True)
        log = [{"kind": "run"}, *numbered, *([{"kind": "end"}] if ended else [])]
        (run.folder / LOG).write_text("".join(json.dumps(one) + "\n" for one in log))
    return results_of(study, runs)


def study(*lines: Line, drawing: Drawing = Drawing.CURVES, **others: Any) -> Study:
    return Study("A source", "image", "A title", "", lines, drawing, **others)


def curves(axes: Axes) -> dict[str, tuple[list[float], list[float]]]:
    return {str(one.get_label()): (list(one.get_xdata()), list(one.get_ydata())) for one in axes.lines}


def cells(text: str) -> list[list[str]]:
    lines = text.splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in (lines[0], *lines[2:])]


def test_curves_are_the_means_over_seeds(tmp_path: Path, figures: list[Figure]) -> None:
    of = study(Line("A", "-a"), Line("B", "-b"))
    logs = [
        [[row(3.0, 0.5), row(2.0, 0.6)], [row(1.0, 0.7), row(1.0, 0.8)]],
        [[row(5.0, 0.1), row(4.0, 0.2), row(3.0, 0.3)]],
    ]
    draw(of, made(of, tmp_path, logs), tmp_path / "figure.png")
    left, right = figures[0].axes
    assert curves(left) == {"A": ([1, 2], [2.0, 1.5]), "B": ([1, 2, 3], [5.0, 4.0, 3.0])}
    found = curves(right)
    assert found["A"] == ([1, 2], pytest.approx([0.6, 0.7])) and found["B"] == ([1, 2, 3], [0.1, 0.2, 0.3])
    (band,) = left.collections
    assert {tuple(point) for point in band.get_paths()[0].vertices} >= {(1.0, 1.0), (1.0, 3.0), (2.0, 1.0), (2.0, 2.0)}
    assert "A title; 2 seeds" in figures[0].get_suptitle()
    assert (left.get_xlabel(), right.get_ylabel()) == ("epoch", "test accuracy")


def test_an_epoch_without_a_number_does_not_shift_the_others(tmp_path: Path, figures: list[Figure]) -> None:
    of = study(Line("A", "-a"))
    draw(of, made(of, tmp_path, [[[row(3.0, 0.1), row(2.0, None), row(1.0, 0.3)]]]), tmp_path / "figure.png")
    left, right = figures[0].axes
    assert curves(left)["A"] == ([1, 2, 3], [3.0, 2.0, 1.0])
    assert curves(right)["A"] == ([1, 3], [0.1, 0.3])


@pytest.mark.parametrize(("losses", "scale"), [((1.0, 5.0), "linear"), ((0.1, 5.0), "log"), ((-3.0, 5.0), "linear")])
def test_losses_are_logarithmic_where_that_helps(
    losses: tuple[float, ...], scale: str, tmp_path: Path, figures: list[Figure]
) -> None:
    for drawing in (Drawing.CURVES, Drawing.SENSITIVITY):
        of = study(*(Line("A", f"-a {loss}", value=abs(loss)) for loss in losses), drawing=drawing, varies="b0")
        draw(of, made(of, tmp_path / drawing.name, [[[row(loss, 0.5)]] for loss in losses]), tmp_path / "figure.png")
    assert [figures[0].axes[0].get_yscale(), figures[1].axes[1].get_yscale()] == [scale, scale]


@pytest.mark.parametrize(("metric", "scale"), [("valid_perplexity", "log"), ("test_return", "linear")])
def test_a_perplexity_is_logarithmic_as_a_loss_is(
    metric: str, scale: str, tmp_path: Path, figures: list[Figure]
) -> None:
    of = study(Line("A", "-a"), metric=metric)
    draw(of, made(of, tmp_path, [[[{"train_loss": 1.0, metric: value} for value in (700.0, 7.0)]]]), tmp_path / "a.png")
    assert figures[0].axes[1].get_yscale() == scale


def test_sparsity_has_a_point_for_every_run(tmp_path: Path, figures: list[Figure]) -> None:
    of = study(Line("gRDA mu", "-a", 0.5), Line("SGD", "-b"), drawing=Drawing.SPARSITY)
    logs = [
        # The accuracy of the second seed is missing: its sparsity must not be paired with another's accuracy.
        [[row(1.0, 0.1, 0.2), row(1.0, 0.6, 0.4)], [row(1.0, None, 0.5)], [row(1.0, 0.7, 0.6)]],
        [[row(1.0, 0.8, 0.0)]],
    ]
    draw(of, made(of, tmp_path, logs), tmp_path / "figure.png")
    left, right = figures[0].axes
    points = [[tuple(point) for point in one.get_offsets()] for one in left.collections]
    assert points == [[(0.4, 0.6), (0.6, 0.7)], [(0.0, 0.8)]]
    assert curves(right)["SGD"] == ([1], [0.0])
    assert curves(right)["gRDA mu 0.5"] == ([1], pytest.approx([(0.2 + 0.5 + 0.6) / 3]))


def test_sensitivity_is_over_the_hyperparameter(tmp_path: Path, figures: list[Figure]) -> None:
    lines = [Line("A", "-a 1", 0.1), Line("A", "-a 2", 10.0), Line("B", "-b 1", 0.1), Line("B", "-b 2", 10.0)]
    of = study(*lines, drawing=Drawing.SENSITIVITY, varies="b0")
    logs = [
        [[row(9.0, 0.0), row(2.0, 0.5)], [row(4.0, 0.7)]],
        [[row(1.0, 0.8)]],
        # A mean that rounds to above its values would be an error bar of negative length.
        [[row(2.3, 0.1)], [row(2.3, 0.1)], [row(2.3, 0.1)]],
        [[row(None, 0.1)], [row(None, 0.1)], [row(None, 0.1)]],
    ]
    draw(of, made(of, tmp_path, logs), tmp_path / "figure.png")
    accuracy, loss = figures[0].axes

    def drawn(axes: Axes) -> dict[str, tuple[list[float], list[float]]]:
        bars = [one for one in axes.containers if isinstance(one, ErrorbarContainer)]
        return {str(one.get_label()): (list(one.lines[0].get_xdata()), list(one.lines[0].get_ydata())) for one in bars}

    assert drawn(accuracy) == {"A": ([0.1, 10.0], pytest.approx([0.6, 0.8])), "B": ([0.1, 10.0], [0.1, 0.1])}
    assert drawn(loss) == {"A": ([0.1, 10.0], [3.0, 1.0]), "B": ([0.1], [2.3])}
    bars = accuracy.containers[0].lines[2][0].get_segments()
    assert [tuple(point) for point in bars[0]] == [pytest.approx((0.1, 0.5)), pytest.approx((0.1, 0.7))]
    assert (accuracy.get_xlabel(), accuracy.get_xscale()) == ("b0", "log")


@pytest.mark.parametrize("drawing", Drawing)
def test_only_diverged_runs_can_be_drawn(drawing: Drawing, tmp_path: Path, figures: list[Figure]) -> None:
    of = study(Line("A", "-a", 0.1), drawing=drawing, varies="b0", metric="test_loss")
    results = made(of, tmp_path, [[[row(None, 0.1)]]])
    draw(of, results, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 0
    assert cells(table(of, results))[1][1] == ""


def test_a_table(tmp_path: Path) -> None:
    of = study(Line("A", "-a"), Line("B", "-b"), Line("C", "-c"), milestone=1)
    logs = [[[row(3.0, 0.2), row(1.0, 0.9)], [row(4.0, 0.2), row(1.0, 0.93)]], [[row(0.5, 0.8)]], [[row(None, None)]]]
    assert cells(table(of, made(of, tmp_path, logs))) == [
        ["", "test accuracy, %: ours", "training loss after epoch 1", "seeds"],
        ["A", "91.50 ± 2.12", "3.500 ± 0.707", "2"],
        ["B", "80.00", "0.500", "1"],
        ["C", "", "", "1, 1 diverged"],
    ]


def test_a_table_of_sparsity_and_of_another_metric(tmp_path: Path) -> None:
    of = study(Line("A", "-a", 0.5), drawing=Drawing.SPARSITY)
    assert cells(table(of, made(of, tmp_path / "sparse", [[[row(1.0, 0.8, 0.125)]]]))) == [
        ["", "test accuracy, %: ours", "training loss", "exact zeros, %", "seeds"],
        ["A 0.5", "80.00", "1.000", "12.50", "1"],
    ]
    words = study(Line("A", "-a"), metric="valid_perplexity")
    logs = [[[{"train_loss": 4.0, "valid_perplexity": 64.5}]]]
    header, body = cells(table(words, made(words, tmp_path / "words", logs, ended=False)))
    assert header[1] == "valid perplexity: ours"
    assert body == ["A", "64.500", "4.000", "1, 1 unfinished"]
