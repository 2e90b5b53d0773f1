"""The runs of a study: each a process of its own that goes on from its checkpoint if the study was stopped."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from recipes.comparison.studies import Line, Study
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
    ends = [one for one in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(one) != signal.SIG_IGN]  # as of nohup
    previous = {number: signal.signal(number, signal.default_int_handler) for number in ends}
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
            for number, handler in previous.items():
                signal.signal(number, handler)
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
