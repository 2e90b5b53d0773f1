"""The two processes of ``python -m recipes image --fsdp`` and ``--tp``, for the test of it: ``sharded_recipe.py DATA``.

By the kind of sharding, in folders named after it: a whole run, one stopped in its second epoch, and that one resumed.
"""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

import torch
import torch.multiprocessing

from recipe_runs import interrupted_after, run
from recipes import sharded, training
from recipes.world import World

RUN = "--model lenet --algo adamw --lr 0.01 --clip 0.5 --gradient-noise 0.1"


def train(rank: int, data: Path) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
    World.leave = lambda self: None  # type: ignore[method-assign]  # to join again needs another port
    training._STEPS_BETWEEN_QUESTIONS = 1
    for kind in ("fsdp", "tp"):
        text = f"{RUN} --{kind}"
        assert run(data, data / kind, text) == 0
        with interrupted_after(*((6,) if rank == 1 else ())):
            assert run(data, data / f"{kind}_stopped", text) == 130
        assert run(data, data / f"{kind}_stopped", f"{text} --resume") == 0
    sys.stdout.flush()
    os._exit(0)  # as in recipe_process.py


if __name__ == "__main__":
    # What takes seconds to import, once for both, and out of sight of the collections of garbage that end a run.
    sharded.ShardedClassification  # noqa: B018
    torch.optim.SGD([torch.nn.Parameter(torch.ones(1))])
    gc.freeze()
    torch.multiprocessing.start_processes(train, (Path(sys.argv[1]),), 2, start_method="fork")
