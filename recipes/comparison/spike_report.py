"""The tables and the figure of the spike drills: drills.csv, table.md, figure.png."""

import csv
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

_WINDOW = 20  # steps, over which losses are averaged
_RECOVERED = 0.1  # nats above the loss without the fault
_SHOWN = "×100"  # the fault whose curves are drawn
_COLORS = ("#777777", "#4477AA", "#66CCEE", "#CCBB44", "#EE6677", "#AA3377", "#228833", "#882255", "#44AA99")
Run = Mapping[str, Any]  # "model", "policy", "seed", "branches": by fault "losses" and "poisoned"


def _averaged(losses: Sequence[float | None]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Means over windows of steps, [len(losses) - window + 1]; NaN where one of them is missing."""
    values = np.array([math.nan if loss is None else loss for loss in losses])
    return np.convolve(values, np.ones(min(_WINDOW, len(values))) / min(_WINDOW, len(values)), "valid")


def cost(clean: Sequence[float], losses: Sequence[float | None]) -> tuple[float, float]:
    """How much higher the loss is on average than without the fault, and after how many steps no more.

    The latter is the number of steps until the mean over twenty of them stays within 0.1 nats; infinite where it does
    not, and both where the run ended in NaN.
    """
    if None in losses:
        return math.inf, math.inf
    apart = np.array(losses, dtype=float) - np.array(clean, dtype=float)
    above = (_averaged(apart.tolist()) > _RECOVERED).nonzero()[0]
    steps = 0 if not len(above) else above[-1] + 1
    return float(apart.mean()), math.inf if steps > len(apart) - _WINDOW else float(steps)


def costs(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """A row for every run and fault."""
    rows = []
    for run in runs:
        clean = run["branches"]["none"]["losses"]
        for fault, branch in run["branches"].items():
            if fault == "none":
                continue
            lost, steps = cost(clean, branch["losses"])
            about = {key: run[key] for key in ("model", "policy", "seed")}
            rows.append(about | {"fault": fault, "lost": lost, "steps": steps, "poisoned": branch["poisoned"]})
    return rows


def _chosen(rows: Sequence[Mapping[str, Any]], key: str, **about: str) -> list[float]:
    return [row[key] for row in rows if all(row[name] == value for name, value in about.items())]


def _cell(rows: Sequence[Mapping[str, Any]], after: int, **about: str) -> str:
    """Loss lost and steps to recover of one policy under one fault; how much of it is poisoned where that is any."""
    poisoned = statistics.mean(_chosen(rows, "poisoned", **about))
    lost, steps = statistics.mean(_chosen(rows, "lost", **about)), statistics.median(_chosen(rows, "steps", **about))
    if math.isinf(lost):
        return f"NaN, {poisoned:.0%} poisoned"
    return (
        f"{f'{lost:+.3f}' if lost < 10 else f'{lost:+.0f}'}, {f'{steps:.0f}' if math.isfinite(steps) else f'> {after}'}"
    )


def tables(runs: Sequence[Run]) -> str:
    """By model: a row for every policy, a column for every fault."""
    rows, text = costs(runs), ""
    faults = list(dict.fromkeys(row["fault"] for row in rows))
    for model in dict.fromkeys(run["model"] for run in runs):
        here = [run for run in runs if run["model"] == model]
        after = len(here[0]["branches"]["none"]["losses"])
        text += f"\n**{model}**\n\n| | loss without a fault | " + " | ".join(faults) + " |\n"
        text += "|---" * (2 + len(faults)) + "|\n"
        for policy in dict.fromkeys(run["policy"] for run in here):
            ends = [_averaged(run["branches"]["none"]["losses"])[-1] for run in here if run["policy"] == policy]
            spread = f" ± {statistics.stdev(ends):.3f}" if len(ends) > 1 else ""
            cells = [_cell(rows, after, model=model, policy=policy, fault=fault) for fault in faults]
            text += f"| {policy} | {statistics.mean(ends):.3f}{spread} | " + " | ".join(cells) + " |\n"
    return text


def _curves(axes: Axes, runs: Sequence[Run], policies: Sequence[str]) -> None:
    """Mean losses over the seeds behind one fault; dashed, those of no policy and no fault."""

    def mean(policy: str, fault: str) -> Any:
        chosen = [run["branches"][fault]["losses"] for run in runs if run["policy"] == policy]
        return np.mean([_averaged(losses) for losses in chosen], axis=0)

    undisturbed = mean(policies[0], "none")
    lowest, highest = float(undisturbed.min()), float(undisturbed.max())
    for index, policy in enumerate(policies):
        losses = mean(policy, _SHOWN)
        finite = losses[np.isfinite(losses)]
        lowest, highest = min([lowest, *finite]), max([highest, *finite])
        color, wide = _COLORS[index % len(_COLORS)], 2.5 if index == 0 else 1.2
        axes.plot(np.arange(len(losses)) + _WINDOW / 2, losses, color=color, linewidth=wide, label=policy)
    axes.plot(np.arange(len(undisturbed)) + _WINDOW / 2, undisturbed, "k--", label="no fault, no clipping")
    axes.set(xlabel=f"steps after the fault (gradients {_SHOWN})", ylabel=f"loss, nats, mean of {_WINDOW} steps")
    axes.set(title=runs[0]["model"], ylim=(0.98 * lowest, min(1.02 * highest, 1.6 * float(undisturbed.max()))))
    axes.spines[["top", "right"]].set_visible(False)


def _map(axes: Axes, runs: Sequence[Run], policies: Sequence[str], named: bool) -> None:
    rows = costs(runs)
    faults = list(dict.fromkeys(row["fault"] for row in rows))
    lost = np.array([
        [statistics.mean(_chosen(rows, "lost", policy=policy, fault=fault)) for fault in faults] for policy in policies
    ])  # fmt: skip
    colors = plt.get_cmap("YlOrRd").with_extremes(bad="black")
    axes.imshow(np.where(np.isinf(lost), np.nan, lost), cmap=colors, vmin=0.0, vmax=1.0, aspect="auto")
    for (row, column), value in np.ndenumerate(lost):
        told = "NaN" if math.isinf(value) else f"{max(value, 0.0):.2f}" if value < 10 else f"{value:.0f}"
        axes.text(column, row, told, ha="center", va="center", color="white" if value > 0.7 else "black", fontsize=9)
    axes.set_xticks(range(len(faults)), faults)
    axes.set_yticks(range(len(policies)), policies if named else [])
    axes.set(title="mean loss above that of the same run without the fault, nats", xlabel="fault")


def report(runs: Sequence[Run], folder: Path) -> str:
    """Writes drills.csv, table.md and figure.png; returns the tables."""
    rows = costs(runs)
    with (folder / "drills.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    text = tables(runs)
    (folder / "table.md").write_text(text)
    models = list(dict.fromkeys(run["model"] for run in runs))
    policies = list(dict.fromkeys(run["policy"] for run in runs))
    figure, grid = plt.subplots(2, len(models), figsize=(7.5 * len(models), 9), layout="constrained", squeeze=False)
    for column, model in enumerate(models):
        here = [run for run in runs if run["model"] == model]
        _curves(grid[0, column], here, policies)
        _map(grid[1, column], here, policies, named=column == 0)
    grid[0, 0].legend(frameon=False, fontsize=8)
    figure.savefig(folder / "figure.png", dpi=110)
    plt.close(figure)
    return f"{text}\n{folder}/drills.csv, {folder}/table.md, {folder}/figure.png"
