"""Cases that run in several processes, many of them for one start: ``processes.py FOLDER RANKS NAME …``.

A case, ``module.function``, is a function without arguments of a module of ``tests/support``, which asserts. Every
process runs all cases in order, and says of each in a file of its own how it went. After one that failed the others may
wait for one another, so that what comes after it is not run.
"""

from __future__ import annotations

import datetime
import gc
import importlib
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing

from places import PYTHONPATH

TIMEOUT = datetime.timedelta(seconds=60)

PATIENCE = 300
"""Seconds in which a case must be over; the slowest takes a fraction of them, on a busy machine too."""

SAID = "stderr"
"""The file of what the processes print there."""


def work(rank: int, ranks: int, folder: str, names: Sequence[str]) -> None:
    """One of the processes."""
    torch.set_num_threads(1)
    store = dist.FileStore(str(Path(folder) / "store"), ranks)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks, timeout=TIMEOUT)
    for name in names:
        torch.manual_seed(0)
        began, said = time.process_time(), ""
        try:
            case_of(name)()
        except BaseException:
            said = traceback.format_exc()
        took = time.process_time() - began
        unfinished = Path(folder) / f"unfinished.{rank}"
        unfinished.write_text(f"{took:.2f} s\n{said}")
        unfinished.rename(Path(folder) / f"{name}.{rank}")
        if said:
            print(f"rank {rank}, {name}: {said}", file=sys.stderr)
        failed = torch.tensor([float(bool(said))])
        try:
            dist.all_reduce(failed)
        except RuntimeError:
            failed.fill_(1)
        if failed:
            break
    dist.destroy_process_group()


def case_of(name: str) -> Callable[[], None]:
    """The case of that name."""
    module, _, function = name.rpartition(".")
    case: Callable[[], None] = getattr(importlib.import_module(module), function)
    return case


@dataclass
class Running:
    """Processes that go through their cases while a test waits for its own."""

    ranks: int
    folder: Path
    process: subprocess.Popen[bytes]

    def outcome(self, name: str) -> str:
        """What went wrong with a case, once it is over; empty for nothing."""
        files = [self.folder / f"{name}.{rank}" for rank in range(self.ranks)]
        said = []
        for rank, file in enumerate(files):
            self._wait_for(file)
            text = file.read_text().partition("\n")[2] if file.exists() else self._reason()
            said += [f"rank {rank}: {text}"] if text else []
        return "\n".join(said)

    def _wait_for(self, file: Path) -> None:
        since, written = time.monotonic(), 0
        while not file.exists() and self.process.poll() is None:
            now = len(list(self.folder.iterdir()))
            if now != written:
                since, written = time.monotonic(), now
            if time.monotonic() - since > PATIENCE:
                self.stop()
            time.sleep(0.02)

    def _reason(self) -> str:
        said = (self.folder / SAID).read_text(errors="replace")[-2000:]
        return f"it was not run, since one before it failed, or took {PATIENCE} s:\n{said}"

    def stop(self) -> None:
        """Stops what is left of them."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def start(ranks: int, names: Sequence[str], folder: Path) -> Running:
    """Starts the processes, whose cases' outcomes come to lie in the folder."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": PYTHONPATH, "CASES_FOLDER": str(folder)}
    command = [sys.executable, __file__, str(folder), str(ranks), *names]
    with open(folder / SAID, "wb") as said:
        process = subprocess.Popen(command, env=environment, stderr=said, start_new_session=True)
    return Running(ranks, folder, process)


if __name__ == "__main__":
    given_folder, given_ranks, *given_names = sys.argv[1:]
    # What takes seconds to import, once for all of them.
    for given in given_names:
        case_of(given)
    for module in {given.rpartition(".")[0] for given in given_names}:
        getattr(importlib.import_module(module), "prepare", len)(given_names)
    torch.optim.SGD([torch.nn.Parameter(torch.ones(1))])
    gc.freeze()
    arguments = (int(given_ranks), given_folder, given_names)
    torch.multiprocessing.start_processes(work, arguments, int(given_ranks), start_method="fork")
