"""Cases of tests/distributed with ``torch.distributed.checkpoint``: saved by some processes, and loaded by others."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

import torchclip
from sharded_twins import alone, assert_near

OPTIONS: dict[str, tuple[Any, dict[str, Any]]] = {
    "adamw": (
        torchclip.AdamW,
        {"lr": 0.05, "clip": torchclip.AutoClip(50.0, window=3), "extensions": (torchclip.GradientNoise(0.1),)},
    ),
    "sgd": (
        torchclip.SGD,
        {
            "lr": 0.05,
            "momentum": 0.9,
            "clip": torchclip.ZClip(warmup_steps=2),
            "extensions": (torchclip.Lookahead(k=2), torchclip.LRDropout(0.3)),
        },
    ),
    "grda": (torchclip.GRDA, {"lr": 0.05, "c": 0.01, "clip": 0.5}),
    "ada_grad_norm": (torchclip.AdaGradNorm, {"lr": 0.5, "momentum": 0.9, "scope": "row"}),
    "ada_grad_norm_tensor": (torchclip.AdaGradNorm, {"lr": 0.5, "scope": "tensor"}),
    "ada_grad_norm_group": (torchclip.AdaGradNorm, {"lr": 0.5, "scope": "group"}),
}


def model() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))


def give(net: nn.Module, number: int) -> None:
    """The same gradients in every process."""
    generator = torch.Generator().manual_seed(number)
    for parameter in net.parameters():
        gradient = torch.randn(parameter.shape, generator=generator)
        if isinstance(parameter, DTensor):
            from torch.distributed.tensor import distribute_tensor

            gradient = distribute_tensor(gradient, parameter.device_mesh, parameter.placements, src_data_rank=None)
        parameter.grad = gradient


def made(name: str, mesh: DeviceMesh | None, **options: Any) -> tuple[nn.Module, Any]:
    net = model()
    if mesh is not None:
        fully_shard(net, mesh=mesh)
    cls, given = OPTIONS[name]
    return net, cls(net.parameters(), **{**given, **options})


def steps(net: nn.Module, optimizer: Any, numbers: range) -> None:
    for number in numbers:
        give(net, number)
        optimizer.step()


def loaded_by_other_numbers() -> None:
    _saved_by_two_and_loaded_by_others(["adamw", "ada_grad_norm"], [False])


def loaded_by_other_numbers_for_every_state() -> None:
    _saved_by_two_and_loaded_by_others(list(OPTIONS), [False, True])


def _saved_by_two_and_loaded_by_others(names: list[str], flattened: list[bool]) -> None:
    """Two of the processes train and save; one, two and three go on as one process would have."""
    world, rank = dist.get_world_size(), dist.get_rank()
    folder = Path(os.environ["CASES_FOLDER"]) / "checkpoints"
    meshes = {count: DeviceMesh("cpu", list(range(count))) for count in range(1, min(world, 3) + 1)}
    for name in names:
        seed = {"seed": 5} if "extensions" in OPTIONS[name][1] else {}
        whole, expected = made(name, None, norm_group=alone(), backend="reference", **seed)
        steps(whole, expected, range(6))
        for flat in flattened:
            path, options = folder / f"{name}{flat}", StateDictOptions(flatten_optimizer_state_dict=flat)
            if rank < 2:
                net, optimizer = made(name, meshes[2], **seed)
                steps(net, optimizer, range(3))
                parts = get_state_dict(net, optimizer, options=options)
                dcp.save(
                    {"model": parts[0], "optim": parts[1]}, checkpoint_id=path, process_group=meshes[2].get_group()
                )
            dist.barrier()
            for count, mesh in meshes.items():
                if rank >= count:
                    continue
                net, optimizer = made(name, mesh)
                parts = get_state_dict(net, optimizer, options=options)
                wanted = {"model": parts[0], "optim": parts[1]}
                dcp.load(wanted, checkpoint_id=path, process_group=mesh.get_group())
                set_state_dict(
                    net, optimizer, model_state_dict=wanted["model"], optim_state_dict=wanted["optim"], options=options
                )
                steps(net, optimizer, range(3, 6))
                for (called, parameter), single in zip(net.named_parameters(), whole.parameters()):
                    assert isinstance(parameter, DTensor)
                    assert_near(parameter.full_tensor(), single.detach(), 3e-7, f"{name} {flat} {count} {called}")
            dist.barrier()


CASES = ("loaded_by_other_numbers", "loaded_by_other_numbers_for_every_state")
"""Every one by its name."""
