"""What the runs of a study came to: curves and last values over seeds, and the Markdown table."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from recipes.comparison.runs import Run
from recipes.comparison.studies import Drawing, Line, Study


class Curve(NamedTuple):
    """Over epochs: the mean over seeds, and the lowest and the highest of them."""

    epochs: list[int]  # counted from 1
    mean: list[float]
    low: list[float]
    high: list[float]


def _has(row: Mapping[str, Any], key: str) -> bool:
    """Whether the epoch has a finite value of this."""
    return row.get(key) is not None


@dataclass(frozen=True)
class Result:
    """One line of a study: the epochs of its runs, one list a seed."""

    line: Line
    seeds: list[list[dict[str, Any]]]  # [seeds][epochs]
    unfinished: int  # how many of the seeds' runs have not ended yet

    def curve(self, key: str) -> Curve:
        """Over the seeds, for the epochs that every seed has with a finite value."""
        columns = enumerate(zip(*self.seeds, strict=False), start=1)
        finite = [(epoch, [row[key] for row in rows]) for epoch, rows in columns if all(_has(row, key) for row in rows)]
        values = [row for _, row in finite]
        return Curve(
            [epoch for epoch, _ in finite],
            [statistics.mean(row) for row in values],
            [min(row) for row in values],
            [max(row) for row in values],
        )

    def last(self, key: str) -> list[float]:
        """The last value of every seed whose last value is finite."""
        return [epochs[-1][key] for epochs in self.seeds if _has(epochs[-1], key)]

    def last_pairs(self, key: str, other: str) -> list[tuple[float, float]]:
        """Both last values of every seed of which both are finite."""
        rows = [epochs[-1] for epochs in self.seeds]
        return [(row[key], row[other]) for row in rows if _has(row, key) and _has(row, other)]

    def at(self, key: str, epoch: int | None) -> list[float]:
        """The value at the end of this epoch (counted from 1; None: the last one), of every seed that has it."""
        if epoch is None:
            return self.last(key)
        rows = [epochs[epoch - 1] for epochs in self.seeds if len(epochs) >= epoch]
        return [row[key] for row in rows if _has(row, key)]

    @property
    def diverged(self) -> int:
        """How many seeds ended with a loss that was not finite."""
        return sum(epochs[-1]["train_loss"] is None for epochs in self.seeds)


def results_of(study: Study, runs: Sequence[Run]) -> list[Result]:
    """The lines that have a run with at least one epoch."""
    found = []
    for line in study.lines:
        started = [run for run in runs if run.line == line and run.epochs()]
        if started:
            found.append(Result(line, [run.epochs() for run in started], sum(not run.ended() for run in started)))
    return found


def _spread(values: Sequence[float], percent: bool) -> str:
    """Mean ± standard deviation."""
    if not values:
        return ""
    scale, digits = (100, 2) if percent else (1, 3)
    mean = f"{scale * statistics.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {scale * statistics.stdev(values):.{digits}f}"


def _published(line: Line, values: Sequence[float], percent: bool) -> list[str]:
    if line.published is None:
        return ["", ""]
    scale = 100 if percent else 1
    difference = f"{scale * (statistics.mean(values) - line.published):+.2f}" if values else ""
    return [f"{scale * line.published:.2f}", difference]


def table(study: Study, results: Sequence[Result]) -> str:
    """Published, ours, difference; the training loss; gRDA's sparsity. Accuracies and sparsities are in percent."""
    percent = study.metric.endswith("accuracy")
    name = study.metric.replace("_", " ") + (", %" if percent else "")
    published = any(result.line.published is not None for result in results)
    sparse = study.drawing is Drawing.SPARSITY
    when = "" if study.milestone is None else f" after epoch {study.milestone}"
    columns = ["", *(["published"] if published else []), f"{name}: ours", *(["difference"] if published else [])]
    zeros = [
        *(["exact zeros, %: published"] if published else []),
        "exact zeros, %: ours" if published else "exact zeros, %",
    ]
    columns += [f"training loss{when}", *(zeros if sparse else []), "seeds"]
    rows = [columns, ["---"] * len(columns)]
    for result in results:
        values = result.last(study.metric)
        theirs, difference = _published(result.line, values, percent)
        row = [result.line.label, *([theirs] if published else []), _spread(values, percent)]
        row += [difference] if published else []
        row.append(_spread(result.at("train_loss", study.milestone), percent=False))
        if sparse:
            zero = result.line.published_sparsity
            row += [] if not published else ["" if zero is None else f"{100 * zero:.2f}"]
            row.append(_spread(result.last("sparsity"), percent=True))
        counts = {"diverged": result.diverged, "unfinished": result.unfinished}
        row.append(", ".join([f"{len(result.seeds)}", *(f"{count} {what}" for what, count in counts.items() if count)]))
        rows.append(row)
    return "".join("| " + " | ".join(row) + " |\n" for row in rows)
