"""DTensors of one process that takes itself for one of two: the other one is not there, and nothing is sent."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.distributed
from torch.distributed.tensor import DTensor, Shard, distribute_tensor, init_device_mesh
from torch.testing._internal.distributed.fake_pg import FakeStore


def start() -> None:
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)


def as_one_of_two() -> Iterator[None]:
    """For a fixture of a whole file."""
    start()
    yield
    torch.distributed.destroy_process_group()


def sharded(value: torch.Tensor) -> DTensor:
    return distribute_tensor(value, init_device_mesh("cpu", (2,)), [Shard(0)])


def parameter() -> torch.nn.Parameter:
    made = torch.nn.Parameter(sharded(torch.arange(12.0).reshape(4, 3)))
    made.grad = sharded(torch.ones(4, 3))
    return made
