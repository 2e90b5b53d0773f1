"""Cases of tests/distributed with ``precision=``, beside one process: bit for bit, with gradients whose squares are
integers, which add up to the same number in every order."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

import torchclip
from sharded_cases import build, spreads, steps
from sharded_twins import TOLERANCE, Twins, alone, assert_near, compiled, counted, local_part, on_both, part_of
from torchclip import Blockwise8bit, MasterWeights, SplitMaster, StateDtype, StochasticRounding

BLOCKS = Blockwise8bit(min_elements=900)
"""Of which some shards have fewer: what stays wide goes by the whole tensor."""

POLICIES: dict[str, tuple[torch.dtype, Any]] = {
    "blocks": (torch.float32, BLOCKS),
    "rounding": (torch.bfloat16, StochasticRounding(state=StateDtype("bfloat16", stochastic=True))),
    "moments": (torch.float32, StateDtype("bfloat16")),
    "split": (torch.bfloat16, SplitMaster()),
    "split_blocks": (torch.bfloat16, SplitMaster(state=BLOCKS)),
    "master": (torch.float16, MasterWeights()),
}
RULES: dict[str, tuple[Any, dict[str, Any]]] = {
    "adamw": (torchclip.AdamW, {"lr": 0.01, "clip": 1.0}),
    "sgd": (torchclip.SGD, {"lr": 0.01, "momentum": 0.9}),
}


def paths() -> tuple[str, ...]:
    """The backends that a case goes through: where kernels of GPUs are emulated or interpreted, these alone."""
    return ("reference", "cpu") if compiled() == "cpu" else (compiled(),)


def few(*each: tuple[str, str, str]) -> list[tuple[str, str, str]]:
    """Policy, rule and backend, each of which is one of ``paths``."""
    return [(policy, rule, backend if backend in paths() else compiled()) for policy, rule, backend in each]


def model(dtype: torch.dtype) -> nn.Sequential:
    """One matrix in whole blocks, which two processes and four hold unevenly, and what stays wide."""
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(512, 7), nn.Linear(7, 3)).to(dtype)


def integers(shape: Sequence[int], number: int, dtype: torch.dtype) -> Tensor:
    """The same in every process."""
    return torch.randint(-3, 4, tuple(shape), generator=torch.Generator().manual_seed(number)).to(dtype)


def train(net: nn.Module, optimizer: Any, numbers: range) -> None:
    for number in numbers:
        for index, parameter in enumerate(net.parameters()):
            gradient = integers(parameter.shape, 10 * number + index, parameter.dtype)
            if isinstance(parameter, DTensor):
                gradient = distribute_tensor(gradient, parameter.device_mesh, parameter.placements, src_data_rank=None)
            parameter.grad = gradient
        optimizer.step()


def assert_same(tested: Tensor, expected: Tensor, what: str, tolerance: float = 0) -> None:
    """Bit for bit, whatever the shape: the blocks of a DTensor are in rows."""
    assert_near(local_part(tested), part_of(expected.detach().view(tested.shape), tested), tolerance, what)


def assert_alike(net: nn.Module, optimizer: Any, whole: nn.Module, expected: Any, what: str) -> None:
    # The one loop that is compiled for state in bfloat16 as it lies rounds what is behind its last vector otherwise.
    is_compiled = optimizer.backend == "cpu" and isinstance(optimizer.precision, StateDtype)
    for (name, parameter), single in zip(net.named_parameters(), whole.parameters()):
        assert_same(parameter, single, f"{what} {name}", TOLERANCE if is_compiled else 0)
        held: Mapping[str, Any] = optimizer.state[parameter]
        for key, value in expected.state[single].items():
            assert value.ndim == 0 or isinstance(held[key], DTensor), f"{what} {key} of {name}"
            assert_same(held[key], value, f"{what} {key} of {name}", 2.0**-8 if is_compiled else 0)


def saved_by_two_and_loaded_by_others() -> None:
    for policy, rule, backend in few(
        ("blocks", "adamw", "cpu"),
        ("split_blocks", "sgd", "reference"),
        ("rounding", "adamw", "cpu"),
        ("master", "sgd", "cpu"),
    ):
        _saved_by_two_and_loaded_by_others(policy, rule, backend)


def every_policy_saved_and_loaded() -> None:
    for policy, rule, backend in itertools.product(POLICIES, RULES, paths()):
        _saved_by_two_and_loaded_by_others(policy, rule, backend)


def _saved_by_two_and_loaded_by_others(policy: str, rule: str, backend: str) -> None:
    """Two of the processes train five steps and save; one, two and three take five more, as one would."""
    world, rank = dist.get_world_size(), dist.get_rank()
    what = f"{policy} {rule} {backend}"
    path = Path(os.environ["CASES_FOLDER"]) / "precision" / what.replace(" ", "_")
    meshes = {count: DeviceMesh("cpu", list(range(count))) for count in range(1, min(world, 3) + 1)}
    (dtype, precision), (cls, given) = POLICIES[policy], RULES[rule]
    options = {**given, "precision": precision, "backend": backend}

    def sharded(mesh: DeviceMesh, seed: int) -> tuple[nn.Module, Any]:
        net = fully_shard(model(dtype), mesh=mesh)
        return net, cls(net.parameters(), **options, seed=seed)

    whole = model(dtype)
    expected = cls(whole.parameters(), **options, seed=5, norm_group=alone())
    train(whole, expected, range(10))
    if rank < 2:
        net, optimizer = sharded(meshes[2], 5)
        train(net, optimizer, range(5))
        parts = get_state_dict(net, optimizer)
        dcp.save({"model": parts[0], "optim": parts[1]}, checkpoint_id=path, process_group=meshes[2].get_group())
    dist.barrier()
    for count, mesh in meshes.items():
        if rank >= count:
            continue
        net, optimizer = sharded(mesh, 6)
        parts = get_state_dict(net, optimizer)
        wanted = {"model": parts[0], "optim": parts[1]}
        dcp.load(wanted, checkpoint_id=path, process_group=mesh.get_group())
        set_state_dict(net, optimizer, model_state_dict=wanted["model"], optim_state_dict=wanted["optim"])
        train(net, optimizer, range(5, 10))
        assert optimizer.backend == backend
        assert_alike(net, optimizer, whole, expected, f"{what}, {count} processes:")
    dist.barrier()


def whole_state() -> None:
    """A full state dict of shards is loaded by a model in one process: blocks that are in no rows there, and remainders
    of a type that can be sent."""
    for policy in ("blocks", "split"):
        _whole_state(policy)


def _whole_state(policy: str) -> None:
    dtype, precision = POLICIES[policy]
    net = fully_shard(model(dtype), mesh=DeviceMesh("cpu", list(range(dist.get_world_size()))))
    optimizer = torchclip.AdamW(net.parameters(), lr=0.01, precision=precision)
    train(net, optimizer, range(3))
    parts = get_state_dict(net, optimizer, options=StateDictOptions(full_state_dict=True))
    shared: list[Any] = [parts]
    dist.broadcast_object_list(shared)  # the first process alone is given it
    whole = model(dtype)
    single = torchclip.AdamW(whole.parameters(), lr=0.01, precision=precision, norm_group=alone())
    set_state_dict(whole, single, model_state_dict=shared[0][0], optim_state_dict=shared[0][1])
    again = fully_shard(model(dtype), mesh=DeviceMesh("cpu", list(range(dist.get_world_size()))))
    loaded = torchclip.AdamW(again.parameters(), lr=0.01, precision=precision)
    full = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    set_state_dict(again, loaded, model_state_dict=parts[0], optim_state_dict=parts[1], options=full)
    for one, other in ((net, optimizer), (whole, single), (again, loaded)):
        train(one, other, range(3, 5))
    for one, other in ((net, optimizer), (again, loaded)):
        assert_alike(one, other, whole, single, f"{policy}, of a full state dict:")


def saved_without_shards() -> None:
    """A run of one process goes on in many, by a checkpoint of torch.distributed."""
    dtype, precision = POLICIES["split"]
    path = Path(os.environ["CASES_FOLDER"]) / "without_shards"
    whole, net = model(dtype), fully_shard(model(dtype), mesh=DeviceMesh("cpu", list(range(dist.get_world_size()))))
    single = torchclip.AdamW(whole.parameters(), lr=0.01, precision=precision, norm_group=alone())
    optimizer = torchclip.AdamW(net.parameters(), lr=0.01, precision=precision)
    train(whole, single, range(3))
    if dist.get_rank() == 0:
        parts = get_state_dict(whole, single)
        dcp.save({"model": parts[0], "optim": parts[1]}, checkpoint_id=path, no_dist=True)
    dist.barrier()
    parts = get_state_dict(net, optimizer)
    wanted = {"model": parts[0], "optim": parts[1]}
    dcp.load(wanted, checkpoint_id=path)
    set_state_dict(net, optimizer, model_state_dict=wanted["model"], optim_state_dict=wanted["optim"])
    for one, other in ((whole, single), (net, optimizer)):
        train(one, other, range(3, 5))
    assert_alike(net, optimizer, whole, single, "saved without shards:")


def stages() -> None:
    for policy, rule, backend in few(
        ("blocks", "adamw", "cpu"),
        ("rounding", "sgd", "cpu"),
        ("rounding", "adamw", "reference"),
    ):
        _stages(policy, rule, backend)


def stages_of_every_policy() -> None:
    for policy, rule, backend in itertools.product(POLICIES, RULES, paths()):
        _stages(policy, rule, backend)


def _stages(policy: str, rule: str, backend: str) -> None:
    """Parameters that are distinct by declaration, two of each process; a save and load in between."""
    rank, world = dist.get_rank(), dist.get_world_size()
    (dtype, precision), (cls, given) = POLICIES[policy], RULES[rule]
    options = {**given, "precision": precision, "backend": backend}
    shapes = [(3, 300), (5,)] * world
    values = [integers(shape, index, torch.float32).div(7).to(dtype) for index, shape in enumerate(shapes)]
    whole = [nn.Parameter(value) for value in values]
    mine = [nn.Parameter(value.clone()) for value in values[2 * rank : 2 * rank + 2]]
    expected = cls(whole, **options, seed=5, norm_group=alone())
    optimizer = cls(mine, **options, seed=5 + rank, norm_group=dist.group.WORLD)
    for number in range(10):
        gradients = [integers(shape, 100 * number + index, dtype) for index, shape in enumerate(shapes)]
        for parameter, gradient in zip([*whole, *mine], [*gradients, *gradients[2 * rank :]]):
            parameter.grad = gradient.clone()
        expected.step()
        with counted() as seen:
            optimizer.step()
        assert number in (0, 5) or seen == ["all_reduce"] * ("clip" in given), seen
        if number == 4:
            saved = optimizer.state_dict()
            optimizer = cls(mine, **options, seed=9, norm_group=dist.group.WORLD)
            optimizer.load_state_dict(saved)
    for one, other in zip(mine, whole[2 * rank :]):
        assert_same(one, other, f"{policy} {rule} {backend}")
        for key, value in expected.state[other].items():
            assert_same(optimizer.state[one][key], value, f"{key}, {policy} {rule} {backend}")


@on_both
def any_layout() -> None:
    """Draws and what is kept beside a parameter, however it is split."""
    for layout, policy in itertools.product(spreads(), ("rounding", "split")):
        dtype, precision = POLICIES[policy]
        steps(Twins(build("adamw", precision=precision, seed=3), layout, dtype=dtype), tolerance=0)


@on_both
def other_gradients() -> None:
    """In another type than the parameter, of which torch's autograd is told."""
    for layout in spreads():
        twins = Twins(build("adamw", precision=SplitMaster()), layout, dtype=torch.bfloat16)
        for parameter in (*twins.single, *twins.shared):
            parameter.grad_dtype = None
        twins.dtype = torch.float32
        steps(twins, tolerance=0)


def mixed_types() -> None:
    """FSDP2 that computes in bfloat16 and reduces gradients in float32, and that has parameters in bfloat16 alone."""
    for dtype, precision in ((torch.float32, StateDtype("bfloat16")), (torch.bfloat16, SplitMaster(state=BLOCKS))):
        _mixed_types(dtype, precision)


def _mixed_types(dtype: torch.dtype, precision: Any) -> None:
    rank, world = dist.get_rank(), dist.get_world_size()
    mesh = DeviceMesh("cpu", list(range(world)))
    mixed = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    path = Path(os.environ["CASES_FOLDER"]) / "mixed" / str(dtype)

    def made(seed: int) -> tuple[nn.Module, Any]:
        net = model(dtype)
        fully_shard(net, mesh=mesh, mp_policy=mixed)
        return net, torchclip.AdamW(net.parameters(), lr=0.01, clip=1.0, precision=precision)

    def run(net: nn.Module, optimizer: Any, numbers: range) -> None:
        for number in numbers:
            optimizer.zero_grad()
            data = torch.randn(2 * world, 512, generator=torch.Generator().manual_seed(number))
            net(data[2 * rank : 2 * rank + 2]).square().mean().backward()
            optimizer.step()

    net, optimizer = made(1)
    run(net, optimizer, range(2))
    assert optimizer.backend == "cpu", optimizer.backend_reason
    parts = get_state_dict(net, optimizer)
    dcp.save({"model": parts[0], "optim": parts[1]}, checkpoint_id=path)
    other, loaded = made(2)
    parts = get_state_dict(other, loaded)
    wanted = {"model": parts[0], "optim": parts[1]}
    dcp.load(wanted, checkpoint_id=path)
    set_state_dict(other, loaded, model_state_dict=wanted["model"], optim_state_dict=wanted["optim"])
    run(net, optimizer, range(2, 4))
    run(other, loaded, range(2, 4))
    for one, parameter in zip(net.parameters(), other.parameters()):
        assert isinstance(one, DTensor) and isinstance(parameter, DTensor)
        assert_near(local_part(parameter), local_part(one), 0, f"{dtype}")
        for key, value in optimizer.state[one].items():
            if isinstance(value, DTensor):
                assert_near(local_part(loaded.state[parameter][key]), local_part(value), 0, f"{dtype} {key}")


CASES = (
    *("saved_by_two_and_loaded_by_others", "every_policy_saved_and_loaded", "stages", "stages_of_every_policy"),
    *("whole_state", "saved_without_shards", "any_layout", "other_gradients", "mixed_types"),
)
"""Every one by its name."""
