"""The two processes of a distributed run, for tests/recipes/test_processes.py: ``recipe_process.py DATA RESULT``.

The image recipe does not divide its images among processes; here every process takes its own half of them. With lr = 0
the weights stay equal without gradients being exchanged, so that what the training loop itself does is left.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import os
import shutil
import sys
import time
from pathlib import Path

import torch
import torch.distributed as distributed
import torch.multiprocessing
from torch import nn

from recipe_runs import interrupted_after, run
from recipes import image
from recipes.data.images import load_images
from recipes.image import ClassificationTask
from recipes.world import World

TEXT = "-b 2 --epochs 2 --lr 0"


def dropout(name: str, shape: tuple[int, int, int], classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(shape[0] * shape[1] * shape[2], classes))


def make_task(options: argparse.Namespace, device: torch.device) -> ClassificationTask:
    """30 images for the first process and 29 for the second: 15 batches each, and means that weigh differently."""
    images = load_images(options.dataset, options.data_dir)
    rank = World.join(device).rank
    own = slice(0, 30) if rank == 0 else slice(30, 59)
    own_images = dataclasses.replace(
        images, train_images=images.train_images[own], train_labels=images.train_labels[own]
    )
    task = ClassificationTask(options, dropout("", images.shape, images.classes), own_images, device)
    torch.manual_seed(options.seed + rank)  # as of processes whose draws differ
    return task


def train(rank: int, data: Path, result: Path) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
    # The group is joined once: to leave and to join again needs another port.
    leave, World.leave = World.leave, lambda self: None  # type: ignore[method-assign]
    run_alone = image.run_recipe
    image.make_task = make_task
    image.run_recipe = lambda *run, distributed: run_alone(*run, distributed=True)
    assert run(data, result / "whole", TEXT) == 0
    # The second process alone is interrupted: first within an epoch; then where none asks until its end. The third time
    # it gets two signals, its own and the one that torchrun passes on.
    for steps in ((3,), (5,), (8, 8)):
        with interrupted_after(*(steps if rank == 1 else ())):
            assert run(data, result / "stopped", f"{TEXT} --resume") == 130
    assert run(data, result / "stopped", f"{TEXT} --resume") == 0
    if rank == 0:
        shutil.copytree(result / "stopped", result / "stopped_before")
    distributed.barrier()
    # --overwrite, where the first process is slow and where it is quick.
    for slow in (0, 1):
        time.sleep(0.2 * (rank == slow))
        assert run(data, result / "stopped", f"{TEXT} --epochs 1 --overwrite") == 0
        time.sleep(0.2 * (rank == slow))
        assert run(data, result / f"new{slow}", f"{TEXT} --epochs 1") == 0
        distributed.barrier()
        assert run(data, result / f"new{slow}", f"{TEXT} --epochs 1") == 2
    leave(World(rank, 2))
    assert not distributed.is_initialized()
    # Not through the interpreter's own end: the threads of torch's store are torn down there while the other process,
    # which may hold the store, is gone, and now and then one of them ends in std::terminate.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    # What takes seconds to import, once for both, and out of sight of the collections of garbage that end a run.
    torch.optim.SGD([nn.Parameter(torch.ones(1))])
    gc.freeze()
    places = tuple(Path(argument) for argument in sys.argv[1:])
    torch.multiprocessing.start_processes(train, places, 2, start_method="fork")
