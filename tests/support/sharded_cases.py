"""The cases of tests/distributed, each of which runs in two processes or four."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.distributed as dist
from torch.distributed.tensor import Replicate, Shard

import torchclip
from builders import OPTIMIZERS
from sharded_twins import Placements, Twins, counted, mesh_of

FOUR_RULES = ("sgd", "adamw", "mix_clip", "ada_grad_norm")

Build = Callable[..., Any]


def build(name: str, **options: Any) -> Build:
    cls, given = OPTIMIZERS[name]
    return lambda groups, **more: cls(groups, **{**given, **options, **more})


def first_dimension(index: int, shape: tuple[int, ...]) -> Placements:
    return [Shard(0)] if shape else [Replicate()]


def fsdp2_global_norm() -> None:
    mesh = mesh_of(dist.get_world_size())
    for name in FOUR_RULES:
        options = {} if name in ("mix_clip", "ada_grad_norm") else {"clip": torchclip.ClipByGlobalNorm(1.5)}
        twins = Twins(build(name, **options), mesh, first_dimension)
        for number in range(6):
            twins.step(number)
            twins.check()
        with counted() as seen:
            twins.optimizer.step()
        assert seen == ["all_reduce"], seen


def nothing_is_sent_without_norms() -> None:
    mesh = mesh_of(dist.get_world_size())
    for name in ("sgd", "adamw", "grda"):
        twins = Twins(build(name), mesh, first_dimension)
        with counted() as seen:
            for number in range(3):
                twins.step(number)
        assert seen == [], seen
        twins.check(tolerance=0)


CASES = ("fsdp2_global_norm", "nothing_is_sent_without_norms")
"""Every one by its name."""
