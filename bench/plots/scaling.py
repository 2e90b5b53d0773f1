"""Bandwidth over the number of parameters, below what the memory can do, and time over the number of tensors."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes

from bench.algorithm import OURS
from bench.plots.style import GREY, MARKERS, Entry, color_of, new_figure, save, spread, tidy
from bench.scaling.sizes import PARAMETERS, TENSORS


def draw_scaling(document: Entry, folder: Path, stem: str) -> list[Path]:
    drawn = []
    for kind, draw in ((PARAMETERS, _bandwidth), (TENSORS, _host)):
        rows = [row for row in document["rows"] if row["set"].startswith(f"{kind}-")]
        rows.sort(key=lambda row: (row["elements"], row["tensors"]))  # a resumed run wrote the missing rows last
        if rows:
            panels = list(dict.fromkeys((row["algorithm"], row["threads"]) for row in rows))
            columns = min(2, len(panels))
            lines = -(-len(panels) // columns)
            figure, all_axes = new_figure(lines, columns, 5.2 * columns, 3.5 * lines + 0.4, share=True)
            for axes, key in zip(all_axes, panels, strict=False):
                chosen = [row for row in rows if (row["algorithm"], row["threads"]) == key]
                draw(axes, chosen)
                plural = "thread" if key[1] == 1 else "threads"
                axes.set_title(f"{chosen[0]['title']}, {key[1]} {plural}", loc="left")
            all_axes[0].legend(frameon=False, fontsize=8)
            drawn.append(save(figure, folder / f"{stem}-{kind}.png", document))
    return drawn


def _contenders(rows: Sequence[Entry]) -> list[str]:
    return list(rows[0]["contenders"])


def _bandwidth(axes: Axes, rows: Sequence[Entry]) -> None:
    counts = [row["elements"] for row in rows]
    for name, marker in zip(_contenders(rows), MARKERS, strict=False):
        moved = [4 * row["words_per_element"] * row["elements"] * 1e-9 for row in rows]
        times = [row["contenders"][name]["seconds"] for row in rows]
        middle = [amount / time["p50"] for amount, time in zip(moved, times, strict=True)]
        low = [amount / time["p80"] for amount, time in zip(moved, times, strict=True)]
        high = [amount / time["p20"] for amount, time in zip(moved, times, strict=True)]
        axes.plot(counts, middle, marker=marker, markersize=4, color=color_of(name), label=name, linewidth=1.5)
        axes.fill_between(counts, low, high, color=color_of(name), alpha=0.2, linewidth=0)
    triad = [row["bandwidth"]["triad"]["bytes"] * 1e-9 / row["bandwidth"]["triad"]["seconds"]["p50"] for row in rows]
    axes.plot(counts, triad, color=GREY, linestyle="--", linewidth=1.2, label="memory: triad of large arrays")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("parameters, in ten tensors or more of a million each")
    axes.set_ylabel("GB/s, by the words a fused\nstep must move")
    tidy(axes)


def _host(axes: Axes, rows: Sequence[Entry]) -> None:
    counts = [row["tensors"] for row in rows]
    on_cuda = "host_seconds" in rows[0]["contenders"][OURS]
    for name, marker in zip(_contenders(rows), MARKERS, strict=False):
        each = [row["contenders"][name]["host_seconds" if on_cuda else "seconds"] for row in rows]
        middle, errors = spread(each, 1e6)
        axes.errorbar(counts, middle, yerr=errors, marker=marker, markersize=4, color=color_of(name), label=name,
                      linewidth=1.5, capsize=2)  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("tensors of 64 parameters")
    axes.set_ylabel("time until step() returns (µs)" if on_cuda else "time of a step (µs)")
    tidy(axes)
