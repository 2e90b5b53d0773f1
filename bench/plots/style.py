"""What all figures have in common."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Entry = Mapping[str, Any]

# Okabe and Ito's colours, which colour-blind readers can tell apart; a name has the same one in every figure.
COLORS: Mapping[str, str] = MappingProxyType(
    {
        "ours": "#0072B2",
        "ours_graph": "#56B4E9",
        "loop": "#999999",
        "foreach": "#E69F00",
        "fused": "#D55E00",
        "fused_graph": "#CC79A7",
        "scaled": "#CC79A7",
        "compiled": "#009E73",
        "authors": "#D55E00",
        "plain": "#999999",
        "preferred": "#999999",
        "reference": "#999999",
        "torch": "#D55E00",
    }
)
OTHER = "#BBBBBB"  # other libraries, which their labels tell apart
SERIES = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")
GREY = "#666666"


def color_of(contender: str) -> str:
    return COLORS.get(contender, OTHER)


def tidy(axes: Axes, grid: str = "y") -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color="#DDDDDD", linewidth=0.6)  # type: ignore[arg-type]
    axes.set_axisbelow(True)


def machine_of(document: Entry) -> str:
    """The line below a figure: where and with what it was measured."""
    environment = document["environment"]
    gpu = (environment["gpu"] or "").partition(",")[0]
    device = gpu or f"{environment['cpu']}, {environment['cores']} cores"
    return (
        f"{device}; torch {environment['torch']}, torchclip {environment['torchclip']}, "
        f"{environment['threads']} threads unless said; commit {document['commit'][:10]}"
    )


def save(figure: Figure, path: Path, document: Entry) -> Path:
    figure.text(0.005, 0.002, machine_of(document), fontsize=7, color=GREY, ha="left", va="bottom")
    path.parent.mkdir(parents=True, exist_ok=True)
    # No date or version inside, so that the same numbers make the same file.
    figure.savefig(path, dpi=130, metadata={"Software": ""})
    return path


def new_figure(rows: int, columns: int, width: float, height: float, share: bool = False) -> tuple[Figure, list[Axes]]:
    """A figure without pyplot's state, and its axes row by row; the lowest strip is left for the machine."""
    mpl.rcParams.update({"font.size": 9, "axes.titlesize": 10, "axes.titleweight": "bold"})
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.get_layout_engine().set(rect=(0, 0.035, 1, 0.965))  # type: ignore[union-attr, call-arg]
    grid = figure.subplots(rows, columns, squeeze=False, sharey=share)
    return figure, [axes for row in grid for axes in row]


def spread(times: Sequence[Mapping[str, float]], factor: float = 1.0) -> tuple[list[float], list[list[float]]]:
    """The medians, and the distances to p20 and p80 as matplotlib's error bars want them."""
    middle = [factor * time["p50"] for time in times]
    below = [factor * (time["p50"] - time["p20"]) for time in times]
    above = [factor * (time["p80"] - time["p50"]) for time in times]
    return middle, [below, above]
