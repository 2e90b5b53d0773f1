"""Two processes of a distributed run of ``python -m recipes imagenet``, for the test of it: ``ranks.py FOLDER …``."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing

from places import PYTHONPATH
from recipe_runs import free_port
from recipes import imagenet, training

RANKS = 2


def train(rank: int, ports: Sequence[int], arguments: Sequence[str], folder: str) -> None:
    """In this order: a whole run, one stopped in step 3, and that one resumed; the models go to ``folder``."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(RANKS), MASTER_ADDR="127.0.0.1")
    training._STEPS_BETWEEN_QUESTIONS = 1
    root, models, stop = Path(folder), list[torch.nn.Module](), 0
    loss = imagenet.ImageNetTask.loss

    def interrupted(task: imagenet.ImageNetTask, batch: Any) -> Any:
        nonlocal stop
        models.append(task.model)
        stop -= 1
        if stop == 0 and rank == 1:  # in one of them: both must stop
            signal.raise_signal(signal.SIGINT)
        return loss(task, batch)

    imagenet.ImageNetTask.loss = interrupted  # type: ignore[method-assign]
    runs = (("whole", 0, []), ("stopped", 3, []), ("stopped", 0, ["--resume"]))
    for port, (name, stop_in, more) in zip(ports, runs, strict=True):
        os.environ["MASTER_PORT"], stop = str(port), stop_in
        status = imagenet.main([*arguments, *more, "--quiet", "--result-dir", str(root / name)])
        torch.save((status, models[-1].state_dict()), root / f"{name}{more}{rank}.pt")


def spawn(arguments: Sequence[str], folder: Path) -> dict[str, Any]:
    """The exit status and the weights by the run's name and the rank."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": PYTHONPATH}
    subprocess.run([sys.executable, __file__, str(folder), *arguments], env=environment, timeout=100, check=True)
    return {path.stem: torch.load(path, weights_only=True) for path in folder.glob("*.pt")}


if __name__ == "__main__":
    # What takes seconds to import, once for both, and out of sight of the collections of garbage that end a run.
    torch.optim.SGD([torch.nn.Parameter(torch.ones(1))])
    gc.freeze()
    given = ([free_port() for _ in range(3)], sys.argv[2:], sys.argv[1])
    torch.multiprocessing.start_processes(train, given, RANKS, start_method="fork")
