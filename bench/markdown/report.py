"""The document: what was measured how, and for each device its machine, tables and figures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.markdown.tables import TABLES
from bench.store import read_document

Entry = Mapping[str, Any]
Draw = Callable[[Entry, Path, str], list[Path]]

_INTRODUCTION = """\
# Benchmarks

Written by `python -m bench report` from files of results; nothing in it is typed by hand.

Everything compared takes its turns in one process, A B C A B C, clipping included on every side. Times are medians, in
brackets p20 to p80. "N times as fast" is the median of the ratios within each round, since both sides of a round have
seen the same machine; a column that has a competitor's name says how many times as fast as that competitor ours is.
The triad a ← a + s·b and the copy take their turns in the same rounds: "% of triad" is the bandwidth by the words that
a fused step must move, as a share of the triad's, and above 100 where the tensors stay in the cache. Every row ends
with a comparison of the parameters with the reference, and a row that fails it is none."""


@dataclass(frozen=True)
class Run:
    """A file of results."""

    path: Path
    document: Entry

    @property
    def command(self) -> str:
        command: str = self.document["command"]
        return command

    @property
    def device(self) -> str:
        """What its section is named after."""
        environment = self.document["environment"]
        return str(environment["gpu"] or environment["cpu"])

    @property
    def beside(self) -> tuple[str, ...]:
        """The kinds of competitors beside the usual ones. What is measured with others has tables of its own."""
        return tuple(self.document["settings"].get("beside", ()))

    @property
    def kind(self) -> str:
        return "gpu" if self.document["environment"]["gpu"] else "cpu"


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """The files of one document.

    Raises:
        ValueError: when a table would mix machines, versions or threads, or have a row twice.
    """
    runs = [Run(path, read_document(path)) for path in paths]
    by_table: dict[tuple[str, str, tuple[str, ...]], list[Run]] = {}
    for run in runs:
        if run.command not in TABLES:
            raise ValueError(f"{run.path} holds results of `{run.command}`, which has no table")
        by_table.setdefault((run.kind, run.command, run.beside), []).append(run)
    for same in by_table.values():
        _refuse_mixture(same)
    return runs


def _refuse_mixture(runs: Sequence[Run]) -> None:
    first = runs[0]
    keys = {_key(row): first.path for row in first.document["rows"]}
    for other in runs[1:]:
        ours, theirs = first.document["environment"], other.document["environment"]
        differing = [f"{name} {ours[name]} and {theirs[name]}" for name in ours if ours[name] != theirs.get(name)]
        if differing:
            raise ValueError(
                f"{first.path} and {other.path} were measured on different machines ({'; '.join(differing)}) "
                f"and cannot share a table: leave one of them out"
            )
        for row in other.document["rows"]:
            if _key(row) in keys:
                raise ValueError(f"{keys[_key(row)]} and {other.path} both have {_key(row)}: leave one of them out")
            keys[_key(row)] = other.path


def _key(row: Entry) -> str:
    return "/".join(str(row[name]) for name in ("set", "algorithm", "threads") if name in row)


def write_report(runs: Sequence[Run], path: Path, draw: Draw | None) -> None:
    """Writes the document, and its figures into the folder `figures` beside it.

    Args:
        runs: from `read_runs`.
        path: of the document.
        draw: makes the figures of a file; None leaves them out.
    """
    lines = [_INTRODUCTION]
    for kind in ("gpu", "cpu"):
        here = [run for run in runs if run.kind == kind]
        for device in dict.fromkeys(run.device for run in here):
            lines += ["", f"## {device}", "", *_machine([run for run in here if run.device == device])]
            for command in TABLES:
                chosen = [run for run in here if run.device == device and run.command == command]
                for beside in sorted({run.beside for run in chosen}):
                    lines += _section(command, beside, [run for run in chosen if run.beside == beside], path, draw)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def _section(command: str, beside: Sequence[str], runs: Sequence[Run], path: Path, draw: Draw | None) -> list[str]:
    title, tables = TABLES[command]
    heading = f"### {title}, beside {' and '.join(beside)} too" if beside else f"### {title}"
    lines = ["", heading, *tables([row for run in runs for row in run.document["rows"]])]
    return lines if draw is None else lines + _figures(runs, path, draw)


def _machine(runs: Sequence[Run]) -> list[str]:
    lines = []
    for run in runs:
        environment = run.document["environment"]
        seconds = run.document["settings"]["seconds"]
        lines.append(
            f"- `{run.path.name}`, from `python -m bench {run.command}`: {environment['cpu']}, "
            f"{environment['cores']} cores, {environment['threads']} threads, torch {environment['torch']}, "
            f"torchclip {environment['torchclip']} (backend {environment['backend']}), Python {environment['python']}, "
            f"{environment['system']}; {seconds:g} s a row; commit {run.document['commit'][:12]}"
        )
    return lines


def _figures(runs: Sequence[Run], path: Path, draw: Draw) -> list[str]:
    drawn = [figure for run in runs for figure in draw(run.document, path.parent / "figures", run.path.stem)]
    return [line for figure in drawn for line in ("", f"![{figure.stem}](figures/{figure.name})")]
