"""Two processes of a distributed run of ``python -m recipes imagenet``, for the test of it; spawned, so a module."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing

from recipes import imagenet, training

RANKS = 2


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def train(rank: int, ports: Sequence[int], arguments: Sequence[str], folder: str) -> None:
    """In this order: a whole run, one stopped in step 3, and that one resumed; the models go to ``folder``."""
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(RANKS), MASTER_ADDR="127.0.0.1")
    training._STEPS_BETWEEN_QUESTIONS = 1
    root, models, stop = Path(folder), list[torch.nn.Module](), 0
    make_task, loss = imagenet.make_task, imagenet.ImageNetTask.loss

    def remembered(*given: Any) -> imagenet.ImageNetTask:
        task = make_task(*given)
        models.append(task.model)
        return task

    def interrupted(task: imagenet.ImageNetTask, batch: Any) -> Any:
        nonlocal stop
        stop -= 1
        if stop == 0 and rank == 1:  # in one of them: both must stop
            signal.raise_signal(signal.SIGINT)
        return loss(task, batch)

    imagenet.make_task, imagenet.ImageNetTask.loss = remembered, interrupted  # type: ignore[method-assign]
    runs = (("whole", 0, []), ("stopped", 3, []), ("stopped", 0, ["--resume"]))
    for port, (name, stop_in, more) in zip(ports, runs, strict=True):
        os.environ["MASTER_PORT"], stop = str(port), stop_in
        status = imagenet.main([*arguments, *more, "--quiet", "--result-dir", str(root / name)])
        torch.save((status, models[-1].state_dict()), root / f"{name}{more}{rank}.pt")


def spawn(arguments: Sequence[str], folder: Path) -> dict[str, Any]:
    """The exit status and the weights by the run's name and the rank."""
    ports = [free_port() for _ in range(3)]
    torch.multiprocessing.spawn(train, (ports, list(arguments), str(folder)), RANKS)
    return {path.stem: torch.load(path, weights_only=True) for path in folder.glob("*.pt")}
