"""Cases of tests/distributed about what is loaded: saved by some processes and loaded by others with
``torch.distributed.checkpoint``, and other state than that of the rest."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

import torchclip
from builders import LOSS
from sharded_cases import NOISE, build, spreads
from sharded_cases import steps as steps_of
from sharded_twins import Twins, alone, assert_near, counted, local_part, on_both

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


@on_both
def loaded_by_some() -> None:
    """Numbers of state that one process alone has loaded, or other ones than the rest, are an error in every process,
    and once all have loaded the same they go on. So they are at the first step."""
    is_last = dist.get_rank() == dist.get_world_size() - 1
    kinds: tuple[tuple[dict[str, Any], str], ...] = (
        ({"clip": torchclip.AutoClip(50.0, window=3)}, "norm_window"),
        ({"clip": torchclip.ZClip(warmup_steps=2)}, "norm_mean"),
        ({"clip": 1.0, "extensions": NOISE["noise"], "seed": 3}, "step"),
        ({"step_size": torchclip.AdaLossStep()}, "b_squared"),
    )

    def fails(twins: Twins, said: str) -> None:
        before = [local_part(shared).clone() for shared in twins.shared]
        for number in (3, 4):
            twins.give(number)
            with pytest.raises(RuntimeError, match=f"the processes of this optimizer disagree: .*{said}"):
                twins.optimizer.step(loss=LOSS)
        assert all(map(torch.equal, map(local_part, twins.shared), before))

    for options, name in kinds:
        twins = Twins(build("adamw", **options), spreads()[0])
        steps_of(twins, 2)
        old, old_expected = (copy.deepcopy(one.state_dict()) for one in (twins.optimizer, twins.expected))
        changed = copy.deepcopy(old)
        changed["param_groups"][0]["shared"][name] += 2.0
        twins.step(2)
        if is_last:
            twins.optimizer.load_state_dict(old)
        fails(twins, "has parameters and state as before, and rank . has loaded another state")
        twins.optimizer.load_state_dict(changed if is_last else old)
        fails(twins, f"has {name}=.* in the state of param group 0")
        twins.optimizer.load_state_dict(old)
        twins.expected.load_state_dict(old_expected)
        steps_of(twins, 2)
        if is_last:  # by itself, which has changed nothing
            twins.optimizer.load_state_dict(copy.deepcopy(twins.optimizer.state_dict()))
        with counted() as seen:
            twins.optimizer.step(loss=LOSS)
            once = list(seen)
            twins.optimizer.step(loss=LOSS)
        assert seen == once * 2, seen
        fresh = Twins(build("adamw", **options), spreads()[0])
        fresh.optimizer.load_state_dict(changed if is_last else old)
        fails(fresh, f"has {name}=.* in the state of param group 0")


def loaded_by_stages() -> None:
    """Each has the bounds of its own parameters, and all the same counts."""
    rank, world = dist.get_rank(), dist.get_world_size()
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.grad = torch.full((2,), 1.0 + rank)
    make = build("sgd", clip=torchclip.AdaGC(warmup_steps=1), norm_group=dist.group.WORLD)
    optimizer = make([parameter])
    optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    optimizer.step()
    for each in (optimizer, make([parameter])):
        each.load_state_dict(saved)
        each.step()
    if rank == world - 1:
        optimizer.load_state_dict(saved)
    with pytest.raises(RuntimeError, match=f"disagree: rank 0 has .* as before, and rank {world - 1} has loaded"):
        optimizer.step()


@on_both
def seeds_that_are_loaded() -> None:
    """That of the first process is everyone's again."""
    twins = Twins(build("adamw", clip=1.0, extensions=NOISE["noise"], seed=1), spreads()[0])
    steps_of(twins, 2)
    for optimizer, seed in ((twins.optimizer, 5 + dist.get_rank()), (twins.expected, 5)):
        saved = copy.deepcopy(optimizer.state_dict())
        saved["param_groups"][0]["shared"]["seed"].fill_(seed)
        optimizer.load_state_dict(saved)
    steps_of(twins, 2)


CASES = (
    "loaded_by_other_numbers",
    "loaded_by_other_numbers_for_every_state",
    "loaded_by_some",
    "loaded_by_stages",
    "seeds_that_are_loaded",
)
"""Every one by its name."""
