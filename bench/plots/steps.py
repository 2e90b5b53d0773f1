"""Bars of step times, and of training steps: one panel for each row, with an axis of its own from zero."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes

from bench.algorithm import OURS
from bench.plots.style import Entry, color_of, new_figure, save, spread, tidy

_COLUMNS = 3


def draw_steps(document: Entry, folder: Path, stem: str) -> list[Path]:
    """A figure for each set of shapes."""
    rows = document["rows"]
    sets = dict.fromkeys(row["set"] for row in rows)
    return [_draw_set(document, [row for row in rows if row["set"] == name], folder, stem) for name in sets]


def _draw_set(document: Entry, rows: Sequence[Entry], folder: Path, stem: str) -> Path:
    columns = min(_COLUMNS, len(rows))
    lines = -(-len(rows) // columns)
    bars = max(len(row["contenders"]) for row in rows)
    figure, panels = new_figure(lines, columns, 4.2 * columns, lines * (0.85 + 0.26 * bars) + 0.7)
    for axes, row in zip(panels, rows, strict=False):
        _draw_row(axes, row)
    for axes in panels[len(rows) :]:
        axes.remove()
    first = rows[0]
    where = "in cache" if first["in_cache"] else "from memory"
    figure.suptitle(
        f"Time of one step, {first['set']}: {first['tensors']:,} tensors, {first['elements']:,} parameters, {where}\n"
        "bars: median; whiskers: p20 to p80; numbers: how many times the time of ours",
        fontsize=9,
    )
    return save(figure, folder / f"{stem}-{first['set']}.png", document)


def _draw_row(axes: Axes, row: Entry) -> None:
    contenders = row["contenders"]
    on_cuda = "wall_seconds" in contenders[OURS]
    times = [each["wall_seconds" if on_cuda else "seconds"] for each in contenders.values()]
    unit, factor = ("ms", 1e3) if max(time["p50"] for time in times) >= 1e-3 else ("µs", 1e6)
    middle, errors = spread(times, factor)
    names = list(contenders)
    places = range(len(names))
    axes.barh(places, middle, xerr=errors, color=[color_of(name) for name in names], height=0.7,
              error_kw={"elinewidth": 1, "capsize": 2, "ecolor": "#333333"})  # fmt: skip
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    for place, (name, value) in enumerate(zip(names, middle, strict=True)):
        ratio = contenders[name]["speedup_of_ours"]["p50"]
        text = f"{value:.3g} {unit}" if name == OURS else f"{ratio:.2f} ×" if ratio < 10 else f"{ratio:.0f} ×"
        end = (value + errors[1][place], place)
        axes.annotate(text, end, (4, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_xlim(0, 1.22 * max(value + above for value, above in zip(middle, errors[1], strict=True)))
    axes.set_xlabel(f"{'until the device has finished' if on_cuda else 'time'} ({unit})")
    axes.set_title(row["title"], loc="left")
    tidy(axes, "x")
