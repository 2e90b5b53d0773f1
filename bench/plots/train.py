"""Training: steps per second, gRDA's accuracy over its sparsity, and accuracy over b0 of AdaLoss and its baselines."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from bench.algorithm import OURS
from bench.measure import Percentiles
from bench.plots.style import MARKERS, SERIES, Entry, color_of, new_figure, save, spread, tidy
from bench.train.curves import ADALOSS, GRDA
from bench.train.speed import TORCH

_LABEL_DISTANCE = 9.0  # percent of sparsity that a label takes


def draw_train(document: Entry, folder: Path, stem: str) -> list[Path]:
    rows = document["rows"]
    drawn = []
    models = [row for row in rows if "contenders" in row]
    if models:
        drawn.append(_draw_speed(document, models, folder, stem))
    for curve, draw in ((GRDA, _draw_frontier), (ADALOSS, _draw_b0)):
        chosen = [row for row in rows if row["set"] == curve]
        if chosen:
            drawn.append(draw(document, chosen, folder, stem))
    return drawn


def _percent(row: Entry, what: str) -> dict[str, float]:
    return asdict(Percentiles.of([100 * run[what] for run in row["runs"]]))


def _draw_speed(document: Entry, rows: Sequence[Entry], folder: Path, stem: str) -> Path:
    models = list(dict.fromkeys(row["set"] for row in rows))
    optimizers = list(dict.fromkeys(row["algorithm"] for row in rows))
    figure, panels = new_figure(1, len(models), 5 * len(models), 1.3 + 0.36 * len(optimizers))
    for axes, model in zip(panels, models, strict=True):
        chosen = [row for row in rows if row["set"] == model]
        for offset, who in ((-0.19, OURS), (0.19, TORCH)):
            times = [row["contenders"][who]["seconds"] for row in chosen]
            rates = [{"p20": 1 / time["p80"], "p50": 1 / time["p50"], "p80": 1 / time["p20"]} for time in times]
            middle, errors = spread(rates)
            axes.barh([place + offset for place in range(len(chosen))], middle, xerr=errors, height=0.36,
                      color=color_of(who), label="torchclip" if who == OURS else "torch, with clip_grad_norm_",
                      error_kw={"elinewidth": 1, "ecolor": "#333333"})  # fmt: skip
        labels = [
            row["algorithm"]
            if row["beside"].startswith(f"torch {row['algorithm']},")
            else f"{row['algorithm']}\n(beside {row['beside'].split()[1].rstrip(',')})"
            for row in chosen
        ]
        axes.set_yticks(range(len(chosen)), labels, fontsize=8)
        axes.invert_yaxis()
        axes.set_xlabel("training steps per second")
        axes.set_title(model, loc="left")
        tidy(axes, "x")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", frameon=False, ncols=2, fontsize=8)
    return save(figure, folder / f"{stem}-speed.png", document)


def _draw_frontier(document: Entry, rows: Sequence[Entry], folder: Path, stem: str) -> Path:
    figure, (axes,) = new_figure(1, 1, 6, 4.2)
    rows = sorted(rows, key=lambda row: row["value"])
    zeros, zero_errors = spread([_percent(row, "sparsity") for row in rows])
    reached, errors = spread([_percent(row, "accuracy") for row in rows])
    axes.errorbar(zeros, reached, xerr=zero_errors, yerr=errors, color=SERIES[0], marker="o", markersize=4, capsize=2)
    labelled = -math.inf
    for x, y, row in zip(zeros, reached, rows, strict=True):
        if x - labelled >= _LABEL_DISTANCE:
            axes.annotate(f"c = {row['value']:g}", (x, y), (5, 6), textcoords="offset points", fontsize=8)
            labelled = x
    axes.set_xlabel("parameters that are exactly 0 (%)")
    axes.set_ylabel("accuracy on test digits (%)")
    axes.set_title("gRDA: accuracy over sparsity; median, p20 and p80 of the seeds", loc="left")
    axes.margins(x=0.12)
    tidy(axes, "both")
    return save(figure, folder / f"{stem}-grda.png", document)


def _draw_b0(document: Entry, rows: Sequence[Entry], folder: Path, stem: str) -> Path:
    figure, (axes,) = new_figure(1, 1, 6.4, 4.2)
    series = list(dict.fromkeys(row["series"] for row in rows))
    for index, name in enumerate(series):
        chosen = sorted((row for row in rows if row["series"] == name), key=lambda row: row["value"])
        values = [row["value"] for row in chosen]
        reached = [_percent(row, "accuracy") for row in chosen]
        color = SERIES[index % len(SERIES)]
        axes.plot(values, [each["p50"] for each in reached], color=color, marker=MARKERS[index % len(MARKERS)],
                  markersize=4, label=name, linestyle=("-", "--", ":", "-.")[index % 4])  # fmt: skip
        axes.fill_between(values, [each["p20"] for each in reached], [each["p80"] for each in reached], color=color,
                          alpha=0.2, linewidth=0)  # fmt: skip
    axes.set_xscale("log")
    axes.set_ylim(0, 100)
    axes.set_xlabel("b0, the guess at where b starts")
    axes.set_ylabel("accuracy on test digits (%)")
    axes.set_title("lr = 1 with any b0; median, p20 to p80 of the seeds", loc="left")
    figure.legend(loc="outside upper right", frameon=False, fontsize=8, ncols=len(series))
    tidy(axes)
    return save(figure, folder / f"{stem}-adaloss.png", document)
