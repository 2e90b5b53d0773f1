"""Rows as text: the cells of one, for the terminal and for tables, and `python -m bench report`.

The report is docs/benchmarks.md and its figures, from files of results and from nothing else.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from tabulate import tabulate

from bench.algorithm import OURS, TORCH
from bench.measure import Percentiles
from bench.options import Command, Refused, option
from bench.results import Entry, differences, read_document

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


_INTRODUCTION = """\
# Benchmarks

Written by `python -m bench report` from files of results; nothing in it is typed by hand.

"""


def described(environment: Entry) -> str:
    """Where and with what a run is made."""
    return (
        "{cpu}, {cores} cores, {threads} threads, torch {torch}, torchclip {torchclip} (backend {backend}), "
        "Python {python}, {system}"
    ).format(**environment)


TITLES = {"step": "Steps", "kernels": "Kernels", "scaling": "Scaling", "train": "Training"}
"""Of the sections, by command."""


class Run(NamedTuple):
    """A file of results."""

    path: Path
    document: Entry

    @property
    def section(self) -> tuple[bool, str, int, tuple[str, ...]]:
        """Its place: GPUs first, then device, command, and the competitors beside the usual ones, as an order."""
        environment, settings = self.document["environment"], self.document["settings"]
        command = list(TITLES).index(self.document["command"])
        device = environment["gpu"] or environment["cpu"]
        return environment["gpu"] is None, device, command, tuple(settings.get("beside", ()))

    @property
    def about(self) -> str:
        """Where, with what and how it was measured."""
        command, commit, where = self.document["command"], self.document["commit"], self.document["environment"]
        how = f"{self.document['settings']['seconds']:g} s a row; commit {commit:.12}"
        return f"- `{self.path.name}`, from `python -m bench {command}`: {described(where)}; {how}"


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """The files of one document; raises `Refused` when a table would mix machines or threads, or have a row twice."""
    runs = [Run(path, read_document(path)) for path in paths]
    seen: dict[Any, Run] = {}
    for run in runs:
        if run.document["command"] not in TITLES:
            raise Refused(f"{run.path} holds results of `{run.document['command']}`, which has no table")
        first = seen.setdefault(run.section, run)
        ours, theirs = (each.document["environment"] for each in (first, run))
        if found := differences(ours, theirs, list(ours)):
            raise Refused(
                f"{first.path} and {run.path} were measured on different machines ({'; '.join(found)}) "
                "and cannot share a table: leave one of them out"
            )
        for row in run.document["rows"]:
            key = "/".join(str(row[name]) for name in ("set", "algorithm", "threads") if name in row)
            if (other := seen.setdefault((run.section, key), run)) is not run:
                raise Refused(f"{other.path} and {run.path} both have {key}: leave one of them out")
    return runs


def write_report(runs: Sequence[Run], path: Path, draw: Callable[[Entry, Path, str], list[Path]]) -> None:
    """Writes the document, and its figures into the folder `figures` beside it."""
    lines = [_INTRODUCTION + LEGEND]
    last = None
    for section in sorted({run.section for run in runs}):
        if last != section[1]:
            here = [run.about for run in runs if run.section[1] == section[1]]
            lines += ["", f"## {section[1]}", "", *here]
        last = section[1]
        chosen = [run for run in runs if run.section == section]
        command, beside = list(TITLES)[section[2]], section[3]
        more = f", beside {' and '.join(beside)} too" if beside else ""
        lines += ["", f"### {TITLES[command]}{more}"]
        lines += tables_of(command, [row for run in chosen for row in run.document["rows"]])
        drawn = [figure for run in chosen for figure in draw(run.document, path.parent / "figures", run.path.stem)]
        lines += [line for each in drawn for line in ("", f"![{each.stem}](figures/{each.name})")]
    path.write_text("\n".join(lines) + "\n")


@dataclass(kw_only=True)
class Report(Command):
    """docs/benchmarks.md, with its figures, from files of results"""

    name: ClassVar[str] = "report"
    files: Sequence[Path] = option(MISSING, "written by --json of the other commands", Path, metavar="FILE")
    out: Path = option(Path("docs/benchmarks.md"), "the document", Path, metavar="PATH")

    def run(self) -> int:
        try:
            from bench.plots import draw
        except ImportError as error:  # a machine that only measures need not have it
            raise Refused(f"{error}: pip install matplotlib") from error
        runs = read_runs(self.files)
        self.out.parent.mkdir(parents=True, exist_ok=True)
        write_report(runs, self.out, draw)
        print(self.out)
        return 0
