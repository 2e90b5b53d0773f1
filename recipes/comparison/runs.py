"""The runs of a study: each a process of its own that goes on from its checkpoint if the study was stopped."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from recipes.comparison.studies import Line, Study
from recipes.run_folder import read_log

_POLL_SECONDS = 0.2
_INTERRUPTED = 130


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


def runs_of(study: Study, seeds: Sequence[int], folder: Path) -> list[Run]:
    """Seed by seed, so that a study that was stopped early has one seed of every line."""
    return [
        Run(line, seed, folder / re.sub(r"[^A-Za-z0-9.=+-]+", "_", line.label) / f"seed{seed}")
        for seed in seeds
        for line in study.lines
    ]


def _command(study: Study, run: Run, data_dir: Path, others: Sequence[str]) -> list[str]:
    return [
        *(sys.executable, "-m", "recipes", study.recipe),
        *shlex.split(study.common),
        *shlex.split(run.line.options),
        *others,
        *("--seed", str(run.seed), "--result-dir", str(run.folder), "--data-dir", str(data_dir), "--resume", "--quiet"),
    ]


def execute(study: Study, runs: Sequence[Run], data_dir: Path, jobs: int, others: Sequence[str]) -> list[str]:
    """Runs what has not ended yet, ``jobs`` at a time on as many threads as that leaves to each.

    Returns:
        A line for every run that failed, with the end of what it said.

    Raises:
        KeyboardInterrupt: when interrupted, after the runs under way have saved themselves.
    """
    waiting = [run for run in runs if not run.ended()]
    threads = max(1, len(os.sched_getaffinity(0)) // jobs)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    under_way: list[tuple[Run, subprocess.Popen[str]]] = []
    failures: list[str] = []
    with tqdm(total=len(runs), initial=len(runs) - len(waiting), unit="run", dynamic_ncols=True) as bar:
        try:
            while waiting or under_way:
                while waiting and len(under_way) < jobs:
                    run = waiting.pop(0)
                    bar.set_postfix_str(f"{run.line.label}, seed {run.seed}")
                    under_way.append((run, _popen(_command(study, run, data_dir, others), run, environment)))
                for run, process in list(_done(under_way)):
                    under_way.remove((run, process))
                    bar.update()
                    if process.returncode:
                        said = (run.folder / "said.txt").read_text().strip().splitlines()
                        failures.append(f"{run.line.label}, seed {run.seed}: {said[-1] if said else 'no word'}")
                time.sleep(_POLL_SECONDS)
        except KeyboardInterrupt:  # the children had the same signal, and save
            for _, process in under_way:
                process.wait()
            raise
    return failures


def _popen(command: list[str], run: Run, environment: dict[str, str]) -> subprocess.Popen[str]:
    run.folder.mkdir(parents=True, exist_ok=True)
    with (run.folder / "said.txt").open("w") as said:
        return subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, env=environment, text=True)


def _done(under_way: Sequence[tuple[Run, subprocess.Popen[str]]]) -> Iterator[tuple[Run, subprocess.Popen[str]]]:
    return ((run, process) for run, process in under_way if process.poll() is not None)
