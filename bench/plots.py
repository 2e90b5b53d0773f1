"""Figures, drawn from the files of runs alone."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.algorithm import OURS, TORCH
from bench.measure import Percentiles
from bench.report import about_set
from bench.results import Entry
from bench.shapes import PARAMETERS, TENSORS

# Okabe and Ito's colours, which colour-blind readers can tell apart; a name has the same one in every figure.
BLUE, RED, GREEN, ORANGE, PINK, SKY = SERIES = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9")
GREY, LIGHT = "#666666", "#999999"
COLORS = {
    "ours": BLUE,
    "ours_graph": SKY,
    "foreach": ORANGE,
    "fused": RED,
    "fused_graph": PINK,
    "scaled": PINK,
    "compiled": GREEN,
    "authors": RED,
    "torch": RED,
    **dict.fromkeys(("loop", "plain", "preferred", "reference"), LIGHT),
}
OTHER = "#BBBBBB"  # other libraries, which their labels tell apart
MARKERS = ("o", "s", "^", "D", "v", "P")


class Series(NamedTuple):
    """Values with their spread that share a colour, or have one each, at places along the other axis."""

    label: str
    color: str | Sequence[str]
    places: Sequence[float]  # of bars, or x of points
    values: Sequence[Percentiles]
    notes: Sequence[str] = ()  # written at the ends of bars


class Panel(NamedTuple):
    """One pair of axes: horizontal bars or marks at named rows, or lines over numbers."""

    title: str
    x: str
    series: Sequence[Series]
    y: str = ""
    rows: Sequence[str] = ()  # of bars and marks
    marks: bool = False
    log: str = ""  # the axes that are logarithmic


def _distances(values: Sequence[Percentiles]) -> list[list[float]]:
    """From the medians to p20 and p80, as matplotlib's error bars want them."""
    return [[each["p50"] - each["p20"] for each in values], [each["p80"] - each["p50"] for each in values]]


def _draw_panel(axes: Axes, panel: Panel) -> None:
    for index, series in enumerate(panel.series):
        middle, errors = [each["p50"] for each in series.values], _distances(series.values)
        if panel.rows:
            height = 0.72 / len(panel.series)  # series of one row side by side
            places = [place + height * (index - (len(panel.series) - 1) / 2) for place in series.places]
        if panel.marks:
            axes.axvline(100, color=GREY, linestyle="--", linewidth=1)
            axes.scatter(middle, places, s=22, color=series.color, marker=MARKERS[index % 6], label=series.label)
        elif panel.rows:
            axes.barh(places, middle, height, xerr=errors, color=series.color, label=series.label,
                      error_kw={"elinewidth": 1, "capsize": 2, "ecolor": "#333333"})  # fmt: skip
            for note, value, place in zip(series.notes, series.values, places, strict=False):
                axes.annotate(note, (value["p80"], place), (4, 0), textcoords="offset points", fontsize=8, va="center")
        else:
            axes.errorbar(series.places, middle, yerr=errors, color=str(series.color), capsize=2, linewidth=1.5,
                          marker=MARKERS[index % 6], markersize=4, linestyle=("-", "--", ":", "-.")[index % 4],
                          label=series.label)  # fmt: skip
    if panel.rows:
        axes.set_yticks(range(len(panel.rows)), panel.rows, fontsize=8)
        axes.set_ylim(len(panel.rows) - 0.4, -0.6)
        axes.set_xlim(0, 1.2 * max(value["p80"] for series in panel.series for value in series.values))
    for name in panel.log:
        axes.set(**{f"{name}scale": "log"})
    axes.set_xlabel(panel.x)
    axes.set_ylabel(panel.y)
    axes.set_title(panel.title, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x" if panel.rows and not panel.marks else "both", color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)


def _save(panels: Sequence[Panel], title: str, path: Path, document: Entry) -> Path:
    """The one way a figure is made: panels in rows, a legend where there is more than one series, the machine below."""
    mpl.rcParams.update({"font.size": 9, "axes.titlesize": 10, "axes.titleweight": "bold"})
    columns = min(3 if title else 2, len(panels))
    rows = -(-len(panels) // columns)
    height = max(0.9 + 0.28 * len(panel.rows) if panel.rows else 3.5 for panel in panels)
    figure = Figure(
        figsize=(4.8 * columns + 1.6 * (columns == 1), rows * height + 0.7), layout="constrained"
    )  # without pyplot's state
    figure.get_layout_engine().set(rect=(0, 0.035, 1, 0.965))  # type: ignore[union-attr, call-arg]
    grid = [axes for line in figure.subplots(rows, columns, squeeze=False) for axes in line]
    for axes, panel in zip(grid, panels, strict=False):
        _draw_panel(axes, panel)
    for axes in grid[len(panels) :]:
        axes.remove()
    if len(panels[0].series) > 1:
        figure.legend(*grid[0].get_legend_handles_labels(), loc="outside upper right", frameon=False, fontsize=8,
                      ncols=min(3 * columns, len(panels[0].series)))  # fmt: skip
    figure.suptitle(title, fontsize=9)
    environment = document["environment"]
    device = (environment["gpu"] or "").partition(",")[0] or f"{environment['cpu']}, {environment['cores']} cores"
    versions = "torch {torch}, torchclip {torchclip}, {threads} threads unless said".format(**environment)
    machine = f"{device}; {versions}; commit {document['commit'][:10]}"
    figure.text(0.005, 0.002, machine, fontsize=7, color=GREY, ha="left", va="bottom")
    path.parent.mkdir(parents=True, exist_ok=True)
    # No date or version inside, so that the same numbers make the same file.
    figure.savefig(path, dpi=130, metadata={"Software": ""})
    return path


def _scaled(value: Percentiles, factor: float) -> Percentiles:
    return {name: factor * each for name, each in value.items()}


def _rate(time: Percentiles, amount: float = 1.0) -> Percentiles:
    return {"p20": amount / time["p80"], "p50": amount / time["p50"], "p80": amount / time["p20"]}


def _exact(value: float) -> Percentiles:
    return dict.fromkeys(("p20", "p50", "p80"), value)


def color_of(contender: str) -> str:
    return COLORS.get(contender, OTHER)


def _times(row: Entry) -> Panel:
    """Bars of a row's contenders, with how many times the time of ours each takes."""
    contenders = row["contenders"]
    on_cuda = "wall_seconds" in contenders[OURS]
    times = [each["wall_seconds" if on_cuda else "seconds"] for each in contenders.values()]
    unit, factor = ("ms", 1e3) if max(time["p50"] for time in times) >= 1e-3 else ("µs", 1e6)
    values = [_scaled(time, factor) for time in times]
    ratios = [each["speedup_of_ours"]["p50"] for each in contenders.values()]
    notes = [f"{ratio:.2f} ×" if ratio < 10 else f"{ratio:.0f} ×" for ratio in ratios]
    ours = list(contenders).index(OURS)
    notes[ours] = f"{values[ours]['p50']:.3g} {unit}"
    bars = Series("", [color_of(name) for name in contenders], range(len(times)), values, notes=notes)
    x = f"{'until the device has finished' if on_cuda else 'time'} ({unit})"
    return Panel(row["title"], x, [bars], rows=list(contenders))


Drawn = Iterator[tuple[str, Sequence[Panel], str]]
"""Figures: the end of a file's name, panels, and a title over them."""


def _steps(rows: Sequence[Entry]) -> Drawn:
    how = "bars: median; whiskers: p20 to p80; numbers: how many times the time of ours"
    for name in dict.fromkeys(row["set"] for row in rows):
        chosen = [row for row in rows if row["set"] == name]
        yield name, [_times(row) for row in chosen], f"Time of one step, {about_set(chosen[0])}\n{how}"


def _kernels(rows: Sequence[Entry]) -> Drawn:
    """The share of the bandwidth: one panel for each type; a row for each rule, a mark for each addition."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for row in rows:
        rule, _, addition = row["algorithm"].partition("+")
        share = 100 * row["contenders"][OURS]["share_of_triad"]
        found.setdefault(row["set"], {}).setdefault(addition.replace("_", " ") or "plain", {})[rule] = share
    rules = list(dict.fromkeys(row["algorithm"].partition("+")[0] for row in rows))
    panels = []
    for dtype, additions in found.items():
        series = [
            Series(addition, SERIES[index], [rules.index(rule) for rule in shares], list(map(_exact, shares.values())))
            for index, (addition, shares) in enumerate(additions.items())
        ]
        x = "% of the triad's bandwidth, by the bytes that must move"
        panels.append(Panel(dtype, x, series, rows=rules, marks=True))
    yield "kernels", panels, ""


def _scaling(rows: Sequence[Entry]) -> Drawn:
    """Bandwidth over the number of parameters, below what the memory can do, and time over the number of tensors."""
    for kind in (PARAMETERS, TENSORS):
        sized = [row for row in rows if row["set"].startswith(f"{kind}-")]
        sized.sort(key=lambda row: (row["elements"], row["tensors"]))  # a resumed run wrote the missing rows last
        panels = []
        for key in dict.fromkeys((row["algorithm"], row["threads"]) for row in sized):
            panels.append(_sizes([row for row in sized if (row["algorithm"], row["threads"]) == key], kind))
        yield kind, panels, ""


def _sizes(rows: Sequence[Entry], kind: str) -> Panel:
    names = rows[0]["contenders"]
    if kind == TENSORS:
        key = "host_seconds" if "host_seconds" in names[OURS] else "seconds"
        counts = [row["tensors"] for row in rows]
        lines = {name: [_scaled(row["contenders"][name][key], 1e6) for row in rows] for name in names}
        x, y = "tensors of 64 parameters", "time until step() returns (µs)" if key[0] == "h" else "time of a step (µs)"
    else:
        counts = [row["elements"] for row in rows]
        moved = [4e-9 * row["words_per_element"] * row["elements"] for row in rows]
        times = {name: [row["contenders"][name]["seconds"] for row in rows] for name in names}
        lines = {name: [_rate(*pair) for pair in zip(times[name], moved, strict=True)] for name in names}
        triads = [row["bandwidth"]["triad"] for row in rows]
        lines["memory: triad of large arrays"] = [_exact(t["bytes"] * 1e-9 / t["seconds"]["p50"]) for t in triads]
        x, y = "parameters, in ten tensors or more of a million each", "GB/s, by the words a fused\nstep must move"
    series = [Series(name, COLORS.get(name, GREY), counts, values) for name, values in lines.items()]
    return Panel("{title}, threads: {threads}".format(**rows[0]), x, series, y, log="xy")


def _train(rows: Sequence[Entry]) -> Drawn:
    """Steps per second."""
    panels = []
    for model in dict.fromkeys(row["set"] for row in rows):
        chosen = [row for row in rows if row["set"] == model]
        series = [
            Series(label, color_of(who), range(len(chosen)), [_rate(r["contenders"][who]["seconds"]) for r in chosen])
            for who, label in ((OURS, "torchclip"), (TORCH, "torch, with clip_grad_norm_"))
        ]
        pairs = [(row["algorithm"], row["beside"].split()[1].rstrip(",")) for row in chosen]
        labels = [name if name == other else f"{name} (beside {other})" for name, other in pairs]
        panels.append(Panel(model, "training steps per second", series, rows=labels))
    yield "speed", panels, ""


_DRAW = {"step": _steps, "kernels": _kernels, "scaling": _scaling, "train": _train}


def draw(document: Entry, folder: Path, stem: str) -> list[Path]:
    """Draws what the document has into the folder, and says what it wrote."""
    figures = _DRAW[document["command"]](document["rows"])
    return [_save(panels, title, folder / f"{stem}-{name}.png", document) for name, panels, title in figures if panels]
