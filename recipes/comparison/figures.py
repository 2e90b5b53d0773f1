"""The figures of a study: curves with a band over seeds, accuracy over sparsity, accuracy over a hyperparameter."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from recipes.comparison.runs import Result
from recipes.comparison.studies import Drawing, Study

# Paul Tol's "bright" and "muted" colours, which colour-blind readers can tell apart; line styles tell the rest.
_COLORS = ("#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377", "#777777", "#882255", "#44AA99")
_STYLES = ("-", "--", ":")
_MARKERS = "osD^vP"
_LOGARITHMIC = 10  # losses that span more than this factor are drawn on a logarithmic scale


def draw(study: Study, results: Sequence[Result], path: Path) -> None:
    """Writes the figure of the study, a PNG."""
    make = {Drawing.CURVES: _curves, Drawing.SPARSITY: _sparsity, Drawing.SENSITIVITY: _sensitivity}
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 5), layout="constrained")
    make[study.drawing](study, results, left, right)
    seeds = max(len(result.seeds) for result in results)
    figure.suptitle(f"{study.title}; {seeds} {'seed' if seeds == 1 else 'seeds'}", fontsize=11)
    for axes in (left, right):
        values = [value for line in axes.lines for value in line.get_ydata()]
        is_loss = axes.get_ylabel().startswith("training loss") or axes.get_ylabel().endswith(("loss", "perplexity"))
        # Where that shows more, and can be: a policy's loss may be negative.
        if is_loss and values and min(values) > 0 and max(values) > _LOGARITHMIC * min(values):
            axes.set_yscale("log")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _style(index: int) -> dict[str, Any]:
    return {"color": _COLORS[index % len(_COLORS)], "linestyle": _STYLES[index // len(_COLORS) % len(_STYLES)]}


def _curve(axes: Axes, result: Result, key: str, index: int) -> None:
    """The mean over the seeds, and a band from the lowest to the highest."""
    epochs, values = result.curve(key)
    axes.plot(epochs, [statistics.mean(row) for row in values], label=result.line.label, **_style(index))
    if len(result.seeds) > 1:
        low, high = [min(row) for row in values], [max(row) for row in values]
        axes.fill_between(epochs, low, high, color=_style(index)["color"], alpha=0.15, linewidth=0)


def _curves(study: Study, results: Sequence[Result], left: Axes, right: Axes) -> None:
    for index, result in enumerate(results):
        _curve(left, result, "train_loss", index)
        _curve(right, result, study.metric, index)
    left.set(xlabel="epoch", ylabel="training loss")
    right.set(xlabel="epoch", ylabel=study.metric.replace("_", " "))
    right.legend(frameon=False, fontsize=8, ncols=1 + len(results) // 7)


def _sparsity(study: Study, results: Sequence[Result], left: Axes, right: Axes) -> None:
    """Left the end of every run; right the way there. More lines than there are colours are coloured by series."""
    series = list(dict.fromkeys(result.line.series for result in results))
    by_series = len(results) > len(_COLORS)
    told = set()
    for position, result in enumerate(results):
        index = series.index(result.line.series) if by_series else position
        label = result.line.series if by_series else result.line.label
        keys = ("sparsity", study.metric)
        ends = [row for *_, row in result.seeds if all(row.get(key) is not None for key in keys)]
        x, y = ([row[key] for row in ends] for key in keys)
        marker = _MARKERS[index % len(_MARKERS)]
        label = "_" if label in told else label  # which a legend leaves out
        told.add(label)
        left.scatter(x, y, color=_style(index)["color"], marker=marker, label=label, zorder=3)
        _curve(right, result, "sparsity", index)
    zeros = "fraction of parameters that are exactly 0"
    left.set(xlabel=zeros, ylabel=study.metric.replace("_", " "))
    right.set(xlabel="epoch", ylabel=zeros)
    left.legend(frameon=False, fontsize=8)


def _sensitivity(study: Study, results: Sequence[Result], left: Axes, right: Axes) -> None:
    """The metric and the training loss of the last epoch over the hyperparameter, with bars from lowest to highest."""
    for index, series in enumerate(dict.fromkeys(result.line.series for result in results)):
        chosen = [result for result in results if result.line.series == series and result.line.value is not None]
        style = _style(index) | {"marker": _MARKERS[index % len(_MARKERS)]}
        for axes, key in ((left, study.metric), (right, "train_loss")):
            points = [(result.line.value or 0.0, values) for result in chosen if (values := result.at(key))]
            x, means = [value for value, _ in points], [statistics.mean(values) for _, values in points]  # exact
            below = [mean - min(values) for mean, (_, values) in zip(means, points, strict=True)]
            above = [max(values) - mean for mean, (_, values) in zip(means, points, strict=True)]
            axes.errorbar(x, means, yerr=[below, above], capsize=2, label=series, **style)
    left.set(xlabel=study.varies, ylabel=study.metric.replace("_", " "), xscale="log")
    right.set(xlabel=study.varies, ylabel="training loss of the last epoch", xscale="log")
    left.legend(frameon=False, fontsize=8)
