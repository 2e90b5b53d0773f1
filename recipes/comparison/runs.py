"""The runs of a study, each a process of its own that goes on from its checkpoint, and what they came to."""

import os
import shlex
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from recipes.comparison.studies import Drawing, Line, Study
from recipes.run_folder import folder_name, read_log

_POLL_SECONDS = 0.2
_RAN, _SAID = "ran.txt", "said.txt"  # in the folder of a run: the options with which it ended; what it printed


@dataclass(frozen=True)
class Run:
    """One line of a study with one seed."""

    line: Line
    seed: int
    folder: Path

    def ended(self) -> bool:
        return any(row["kind"] == "end" for row in read_log(self.folder))

    def epochs(self) -> list[dict[str, Any]]:
        return [row for row in read_log(self.folder) if row["kind"] == "epoch"]

    def ended_with(self, options: str) -> bool:
        """Whether it has ended, and had these options. One that had others is started again, and refuses them."""
        ran = self.folder / _RAN
        return self.ended() and ran.exists() and ran.read_text() == options


def runs_of(study: Study, seeds: Sequence[int], folder: Path) -> list[Run]:
    """Seed by seed, so that a study that was stopped early has one seed of every line."""
    return [Run(line, seed, folder / folder_name(line.label) / f"seed{seed}") for seed in seeds for line in study.lines]


def execute(study: Study, runs: Sequence[Run], data_dir: Path, jobs: int, others: Sequence[str]) -> list[str]:
    """Runs what has not ended yet, ``jobs`` at a time on as many threads as that leaves to each.

    Returns:
        A line for every run that failed, with the end of what it said.

    Raises:
        KeyboardInterrupt: when interrupted, after the runs under way have saved themselves.
    """
    given = {run: [*shlex.split(study.common), *shlex.split(run.line.options), *others] for run in runs}
    options = {run: shlex.join([study.recipe, *given[run], "--seed", str(run.seed)]) for run in runs}
    waiting = [run for run in runs if not run.ended_with(options[run])]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    environment = {"OMP_NUM_THREADS": str(max(1, cores // jobs)), **os.environ}  # the user's own word comes first
    under_way: list[tuple[Run, subprocess.Popen[str]]] = []
    failures: list[str] = []
    bar = tqdm(total=len(runs), initial=len(runs) - len(waiting), unit="run", dynamic_ncols=True)
    # What would end this process interrupts it, as Ctrl-C does: its children, which do not hear it, would go on.
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    with bar:
        try:
            while waiting or under_way:
                while waiting and len(under_way) < jobs:
                    run = waiting.pop(0)
                    bar.set_postfix_str(f"{run.line.label}, seed {run.seed}")
                    under_way.append((run, _started(options[run], run, data_dir, environment)))
                for run, process in [one for one in under_way if one[1].poll() is not None]:
                    under_way.remove((run, process))
                    bar.update()
                    if process.returncode == 0:
                        (run.folder / _RAN).write_text(options[run])
                    else:
                        said = (run.folder / _SAID).read_text().strip().splitlines()
                        failures.append(f"{run.line.label}, seed {run.seed}: {said[-1] if said else 'no word'}")
                time.sleep(_POLL_SECONDS)
        except KeyboardInterrupt:
            for _, process in under_way:
                process.send_signal(signal.SIGINT)  # upon which it saves
            for _, process in under_way:
                process.wait()
            raise
        finally:
            signal.signal(signal.SIGTERM, previous)
    return failures


def _started(options: str, run: Run, data_dir: Path, environment: dict[str, str]) -> subprocess.Popen[str]:
    places = ["--result-dir", str(run.folder), "--data-dir", str(data_dir)]
    command = [sys.executable, "-m", "recipes", *shlex.split(options), *places, "--resume", "--quiet"]
    run.folder.mkdir(parents=True, exist_ok=True)
    with (run.folder / _SAID).open("w") as said:
        # In a session of its own, a run does not get the terminal's Ctrl-C beside the one that it is sent: two end it.
        return subprocess.Popen(
            command, stdout=said, stderr=subprocess.STDOUT, env=environment, text=True, start_new_session=True
        )


@dataclass(frozen=True)
class Result:
    """One line of a study: the epochs of its runs, one list a seed."""

    line: Line
    seeds: list[list[dict[str, Any]]]  # [seeds][epochs]
    unfinished: int  # how many of the seeds' runs have not ended yet

    def curve(self, key: str) -> tuple[list[int], list[list[float]]]:
        """The epochs, from 1, of which every seed has a finite value, and for each the values of the seeds."""
        columns = enumerate(zip(*self.seeds, strict=False), start=1)
        found = {n: [row[key] for row in rows] for n, rows in columns if all(row.get(key) is not None for row in rows)}
        return list(found), list(found.values())

    def at(self, key: str, epoch: int | None = None) -> list[float]:
        """The finite value at the end of this epoch (counted from 1; None: the last one), of every seed that has it."""
        rows = [epochs[-1 if epoch is None else epoch - 1] for epochs in self.seeds if len(epochs) >= (epoch or 1)]
        return [row[key] for row in rows if row.get(key) is not None]

    @property
    def diverged(self) -> int:
        """How many seeds ended with a loss that was not finite."""
        return sum(epochs[-1]["train_loss"] is None for epochs in self.seeds)


def results_of(study: Study, runs: Sequence[Run]) -> list[Result]:
    """The lines that have a run with at least one epoch."""
    found = []
    for line in study.lines:
        started = [run for run in runs if run.line == line and run.epochs()]
        if started:
            found.append(Result(line, [run.epochs() for run in started], sum(not run.ended() for run in started)))
    return found


def _spread(values: Sequence[float], percent: bool) -> str:
    """Mean ± standard deviation."""
    if not values:
        return ""
    scale, digits = (100, 2) if percent else (1, 3)
    mean = f"{scale * statistics.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {scale * statistics.stdev(values):.{digits}f}"


def table(study: Study, results: Sequence[Result]) -> str:
    """A line's metric and training loss, mean ± standard deviation, and gRDA's exact zeros; fractions in percent."""
    percent = study.metric.endswith("accuracy")
    metric = study.metric.replace("_", " ") + (", %" if percent else "") + ": ours"
    loss = "training loss" + ("" if study.milestone is None else f" after epoch {study.milestone}")
    rows = []
    for result in results:
        row = {"": result.line.label, metric: _spread(result.at(study.metric), percent)}
        row[loss] = _spread(result.at("train_loss", study.milestone), percent=False)
        if study.drawing is Drawing.SPARSITY:
            row["exact zeros, %"] = _spread(result.at("sparsity"), percent=True)
        counts = {"diverged": result.diverged, "unfinished": result.unfinished}
        told = [f"{count} {what}" for what, count in counts.items() if count]
        rows.append(row | {"seeds": ", ".join([f"{len(result.seeds)}", *told])})
    cells = [rows[0], ["---"] * len(rows[0]), *(row.values() for row in rows)]
    return "".join("| " + " | ".join(row) + " |\n" for row in cells)
