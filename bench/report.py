"""`python -m bench report`: docs/benchmarks.md and its figures, from files of results and from nothing else."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from tabulate import tabulate

from bench.algorithm import OURS
from bench.measure import Percentiles
from bench.measurement import about_set, ratio, spread
from bench.options import Command, Refused, option
from bench.results import Entry, differences, read_document
from bench.train import percent
from bench.training import TORCH

Record = dict[str, str]

_INTRODUCTION = """\
# Benchmarks

Written by `python -m bench report` from files of results; nothing in it is typed by hand.

Everything compared takes its turns in one process, A B C A B C, clipping included on every side. Times are medians, in
brackets p20 to p80. "N times as fast" is the median of the ratios within each round, since both sides of a round have
seen the same machine; a column that has a competitor's name says how many times as fast as that competitor ours is.
The triad a ← a + s·b and the copy take their turns in the same rounds: "% of triad" is the bandwidth by the words that
a fused step must move, as a share of the triad's, and above 100 where the tensors stay in the cache. There "swept" is
the time after a write of 64 MB, as a training step finds the caches. Every row ends with a comparison of the parameters
with the reference, and a row that fails it is none."""


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
        record["host, warm"] = f"{1e6 * ours['warm_host_seconds']:.3g} µs"
    record["temporaries, MB"] = f"{ours['temporary_bytes'] / 1e6:.2f}"
    return record | _others(row) | _others(row, "swept_speedup_of_ours", ", swept")


def _scaling(row: Entry) -> Record:
    record = {"set": row["set"], "": row["title"], "threads": str(row["threads"])}
    return record | _ours(row) | _others(row)


def _startup(row: Entry) -> Record:
    parts = {part: _duration(time) for part, time in row["seconds"].items()}
    return {"": row["algorithm"], "threads": str(row["threads"]), **parts}


def _speed(row: Entry) -> Record:
    rates = [f"{row['contenders'][who]['steps_per_second']:.1f}" for who in (OURS, TORCH)]
    ours_is = ratio(row["contenders"][TORCH]["speedup_of_ours"])
    cells = (row["set"], row["algorithm"], *rates, ours_is, row["beside"])
    return dict(zip(("model", "", "steps/s", "torch's steps/s", "ours is", "beside"), cells, strict=True))


def _curve(row: Entry) -> Record:
    reached, zeros = (spread(percent(row, what), 1, 1) for what in ("accuracy", "sparsity"))
    cells = (row["series"], f"{row['parameter']} = {row['value']:g}", reached, zeros, str(len(row["runs"])))
    return dict(zip(("optimizer", "", "test accuracy, %", "exact zeros, %", "seeds"), cells, strict=True))


def _kernels(rows: Sequence[Entry]) -> list[Record]:
    """A line for each kernel, with the time of an element and the share of the triad in each type."""
    records: dict[str, Record] = {}
    for row in rows:
        share = 100 * row["contenders"][OURS]["share_of_triad"]
        cell = f"{spread(row['seconds_per_element'], 1e12, 0)}, {share:.0f} %"
        record = records.setdefault(row["algorithm"], {"kernel": row["algorithm"]})
        record[f"{row['set']}: ps an element, % of triad"] = cell
    return list(records.values())


def _tables(command: str, rows: Sequence[Entry]) -> Iterator[tuple[str, list[Record]]]:
    """Each table with what goes before it."""
    compared = [row for row in rows if "contenders" in row]
    others = [row for row in rows if "contenders" not in row]
    if command == "step":  # one for each set of shapes
        for name in dict.fromkeys(row["set"] for row in rows):
            chosen = [row for row in rows if row["set"] == name]
            yield f"#### {about_set(chosen[0])}", [_step(row) for row in chosen]
    elif command == "kernels":
        yield "", _kernels(rows)
    elif command == "scaling":
        yield "", [_scaling(row) for row in compared]
        yield "AdamW with clipping on resnet50's tensors, each in a process of its own:", list(map(_startup, others))
    else:
        yield "", [_speed(row) for row in compared]
        yield "", [_curve(row) for row in others]


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


TITLES = {"step": "Steps", "kernels": "Kernels", "scaling": "Scaling, imports and first steps", "train": "Training"}
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
        return (
            "- `{path}`, from `python -m bench {command}`: {cpu}, {cores} cores, {threads} threads, torch {torch}, "
            "torchclip {torchclip} (backend {backend}), Python {python}, {system}; {seconds:g} s a row; "
            "commit {commit:.12}"
        ).format(path=self.path.name, **self.document, **self.document["environment"], **self.document["settings"])


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
    lines = [_INTRODUCTION]
    devices = sorted({run.section[:2] for run in runs})
    for device in devices:
        here = [run for run in runs if run.section[:2] == device]
        lines += ["", f"## {device[1]}", "", *(run.about for run in here)]
        for section in sorted({run.section for run in here}):
            chosen = [run for run in here if run.section == section]
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
