"""Every process's part of each epoch, read by worker processes."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from recipes.data.batches import epoch_order
from recipes.data.errors import RecipeDataError
from recipes.data.image_folder import Draw
from recipes.world import World

Item = tuple[Tensor, int] | RecipeDataError


class ShardedEpochs:
    """The batches of every epoch, of which each process has an equal part.

    The order of ``count`` images is drawn from (seed, epoch). An epoch is its full batches: what is left at its end,
    other images every time, would be a batch that the processes cannot share evenly.

    Raises:
        ValueError: a batch that the processes cannot share evenly, or fewer images than one batch.
    """

    def __init__(self, count: int, batch_size: int, seed: int, world: World) -> None:
        if batch_size < 1 or batch_size % world.size:
            raise ValueError(f"a batch of {batch_size} for {world.size} processes: wanted a multiple of their number")
        if count < batch_size:
            raise ValueError(f"{count} training images are less than one batch of {batch_size}: give a smaller -b")
        self._count, self._batch_size, self._seed, self._world = count, batch_size, seed, world

    def __len__(self) -> int:
        return self._count // self._batch_size

    def draws(self, epoch: int, start: int) -> Iterator[list[Draw]]:
        """This process's part of every batch from ``start`` on."""
        order = epoch_order(self._count, self._seed, epoch).tolist()
        for step in range(start, len(self)):
            batch = order[step * self._batch_size : (step + 1) * self._batch_size]
            yield [Draw(epoch, index) for index in batch[self._world.rank :: self._world.size]]


def shard(count: int, batch_size: int, world: World) -> Iterator[list[int]]:
    """This process's part of the numbers below ``count``, in lists of ``batch_size`` and a shorter one at the end."""
    mine = range(world.rank, count, world.size)
    return (list(mine[first : first + batch_size]) for first in range(0, len(mine), batch_size))


def read(dataset: Dataset[Item], batches: Iterable[Sequence[Any]], workers: int, pin: bool) -> Iterator[Any]:
    """The batches as (uint8 [batch, 3, height, width], int64 [batch]), read by ``workers`` processes; 0: by this one.

    Raises:
        RecipeDataError: for an image that cannot be read.
    """
    loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_sampler=batches,  # type: ignore[arg-type, unused-ignore]
        num_workers=workers,
        collate_fn=_stacked,
        worker_init_fn=_ignore_interruption,
        pin_memory=pin,
        # The loader seeds its workers, which draw nothing from it: torch's own generator must not advance, or a
        # resumed run, which starts one loader more, would draw other dropout.
        generator=torch.Generator(),
    )
    for batch in loader:
        if isinstance(batch, RecipeDataError):
            raise batch
        yield batch


def _stacked(items: list[Item]) -> tuple[Tensor, Tensor] | RecipeDataError:
    good = []
    for item in items:
        if isinstance(item, RecipeDataError):
            return item
        good.append(item)
    return torch.stack([image for image, _ in good]), torch.tensor([label for _, label in good])


def _ignore_interruption(worker: int) -> None:
    """Ctrl-C reaches the workers too; the run that they read for ends its step and saves first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
