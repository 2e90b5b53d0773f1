"""What the runs of a study came to: curves and last values over seeds, and the Markdown table."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from recipes.comparison.runs import Run
from recipes.comparison.studies import Drawing, Line, Study


@dataclass(frozen=True)
class Result:
    """One line of a study: the epochs of its runs, one list a seed."""

    line: Line
    seeds: list[list[dict[str, Any]]]  # [seeds][epochs]
    unfinished: int  # how many of the seeds' runs have not ended yet

    def curve(self, key: str) -> tuple[list[int], list[list[float]]]:
        """The epochs, from 1, of which every seed has a finite value, and for each the values of the seeds."""
        columns = enumerate(zip(*self.seeds, strict=False), start=1)
        found = [
            (epoch, [row[key] for row in rows])
            for epoch, rows in columns
            if all(row.get(key) is not None for row in rows)
        ]
        return [epoch for epoch, _ in found], [values for _, values in found]

    def at(self, key: str, epoch: int | None = None) -> list[float]:
        """The finite value at the end of this epoch (counted from 1; None: the last one), of every seed that has it."""
        rows = [epochs[-1 if epoch is None else epoch - 1] for epochs in self.seeds if len(epochs) >= (epoch or 1)]
        return [row[key] for row in rows if row.get(key) is not None]

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


def _row(study: Study, result: Result, published: bool) -> dict[str, str]:
    """The cells of a line by their columns. Accuracies and sparsities are in percent."""
    line, values = result.line, result.at(study.metric)
    percent = study.metric.endswith("accuracy")
    scale = 100 if percent else 1
    row = {"": line.label}
    if published:
        row["published"] = "" if line.published is None else f"{scale * line.published:.2f}"
    row[study.metric.replace("_", " ") + (", %" if percent else "") + ": ours"] = _spread(values, percent)
    if published:
        compared = values and line.published is not None
        row["difference"] = f"{scale * (statistics.mean(values) - (line.published or 0)):+.2f}" if compared else ""
    when = "" if study.milestone is None else f" after epoch {study.milestone}"
    row[f"training loss{when}"] = _spread(result.at("train_loss", study.milestone), percent=False)
    if study.drawing is Drawing.SPARSITY:
        if published:
            theirs = line.published_sparsity
            row["exact zeros, %: published"] = "" if theirs is None else f"{100 * theirs:.2f}"
        row["exact zeros, %" + (": ours" if published else "")] = _spread(result.at("sparsity"), percent=True)
    counts = {"diverged": result.diverged, "unfinished": result.unfinished}
    row["seeds"] = ", ".join([f"{len(result.seeds)}", *(f"{count} {what}" for what, count in counts.items() if count)])
    return row


def table(study: Study, results: Sequence[Result]) -> str:
    """Published, ours, difference; the training loss; gRDA's sparsity. Without published numbers, no column of them."""
    published = any(result.line.published is not None for result in results)
    rows = [_row(study, result, published) for result in results]
    cells = [rows[0], ["---"] * len(rows[0]), *(row.values() for row in rows)]
    return "".join("| " + " | ".join(row) + " |\n" for row in cells)
