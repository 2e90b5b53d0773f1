"""Rows as text: the cells of one, for the terminal and for tables, and the tables of a command in Markdown."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from tabulate import tabulate

from bench.algorithm import OURS, TORCH
from bench.measure import Percentiles
from bench.results import Entry

Record = dict[str, str]

LEGEND = """\
Everything compared takes its turns in one process, A B C A B C, clipping included on every side; gradients are written
anew before each step, outside the time. Times are medians, in brackets p20 to p80, on a GPU between two marks on the
device, with Lookahead a mean over its cycle. A column that has a competitor's name says how many times as fast as that
competitor ours is: the median of the ratios within each round, since both sides of a round have seen the same machine,
on a GPU until the device has finished. The triad a ← a + s·b and the copy take their turns in the same rounds: GB/s and
"% of triad" go by the words that a fused step must move, and are above 100 % where the tensors stay in the cache.

- swept, of sets in the cache: after a write of 64 MB, as a training step finds the caches, in rounds of their own
- queued: on the device behind a kernel that keeps it busy until the host has queued all of the step, in rounds of their
  own with the triad: what the device takes of itself; empty where a step waits for the device
- host: until step() returns, on an idle device, after the others' turns, which have swept the processor's caches, and
  warm, after steps of its own
- temporaries: memory that a step takes beside what is there before it, at its most

Every row ends with a comparison of the parameters with the reference, and a row that fails it is none."""


def spread(time: Percentiles, factor: float, digits: int) -> str:
    """Median and, in brackets, p20 to p80."""
    return "{p50:,.{d}f} ({p20:,.{d}f} to {p80:,.{d}f})".format(d=digits, **{k: factor * v for k, v in time.items()})


def ratio(found: Percentiles) -> str:
    """How many times as fast."""
    return spread(found, 1, 2 if found["p50"] < 10 else 0)


def about_set(row: Entry) -> str:
    """What a row steps over."""
    where = "in cache" if row["in_cache"] else "from memory"
    return "{set}: {tensors:,} tensors, {elements:,} parameters, {where}".format(**row, where=where)


def _duration(time: Percentiles) -> str:
    unit, factor = ("ms", 1e3) if time["p50"] >= 1e-3 else ("µs", 1e6)
    return f"{factor * time['p50']:.3g} {unit} ({factor * time['p20']:.3g} to {factor * time['p80']:.3g})"


def _ours(row: Entry) -> Record:
    ours = row["contenders"][OURS]
    return {
        "ours": _duration(ours["seconds"]),
        "GB/s": f"{ours['gigabytes_per_second']:.{1 if ours['gigabytes_per_second'] >= 10 else 2}f}",
        "% of triad": f"{100 * ours['share_of_triad']:.0f}",
    }


def _others(row: Entry, key: str = "speedup_of_ours", suffix: str = "") -> Record:
    others = {name: each for name, each in row["contenders"].items() if name != OURS and key in each}
    return {f"{name}{suffix}": ratio(each[key]) for name, each in others.items()}


def _step(row: Entry) -> Record:
    ours = row["contenders"][OURS]
    record = {"": row["title"], **_ours(row)}
    if "swept_seconds" in ours:
        record["swept"] = _duration(ours["swept_seconds"])
    if "queued_seconds" in ours:
        record["queued"] = _duration(ours["queued_seconds"])
        record["% of triad, queued"] = f"{100 * ours['queued_share_of_triad']:.0f}"
    if "host_seconds" in ours:
        record["host"] = _duration(ours["host_seconds"])
        if "warm_host_seconds" in ours:  # older files have none
            record["host, warm"] = f"{1e6 * ours['warm_host_seconds']:.3g} µs"
        record["kernels + copies"] = "{kernels} + {copies}".format(**ours["launches"])
    record["temporaries, MB"] = f"{ours['temporary_bytes'] / 1e6:.2f}"
    return record | _others(row) | _others(row, "swept_speedup_of_ours", ", swept")


def _scaling(row: Entry) -> Record:
    record = {"set": row["set"], "": row["title"], "threads": str(row["threads"])}
    return record | _ours(row) | _others(row)


def _speed(row: Entry) -> Record:
    rates = [f"{1 / row['contenders'][who]['seconds']['p50']:.1f}" for who in (OURS, TORCH)]
    ours_is = ratio(row["contenders"][TORCH]["speedup_of_ours"])
    cells = (row["set"], row["algorithm"], *rates, ours_is, row["beside"])
    return dict(zip(("model", "", "steps/s", "torch's steps/s", "ours is", "beside"), cells, strict=True))


def _kernel(row: Entry) -> Record:
    ours = row["contenders"][OURS]
    cell = f"{spread(ours['seconds'], 1e12 / row['elements'], 0)}, {100 * ours['share_of_triad']:.0f} %"
    return {"kernel": row["algorithm"], f"{row['set']}: ps an element, % of triad": cell}


RECORDS: Mapping[str, Callable[[Entry], Record]] = {
    "step": _step,
    "kernels": _kernel,
    "scaling": _scaling,
    "train": _speed,
}
"""The cells of a command's row, by column."""


def _tables(command: str, rows: Sequence[Entry]) -> Iterator[tuple[str, list[Record]]]:
    """Each table with what goes before it."""
    if command == "step":  # one for each set of shapes
        for name in dict.fromkeys(row["set"] for row in rows):
            chosen = [row for row in rows if row["set"] == name]
            yield f"#### {about_set(chosen[0])}", [_step(row) for row in chosen]
    elif command == "kernels":  # a line for each kernel
        kernels: dict[str, Record] = {}
        for row in rows:
            kernels.setdefault(row["algorithm"], {}).update(_kernel(row))
        yield "", list(kernels.values())
    else:
        yield "", [RECORDS[command](row) for row in rows]


def tables_of(command: str, rows: Sequence[Entry]) -> list[str]:
    """The tables of a command's rows in Markdown, and a blank line before each block."""
    lines = []
    for title, records in _tables(command, rows):
        names = list(dict.fromkeys(name for record in records for name in record))
        cells = [[record.get(name, "") for name in names] for record in records]
        if cells:
            table = tabulate(cells, names, tablefmt="github", disable_numparse=True)
            lines += [line for block in (title, table) if block for line in ("", *block.splitlines())]
    return lines
