"""`python -m bench report`: docs/benchmarks.md and its figures, from files of results and from nothing else."""

from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from bench.options import Command, Refused, option
from bench.results import Entry, differences, read_document
from bench.tables import LEGEND, tables_of

_INTRODUCTION = """\
# Benchmarks

Written by `python -m bench report` from files of results; nothing in it is typed by hand.

"""


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
