"""`python -m bench report` and `plot`: docs/benchmarks.md and figures, from files of results and from nothing else."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from tabulate import tabulate

from bench.algorithm import OURS
from bench.measure import Percentiles
from bench.measurement import ratio, spread
from bench.options import OfFiles, Refused, option
from bench.results import Entry, differences, read_document
from bench.train import percent
from bench.training import TORCH

Draw = Callable[[Entry, Path, str], list[Path]]
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
    return {"": row["algorithm"], "threads": str(row["threads"])} | {
        part: _duration(time) for part, time in row["seconds"].items()
    }


def _speed(row: Entry) -> Record:
    ours, torchs = row["contenders"][OURS], row["contenders"][TORCH]
    return {
        "model": row["set"],
        "": row["algorithm"],
        "steps/s": f"{ours['steps_per_second']:.1f}",
        "torch's steps/s": f"{torchs['steps_per_second']:.1f}",
        "ours is": ratio(torchs["speedup_of_ours"]),
        "beside": row["beside"],
    }


def _curve(row: Entry) -> Record:
    return {
        "optimizer": row["series"],
        "": f"{row['parameter']} = {row['value']:g}",
        "test accuracy, %": spread(percent(row, "accuracy"), 1, 1),
        "exact zeros, %": spread(percent(row, "sparsity"), 1, 1),
        "seeds": str(len(row["runs"])),
    }


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
            first, where = chosen[0], "in cache" if chosen[0]["in_cache"] else "from memory"
            title = f"#### {name}: {first['tensors']:,} tensors, {first['elements']:,} parameters, {where}"
            yield title, [_step(row) for row in chosen]
    elif command == "kernels":
        yield "", _kernels(rows)
    elif command == "scaling":
        yield "", [_scaling(row) for row in compared]
        title = "AdamW with clipping on resnet50's tensors, each in a process of its own:"
        yield title, [_startup(row) for row in others]
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


TITLES: Mapping[str, str] = {
    "step": "Steps",
    "kernels": "Kernels",
    "scaling": "Scaling, imports and first steps",
    "train": "Training",
}
"""Of the sections, by command."""


@dataclass(frozen=True)
class Run:
    """A file of results."""

    path: Path
    document: Entry

    @property
    def device(self) -> str:
        """What its part of the document is named after."""
        environment = self.document["environment"]
        return str(environment["gpu"] or environment["cpu"])

    @property
    def section(self) -> tuple[int, tuple[str, ...]]:
        """The command, and the competitors beside the usual ones: what is measured with others has its own tables."""
        return list(TITLES).index(self.document["command"]), tuple(self.document["settings"].get("beside", ()))

    @property
    def about(self) -> str:
        """Where, with what and how it was measured."""
        document = self.document
        return (
            "- `{path}`, from `python -m bench {command}`: {cpu}, {cores} cores, {threads} threads, torch {torch}, "
            "torchclip {torchclip} (backend {backend}), Python {python}, {system}; {seconds:g} s a row; commit {commit}"
        ).format(
            path=self.path.name,
            command=document["command"],
            seconds=document["settings"]["seconds"],
            commit=document["commit"][:12],
            **document["environment"],
        )


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """The files of one document.

    Raises:
        Refused: when a table would mix machines, versions or threads, or have a row twice.
    """
    runs = [Run(path, read_document(path)) for path in paths]
    seen: dict[Any, Run] = {}
    for run in runs:
        if run.document["command"] not in TITLES:
            raise Refused(f"{run.path} holds results of `{run.document['command']}`, which has no table")
        place = (run.device, *run.section)
        first = seen.setdefault(place, run)
        ours, theirs = (each.document["environment"] for each in (first, run))
        if found := differences(ours, theirs, list(ours)):
            raise Refused(
                f"{first.path} and {run.path} were measured on different machines ({'; '.join(found)}) "
                "and cannot share a table: leave one of them out"
            )
        for row in run.document["rows"]:
            key = "/".join(str(row[name]) for name in ("set", "algorithm", "threads") if name in row)
            if (other := seen.setdefault((*place, key), run)) is not run:
                raise Refused(f"{other.path} and {run.path} both have {key}: leave one of them out")
    return runs


def write_report(runs: Sequence[Run], path: Path, draw: Draw) -> None:
    """Writes the document, and its figures into the folder `figures` beside it; GPUs come first."""
    lines = [_INTRODUCTION]
    ordered = sorted(runs, key=lambda run: run.document["environment"]["gpu"] is None)
    for device in dict.fromkeys(run.device for run in ordered):
        here = [run for run in ordered if run.device == device]
        lines += ["", f"## {device}", "", *(run.about for run in here)]
        for section in sorted({run.section for run in here}):
            chosen = [run for run in here if run.section == section]
            command, beside = chosen[0].document["command"], section[1]
            more = f", beside {' and '.join(beside)} too" if beside else ""
            lines += ["", f"### {TITLES[command]}{more}"]
            lines += tables_of(command, [row for run in chosen for row in run.document["rows"]])
            drawn = [figure for run in chosen for figure in draw(run.document, path.parent / "figures", run.path.stem)]
            lines += [line for each in drawn for line in ("", f"![{each.stem}](figures/{each.name})")]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def _drawing() -> Draw:
    try:
        from bench.plots import draw
    except ImportError as error:  # a machine that only measures need not have it
        raise Refused(f"{error}: pip install matplotlib") from error
    return draw


@dataclass(kw_only=True)
class Plot(OfFiles):
    """figures from files of results"""

    name: ClassVar[str] = "plot"
    out: Path = option(Path("results/figures"), "folder", type=Path, metavar="FOLDER")

    def run(self) -> int:
        draw = _drawing()
        for path, document in [(path, read_document(path)) for path in self.files]:
            print(*draw(document, self.out, path.stem), sep="\n")
        return 0


@dataclass(kw_only=True)
class Report(OfFiles):
    """docs/benchmarks.md, with its figures, from files of results"""

    name: ClassVar[str] = "report"
    out: Path = option(Path("docs/benchmarks.md"), "the document", type=Path, metavar="PATH")

    def run(self) -> int:
        draw = _drawing()
        write_report(read_runs(self.files), self.out, draw)
        print(self.out)
        return 0
