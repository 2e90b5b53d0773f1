"""Figures, drawn from the files of runs alone."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.algorithm import OURS
from bench.measure import Percentiles
from bench.results import Entry
from bench.scaling import PARAMETERS, TENSORS
from bench.train import ADALOSS, GRDA, percent
from bench.training import TORCH

# Okabe and Ito's colours, which colour-blind readers can tell apart; a name has the same one in every figure.
COLORS: Mapping[str, str] = {
    "ours": "#0072B2",
    "ours_graph": "#56B4E9",
    "foreach": "#E69F00",
    "fused": "#D55E00",
    "fused_graph": "#CC79A7",
    "scaled": "#CC79A7",
    "compiled": "#009E73",
    "authors": "#D55E00",
    "torch": "#D55E00",
    "loop": "#999999",
    "plain": "#999999",
    "preferred": "#999999",
    "reference": "#999999",
}
OTHER = "#BBBBBB"  # other libraries, which their labels tell apart
SERIES = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")
GREY = "#666666"
_LABEL_DISTANCE = 0.07  # of the axis, that a label takes


@dataclass(frozen=True)
class Series:
    """What shares a colour: values with their spread, at places along the other axis.

    Args:
        label: in the legend.
        color: of all, or one for each place.
        places: positions of bars, or x of points.
        values: medians with p20 and p80.
        across: of places that were measured too, their spread.
        notes: written at the values; empty text leaves one out.
    """

    label: str
    color: str | Sequence[str]
    places: Sequence[float]
    values: Sequence[Percentiles]
    across: Sequence[Percentiles] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Panel:
    """One pair of axes: horizontal bars or marks at named rows, or lines over numbers."""

    title: str
    x: str
    series: Sequence[Series]
    y: str = ""
    rows: Sequence[str] = ()  # of bars and marks
    kind: str = "bars"  # or "marks" or "lines"
    log: str = ""  # the axes that are logarithmic
    limit: float | None = None  # a dashed line across
    top: float | None = None  # of the y axis

    @property
    def height(self) -> float:
        return 0.9 + 0.28 * len(self.rows) if self.rows else 3.5


def _distances(values: Sequence[Percentiles]) -> list[list[float]]:
    """From the medians to p20 and p80, as matplotlib's error bars want them."""
    return [[each["p50"] - each["p20"] for each in values], [each["p80"] - each["p50"] for each in values]]


def _draw_panel(axes: Axes, panel: Panel) -> None:
    for index, series in enumerate(panel.series):
        middle, errors = [each["p50"] for each in series.values], _distances(series.values)
        if panel.rows:
            # Series of one row side by side.
            height = 0.72 / len(panel.series)
            places = [place + height * (index - (len(panel.series) - 1) / 2) for place in series.places]
            if panel.kind == "bars":
                axes.barh(places, middle, height, xerr=errors, color=series.color, label=series.label,
                          error_kw={"elinewidth": 1, "capsize": 2, "ecolor": "#333333"})  # fmt: skip
            else:
                axes.scatter(middle, places, s=22, color=series.color, marker=MARKERS[index % 6], label=series.label)
            points = [(value + more, place) for value, more, place in zip(middle, errors[1], places, strict=True)]
        else:
            across = _distances(series.across) if series.across else None
            axes.errorbar(series.places, middle, yerr=errors, xerr=across, color=str(series.color), capsize=2,
                          marker=MARKERS[index % 6], markersize=4, linewidth=1.5, label=series.label,
                          linestyle=("-", "--", ":", "-.")[index % 4])  # fmt: skip
            points = list(zip(series.places, middle, strict=True))
        for note, point in zip(series.notes, points, strict=False):
            axes.annotate(note, point, (4, 0 if panel.rows else 6), textcoords="offset points", fontsize=8,
                          va="center" if panel.rows else "bottom")  # fmt: skip
    if panel.rows:
        axes.set_yticks(range(len(panel.rows)), panel.rows, fontsize=8)
        axes.set_ylim(len(panel.rows) - 0.4, -0.6)
        axes.set_xlim(0, 1.2 * max(value["p80"] for series in panel.series for value in series.values))
    if panel.limit is not None:
        axes.axvline(panel.limit, color=GREY, linestyle="--", linewidth=1)
    if "x" in panel.log:
        axes.set_xscale("log")
    if "y" in panel.log:
        axes.set_yscale("log")
    if panel.top is not None:
        axes.set_ylim(0, panel.top)
    axes.set_xlabel(panel.x)
    axes.set_ylabel(panel.y)
    axes.set_title(panel.title, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x" if panel.kind == "bars" else "both", color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)


def save_figure(panels: Sequence[Panel], path: Path, document: Entry, title: str = "", columns: int = 2) -> Path:
    """The one way a figure is made: panels in rows, a legend where there is more than one series, the machine below."""
    mpl.rcParams.update({"font.size": 9, "axes.titlesize": 10, "axes.titleweight": "bold"})
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    size = (4.8 * columns, rows * max(panel.height for panel in panels) + 0.7)
    figure = Figure(figsize=size, layout="constrained")  # without pyplot's state
    figure.get_layout_engine().set(rect=(0, 0.035, 1, 0.965))  # type: ignore[union-attr, call-arg]
    grid = [axes for line in figure.subplots(rows, columns, squeeze=False) for axes in line]
    for axes, panel in zip(grid, panels, strict=False):
        _draw_panel(axes, panel)
    for axes in grid[len(panels) :]:
        axes.remove()
    if len(panels[0].series) > 1:
        figure.legend(*grid[0].get_legend_handles_labels(), loc="outside upper right", frameon=False, fontsize=8,
                      ncols=min(3 * columns, len(panels[0].series)))  # fmt: skip
    if title:
        figure.suptitle(title, fontsize=9)
    environment = document["environment"]
    device = (environment["gpu"] or "").partition(",")[0] or f"{environment['cpu']}, {environment['cores']} cores"
    machine = (
        f"{device}; torch {environment['torch']}, torchclip {environment['torchclip']}, "
        f"{environment['threads']} threads unless said; commit {document['commit'][:10]}"
    )
    figure.text(0.005, 0.002, machine, fontsize=7, color=GREY, ha="left", va="bottom")
    path.parent.mkdir(parents=True, exist_ok=True)
    # No date or version inside, so that the same numbers make the same file.
    figure.savefig(path, dpi=130, metadata={"Software": ""})
    return path


def _scaled(value: Percentiles, factor: float) -> Percentiles:
    return {name: factor * each for name, each in value.items()}


def _inverse(value: Percentiles, factor: float = 1.0) -> Percentiles:
    """Rates of times."""
    return {"p20": factor / value["p80"], "p50": factor / value["p50"], "p80": factor / value["p20"]}


def _exact(value: float) -> Percentiles:
    return {"p20": value, "p50": value, "p80": value}


def color_of(contender: str) -> str:
    return COLORS.get(contender, OTHER)


def _times(row: Entry) -> Panel:
    """Bars of a row's contenders, with how many times the time of ours each takes."""
    contenders = row["contenders"]
    on_cuda = "wall_seconds" in contenders[OURS]
    times = [each["wall_seconds" if on_cuda else "seconds"] for each in contenders.values()]
    unit, factor = ("ms", 1e3) if max(time["p50"] for time in times) >= 1e-3 else ("µs", 1e6)
    ratios = [each["speedup_of_ours"]["p50"] for each in contenders.values()]
    notes = [f"{ratio:.2f} ×" if ratio < 10 else f"{ratio:.0f} ×" for ratio in ratios]
    notes[list(contenders).index(OURS)] = f"{factor * contenders[OURS]['seconds']['p50']:.3g} {unit}"
    values = [_scaled(time, factor) for time in times]
    bars = Series("", [color_of(name) for name in contenders], range(len(times)), values, notes=notes)
    x = f"{'until the device has finished' if on_cuda else 'time'} ({unit})"
    return Panel(row["title"], x, [bars], rows=list(contenders))


def _steps(document: Entry, folder: Path, stem: str) -> Iterator[Path]:
    rows = document["rows"]
    for name in dict.fromkeys(row["set"] for row in rows):
        chosen = [row for row in rows if row["set"] == name]
        first, where = chosen[0], "in cache" if chosen[0]["in_cache"] else "from memory"
        title = (
            f"Time of one step, {name}: {first['tensors']:,} tensors, {first['elements']:,} parameters, {where}\n"
            "bars: median; whiskers: p20 to p80; numbers: how many times the time of ours"
        )
        yield save_figure([_times(row) for row in chosen], folder / f"{stem}-{name}.png", document, title, columns=3)


def _kernels(document: Entry, folder: Path, stem: str) -> Iterator[Path]:
    """The share of the bandwidth: one panel for each type; a row for each rule, a mark for each addition."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for row in document["rows"]:
        rule, _, addition = row["algorithm"].partition("+")
        share = 100 * row["contenders"][OURS]["share_of_triad"]
        found.setdefault(row["set"], {}).setdefault(addition.replace("_", " ") or "plain", {})[rule] = share
    rules = list(dict.fromkeys(row["algorithm"].partition("+")[0] for row in document["rows"]))
    panels = []
    for dtype, additions in found.items():
        series = [
            Series(addition, SERIES[index], [rules.index(rule) for rule in shares], list(map(_exact, shares.values())))
            for index, (addition, shares) in enumerate(additions.items())
        ]
        x = "% of the triad's bandwidth, by the bytes that must move"
        panels.append(Panel(dtype, x, series, rows=rules, kind="marks", limit=100))
    yield save_figure(panels, folder / f"{stem}-kernels.png", document)


def _scaling(document: Entry, folder: Path, stem: str) -> Iterator[Path]:
    """Bandwidth over the number of parameters, below what the memory can do, and time over the number of tensors."""
    for kind in (PARAMETERS, TENSORS):
        rows = [row for row in document["rows"] if row["set"].startswith(f"{kind}-")]
        rows.sort(key=lambda row: (row["elements"], row["tensors"]))  # a resumed run wrote the missing rows last
        panels = []
        for algorithm, threads in dict.fromkeys((row["algorithm"], row["threads"]) for row in rows):
            chosen = [row for row in rows if (row["algorithm"], row["threads"]) == (algorithm, threads)]
            title = f"{chosen[0]['title']}, {threads} thread{'' if threads == 1 else 's'}"
            panels.append((_bandwidths if kind == PARAMETERS else _host_times)(title, chosen))
        if panels:
            yield save_figure(panels, folder / f"{stem}-{kind}.png", document)


def _bandwidths(title: str, rows: Sequence[Entry]) -> Panel:
    counts = [row["elements"] for row in rows]
    moved = [4 * row["words_per_element"] * row["elements"] * 1e-9 for row in rows]
    series = []
    for name in rows[0]["contenders"]:
        times = [row["contenders"][name]["seconds"] for row in rows]
        rates = [_inverse(time, amount) for time, amount in zip(times, moved, strict=True)]
        series.append(Series(name, color_of(name), counts, rates))
    triads = [row["bandwidth"]["triad"] for row in rows]
    limit = [_exact(each["bytes"] * 1e-9 / each["seconds"]["p50"]) for each in triads]
    series.append(Series("memory: triad of large arrays", GREY, counts, limit))
    x = "parameters, in ten tensors or more of a million each"
    return Panel(title, x, series, "GB/s, by the words a fused\nstep must move", kind="lines", log="xy")


def _host_times(title: str, rows: Sequence[Entry]) -> Panel:
    key = "host_seconds" if "host_seconds" in rows[0]["contenders"][OURS] else "seconds"
    counts = [row["tensors"] for row in rows]
    series = [
        Series(name, color_of(name), counts, [_scaled(row["contenders"][name][key], 1e6) for row in rows])
        for name in rows[0]["contenders"]
    ]
    y = "time until step() returns (µs)" if key == "host_seconds" else "time of a step (µs)"
    return Panel(title, "tensors of 64 parameters", series, y, kind="lines", log="xy")


def _train(document: Entry, folder: Path, stem: str) -> Iterator[Path]:
    """Steps per second, gRDA's accuracy over its sparsity, and accuracy over b0 of AdaLoss and its baselines."""
    speed = [row for row in document["rows"] if "contenders" in row]
    panels = []
    for model in dict.fromkeys(row["set"] for row in speed):
        chosen = [row for row in speed if row["set"] == model]
        series = []
        for who, label in ((OURS, "torchclip"), (TORCH, "torch, with clip_grad_norm_")):
            rates = [_inverse(row["contenders"][who]["seconds"]) for row in chosen]
            series.append(Series(label, color_of(who), range(len(chosen)), rates))
        names = []
        for row in chosen:
            theirs = row["beside"].split()[1].rstrip(",")
            names.append(row["algorithm"] + ("" if theirs == row["algorithm"] else f" (beside {theirs})"))
        panels.append(Panel(model, "training steps per second", series, rows=names))
    if panels:
        yield save_figure(panels, folder / f"{stem}-speed.png", document)
    accuracy = "accuracy on test digits (%)"
    rows = sorted((row for row in document["rows"] if row["set"] == GRDA), key=lambda row: float(row["value"]))
    if rows:
        zeros = [percent(row, "sparsity") for row in rows]
        notes, labelled = [], -math.inf
        for zero, row in zip(zeros, rows, strict=True):
            apart = zero["p50"] - labelled >= 100 * _LABEL_DISTANCE
            notes.append(f"c = {row['value']:g}" if apart else "")
            labelled = zero["p50"] if apart else labelled
        points = [each["p50"] for each in zeros]
        series = [Series("gRDA", SERIES[0], points, [percent(row, "accuracy") for row in rows], zeros, notes)]
        title, x = "gRDA: accuracy over sparsity; median, p20 and p80 of the seeds", "parameters that are exactly 0 (%)"
        yield save_figure([Panel(title, x, series, accuracy, kind="lines")], folder / f"{stem}-grda.png", document)
    rows = sorted((row for row in document["rows"] if row["set"] == ADALOSS), key=lambda row: float(row["value"]))
    if rows:
        series = []
        for index, name in enumerate(dict.fromkeys(row["series"] for row in rows)):
            chosen = [row for row in rows if row["series"] == name]
            values = [percent(row, "accuracy") for row in chosen]
            series.append(Series(name, SERIES[index % 6], [row["value"] for row in chosen], values))
        title, x = "lr = 1 with any b0; median, p20 to p80 of the seeds", "b0, the guess at where b starts"
        panel = Panel(title, x, series, accuracy, kind="lines", log="x", top=100)
        yield save_figure([panel], folder / f"{stem}-adaloss.png", document)


_DRAW = {"step": _steps, "kernels": _kernels, "scaling": _scaling, "train": _train}


def draw(document: Entry, folder: Path, stem: str) -> list[Path]:
    """Draws what the document has into the folder, and says what it wrote; nothing where it has nothing to draw."""
    return list(_DRAW[document["command"]](document, folder, stem))
