"""Tables in Markdown, one for each command."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from bench.algorithm import OURS
from bench.measure import Percentiles
from bench.train.speed import TORCH

Entry = Mapping[str, Any]
Lines = list[str]

_NONE = ""


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Lines:
    return [
        f"| {' | '.join(columns)} |",
        "|" + "---|" * len(columns),
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def _duration(time: Mapping[str, float]) -> str:
    unit, factor = ("ms", 1e3) if time["p50"] >= 1e-3 else ("µs", 1e6)
    return f"{factor * time['p50']:.3g} {unit} ({factor * time['p20']:.3g} to {factor * time['p80']:.3g})"


def _ratio(time: Mapping[str, float]) -> str:
    digits = 2 if time["p50"] < 10 else 0
    return f"{time['p50']:.{digits}f} ({time['p20']:.{digits}f} to {time['p80']:.{digits}f})"


def _others(rows: Sequence[Entry]) -> list[str]:
    """Everyone who was measured beside ours, each once."""
    return [name for name in dict.fromkeys(name for row in rows for name in row["contenders"]) if name != OURS]


def step_tables(rows: Sequence[Entry]) -> Lines:
    """One table for each set of shapes; a column for each competitor."""
    lines: Lines = []
    for name in dict.fromkeys(row["set"] for row in rows):
        chosen = [row for row in rows if row["set"] == name]
        first, others = chosen[0], _others(chosen)
        where = "in cache" if first["in_cache"] else "from memory"
        lines += ["", f"#### {name}: {first['tensors']:,} tensors, {first['elements']:,} parameters, {where}", ""]
        on_cuda = any("host_seconds" in row["contenders"][OURS] for row in chosen)
        queued = any("queued_seconds" in row["contenders"][OURS] for row in chosen)
        columns = ["", "ours", "GB/s", "% of triad", *(["queued", "% of triad, queued"] if queued else [])]
        columns += [*(["host", "host, warm"] if on_cuda else []), "temporaries, MB"]
        lines += _table([*columns, *others], [_step_cells(row, others, queued, on_cuda) for row in chosen])
    return lines


def _step_cells(row: Entry, others: Sequence[str], queued: bool, on_cuda: bool) -> list[str]:
    contenders = row["contenders"]
    ours = contenders[OURS]
    cells = [row["title"], _duration(ours["seconds"]), f"{ours['gigabytes_per_second']:.1f}"]
    cells.append(f"{100 * ours['share_of_triad']:.0f}")
    if queued and "queued_seconds" in ours:
        cells += [_duration(ours["queued_seconds"]), f"{100 * ours['queued_share_of_triad']:.0f}"]
    elif queued:
        cells += [_NONE, _NONE]
    if on_cuda:
        cells += [_duration(ours["host_seconds"]), f"{1e6 * ours['warm_host_seconds']:.3g} µs"]
    cells.append(f"{ours['temporary_bytes'] / 1e6:.2f}")
    return cells + [_ratio(contenders[name]["speedup_of_ours"]) if name in contenders else _NONE for name in others]


def kernel_tables(rows: Sequence[Entry]) -> Lines:
    """A line for each kernel, with the time of an element and the share of the triad in each type."""
    types = list(dict.fromkeys(row["set"] for row in rows))
    cells: dict[str, dict[str, str]] = {}
    for row in rows:
        time = {name: 1e12 * value for name, value in row["seconds_per_element"].items()}
        share = 100 * row["contenders"][OURS]["share_of_triad"]
        text = f"{time['p50']:.0f} ({time['p20']:.0f} to {time['p80']:.0f}), {share:.0f} %"
        cells.setdefault(row["algorithm"], {})[row["set"]] = text
    lines = [[name, *(found.get(dtype, _NONE) for dtype in types)] for name, found in cells.items()]
    return ["", *_table(["kernel", *(f"{dtype}: ps an element, % of triad" for dtype in types)], lines)]


def scaling_tables(rows: Sequence[Entry]) -> Lines:
    """Steps by size and threads, then imports and first steps."""
    steps = [row for row in rows if "contenders" in row]
    starts = [row for row in rows if "contenders" not in row]
    lines: Lines = []
    if steps:
        others = _others(steps)
        columns = ["set", "", "threads", "ours", "GB/s", "% of triad", *others]
        cells = [
            [
                row["set"],
                row["title"],
                str(row["threads"]),
                _duration(row["contenders"][OURS]["seconds"]),
                f"{row['contenders'][OURS]['gigabytes_per_second']:.2f}",
                f"{100 * row['contenders'][OURS]['share_of_triad']:.0f}",
                *(
                    _ratio(row["contenders"][name]["speedup_of_ours"]) if name in row["contenders"] else _NONE
                    for name in others
                ),
            ]
            for row in steps
        ]
        lines += ["", *_table(columns, cells)]
    if starts:
        parts = list(dict.fromkeys(part for row in starts for part in row["seconds"]))
        cells = [
            [row["algorithm"], str(row["threads"]),
             *(_duration(row["seconds"][part]) if part in row["seconds"] else _NONE for part in parts)]
            for row in starts
        ]  # fmt: skip
        lines += ["", "AdamW with clipping on resnet50's tensors, each in a process of its own:", ""]
        lines += _table(["", "threads", *parts], cells)
    return lines


def train_tables(rows: Sequence[Entry]) -> Lines:
    """Steps per second, then the points of the curves."""
    speed = [row for row in rows if "contenders" in row]
    curves = [row for row in rows if "runs" in row]
    lines: Lines = []
    if speed:
        cells = [
            [
                row["set"],
                row["algorithm"],
                f"{row['contenders'][OURS]['steps_per_second']:.1f}",
                f"{row['contenders'][TORCH]['steps_per_second']:.1f}",
                _ratio(row["contenders"][TORCH]["speedup_of_ours"]),
                row["beside"],
            ]
            for row in speed
        ]
        lines += ["", *_table(["model", "ours", "steps/s", "torch's steps/s", "ours is", "beside"], cells)]
    if curves:
        cells = [[row["series"], f"{row['parameter']} = {row['value']:g}", _percent(row, "accuracy"),
                  _percent(row, "sparsity"), str(len(row["runs"]))] for row in curves]  # fmt: skip
        lines += ["", *_table(["optimizer", "", "test accuracy, %", "exact zeros, %", "seeds"], cells)]
    return lines


def _percent(row: Entry, what: str) -> str:
    found = Percentiles.of([100 * run[what] for run in row["runs"]])
    return f"{found.p50:.1f} ({found.p20:.1f} to {found.p80:.1f})"


TABLES: Mapping[str, tuple[str, Callable[[Sequence[Entry]], Lines]]] = MappingProxyType(
    {
        "step": ("Steps", step_tables),
        "kernels": ("Kernels", kernel_tables),
        "scaling": ("Scaling, imports and first steps", scaling_tables),
        "train": ("Training", train_tables),
    }
)
"""By command: the title of its section, and what makes its tables."""
