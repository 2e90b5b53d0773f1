"""The figures of a study: curves with a band over seeds, accuracy over sparsity, accuracy over a hyperparameter."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from recipes.comparison.results import Result
from recipes.comparison.studies import Drawing, Study

# Paul Tol's "bright" and "muted" colours, which colour-blind readers can tell apart; line styles tell the rest.
_COLORS = ("#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377", "#777777", "#882255", "#44AA99")
_STYLES = ("-", "--", ":")
_MARKERS = "osD^vP"

_LOSSES = ("loss", "perplexity")
_LOGARITHMIC = 10  # losses that span more than this factor are drawn on a logarithmic scale


def draw(study: Study, results: Sequence[Result], path: Path) -> None:
    """Writes the figure of the study, a PNG."""
    make = {Drawing.CURVES: _curves, Drawing.SPARSITY: _sparsity, Drawing.SENSITIVITY: _sensitivity}
    figure, axes = plt.subplots(1, 2, figsize=(13, 5), layout="constrained")
    make[study.drawing](study, results, list(axes))
    seeds = max(len(result.seeds) for result in results)
    figure.suptitle(f"{study.title}; {seeds} {'seed' if seeds == 1 else 'seeds'}", fontsize=11)
    for one in axes:
        one.grid(alpha=0.25)
        one.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _style(index: int) -> dict[str, Any]:
    return {"color": _COLORS[index % len(_COLORS)], "linestyle": _STYLES[index // len(_COLORS) % len(_STYLES)]}


def _curve(axes: Axes, result: Result, key: str, index: int) -> None:
    curve = result.curve(key)
    axes.plot(curve.epochs, curve.mean, label=result.line.label, **_style(index))
    if len(result.seeds) > 1:
        axes.fill_between(curve.epochs, curve.low, curve.high, color=_style(index)["color"], alpha=0.15, linewidth=0)


def _scale_losses(axes: Axes, losses: Sequence[float]) -> None:
    """Logarithmic where that shows more, and can be: a policy's loss may be negative."""
    if losses and min(losses) > 0 and max(losses) > _LOGARITHMIC * min(losses):
        axes.set_yscale("log")


def _named(metric: str) -> str:
    return metric.replace("_", " ")


def _curves(study: Study, results: Sequence[Result], axes: list[Axes]) -> None:
    left, right = axes
    for index, result in enumerate(results):
        _curve(left, result, "train_loss", index)
        _curve(right, result, study.metric, index)
        if result.line.published is not None:
            right.axhline(result.line.published, color=_style(index)["color"], linestyle="-.", linewidth=0.8)
    left.set(xlabel="epoch", ylabel="training loss")
    _scale_losses(left, [loss for result in results for loss in result.curve("train_loss").mean])
    if study.metric.endswith(_LOSSES):
        _scale_losses(right, [value for result in results for value in result.curve(study.metric).mean])
    right.set(xlabel="epoch", ylabel=_named(study.metric))
    right.legend(frameon=False, fontsize=8, ncols=1 + len(results) // 7)


def _sparsity(study: Study, results: Sequence[Result], axes: list[Axes]) -> None:
    """Left the end of every run, published ones hollow; right the way there."""
    left, right = axes
    for index, result in enumerate(results):
        color = _style(index)["color"]
        ends = result.last_pairs("sparsity", study.metric)
        x, y = [x for x, _ in ends], [y for _, y in ends]
        left.scatter(x, y, color=color, marker=_MARKERS[index % len(_MARKERS)], label=result.line.label, zorder=3)
        if result.line.published is not None:
            theirs = (result.line.published_sparsity or 0.0, result.line.published)
            left.scatter(*theirs, marker=_MARKERS[index % len(_MARKERS)], facecolors="none", edgecolors=color)
        _curve(right, result, "sparsity", index)
    left.set(xlabel="fraction of parameters that are exactly 0", ylabel=_named(study.metric))
    right.set(xlabel="epoch", ylabel="fraction of parameters that are exactly 0")
    left.legend(frameon=False, fontsize=8)


def _sensitivity(study: Study, results: Sequence[Result], axes: list[Axes]) -> None:
    """The metric and the training loss over the hyperparameter; published numbers as hollow marks."""
    series = list(dict.fromkeys(result.line.series for result in results))
    for index, name in enumerate(series):
        chosen = [result for result in results if result.line.series == name and result.line.value is not None]
        style = _style(index) | {"marker": _MARKERS[index % len(_MARKERS)]}
        for panel, key in zip(axes, (study.metric, "train_loss"), strict=True):
            points = [(float(r.line.value or 0), values) for r in chosen if (values := r.last(key))]
            means = [statistics.mean(values) for _, values in points]  # exact, and so never outside of the values
            below = [mean - min(values) for mean, (_, values) in zip(means, points, strict=True)]
            above = [max(values) - mean for mean, (_, values) in zip(means, points, strict=True)]
            panel.errorbar(
                [value for value, _ in points], means, yerr=[below, above], capsize=2, label=name, **style
            )  # fmt: skip
        theirs = [(r.line.value, r.line.published) for r in chosen if r.line.published is not None]
        if theirs:
            axes[0].plot(
                *zip(*theirs, strict=True), marker=style["marker"], color=style["color"], mfc="none", linestyle=""
            )  # fmt: skip
    axes[0].set(xlabel=study.varies, ylabel=_named(study.metric), xscale="log")
    axes[1].set(xlabel=study.varies, ylabel="training loss of the last epoch", xscale="log")
    _scale_losses(axes[1], [loss for result in results for loss in result.last("train_loss")])
    axes[0].legend(frameon=False, fontsize=8)
