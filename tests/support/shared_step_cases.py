"""Cases of tests/distributed about what processes have in common: steps that are skipped, copies, one norm."""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

import torchclip
from builders import OPTIMIZERS
from sharded_cases import build, fsdp, spreads, steps
from sharded_twins import (
    TOLERANCE,
    Twins,
    assert_near,
    counted,
    local_part,
    mesh_of,
    on_both,
    part_of,
    spread,
    values,
)


@on_both
def steps_that_are_not_taken() -> None:
    """By all, when one process alone has a reason; the same collectives are called as in every step."""
    last = dist.get_rank() == dist.get_world_size() - 1
    for layout in spreads():
        for policy in (torchclip.ClipByGlobalNorm, torchclip.ClipByTensorNorm):
            twins = Twins(build("adamw", clip=policy(1.0, nonfinite="skip")), layout)
            steps(twins, 2)
            twins.give(2)
            _make_infinite(twins, here=last)
            with counted() as seen:
                twins.optimizer.step()
            assert seen == ["all_reduce"], seen
            assert twins.optimizer.step_was_skipped
            twins.check(measured=False)
            twins.give(3, missing=range(len(twins.shapes)))
            twins.step(3, missing=range(len(twins.shapes)))  # no gradient at all
            twins.step(4, missing=(0, 2))
            assert not twins.optimizer.step_was_skipped
            twins.check(measured=False)  # of which one has counted a step more
            twins.optimizer.clip = policy(1.0, nonfinite="error")
            twins.give(5)
            _make_infinite(twins, here=last)
            with pytest.raises(RuntimeError, match="not finite"):
                twins.optimizer.step()
        for clip in (None, 1.0):
            twins = Twins(build("adamw", clip=clip), layout)
            twins.give(1)
            twins.optimizer.found_inf = torch.tensor(float(last))
            with counted() as seen:
                twins.optimizer.step()
            assert seen[-1:] == ["all_reduce"], seen
            assert twins.optimizer.step_was_skipped
            del twins.optimizer.found_inf
            steps(twins)


def _make_infinite(twins: Twins, *, here: bool) -> None:
    """A gradient of one process, of which another one may have a copy that is finite."""
    for shared in twins.shared:
        gradient = shared.grad.to_local() if isinstance(shared, DTensor) else shared.grad
        if here and gradient is not None and gradient.numel() > 0:
            gradient.view(-1)[0] = torch.inf
            return


def parameters_replaced() -> None:
    """In groups that there are, as Accelerate replaces them: they are looked at before the next step."""
    whole = [torch.nn.Parameter(value) for value in values(((4, 3), (4,)), 1)]
    optimizer = torchclip.AdamW(whole, lr=0.1, clip=1.0)
    for parameter in whole:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    sharded = [torch.nn.Parameter(spread(parameter.detach(), fsdp(0, (4,)))) for parameter in whole]
    for parameter in sharded:
        parameter.grad = spread(torch.ones(parameter.shape), fsdp(0, (4,)))
    optimizer.param_groups[0]["params"][:] = sharded
    optimizer.step()
    assert optimizer.backend == "cpu" and float(optimizer.grad_norm) == 4.0
    flat = torch.nn.Parameter(torch.ones(3))
    flat._fsdp_flattened = True  # type: ignore[attr-defined]
    flat.grad = torch.ones(3)
    for group in (whole, sharded):
        optimizer = torchclip.AdamW(group, lr=0.1, clip=1.0)
        optimizer.step()
        optimizer.param_groups[0]["params"][:] = [flat]
        before = flat.detach().clone()
        with pytest.raises(ValueError, match="FSDP1.* say norm_group=model.process_group"):
            optimizer.step()
        assert torch.equal(flat, before)


@on_both
def copied() -> None:
    """An optimizer that has taken steps with others: its copy asks them anew."""
    twins = Twins(build("adamw", clip=1.0), fsdp)
    steps(twins, 2)
    other = copy.deepcopy(twins.optimizer)
    twins.step(2)
    for group, own in zip(other.param_groups, twins.optimizer.param_groups):
        for parameter, shared in zip(group["params"], own["params"]):
            parameter.grad = shared.grad
    other.step()
    twins.optimizer = other
    twins.shared = [parameter for group in other.param_groups for parameter in group["params"]]
    twins.check()


@on_both
def clip_functions() -> None:
    """Over mixtures of meshes and plain tensors."""
    for layout, order in itertools.product(spreads(), (2.0, 1.0, math.inf)):
        twins = Twins(build("sgd"), layout)
        twins.give(3)
        single = torch.nn.utils.clip_grad_norm_(twins.single, 0.5, order)
        norm = torchclip.get_total_norm([shared.grad for shared in twins.shared], order)
        assert type(norm) is torch.Tensor
        assert_near(norm, single, TOLERANCE, "norm")
        assert_near(torchclip.clip_grad_norm_(twins.shared, 0.5, order), single, TOLERANCE, "norm")
        for shared, expected in zip(twins.shared, twins.single):
            assert_near(local_part(shared.grad), part_of(expected.grad, shared), TOLERANCE, "gradient")
    mine = torch.full((2,), 1.0 + dist.get_rank())
    norm = torchclip.get_total_norm([mine], norm_group=dist.group.WORLD)
    assert_near(
        norm, torch.tensor(sum(2.0 * (1 + rank) ** 2 for rank in range(dist.get_world_size())) ** 0.5), 1e-7, ""
    )
    mine[0] = torch.inf if dist.get_rank() == 0 else 1
    with pytest.raises(RuntimeError, match="non-finite"):
        torchclip.get_total_norm([mine], error_if_nonfinite=True, norm_group=dist.group.WORLD)
    partial = DTensor.from_local(torch.ones(3), mesh_of(dist.get_world_size()), [Partial()], run_check=False)
    assert_near(torchclip.get_total_norm(partial), 3**0.5 * torch.tensor(float(dist.get_world_size())), 1e-6, "norm")


def clip_functions_without_gradients() -> None:
    """The last process has none of some parameters, or of all, and takes part all the same."""
    world, last = dist.get_world_size(), dist.get_rank() == dist.get_world_size() - 1
    for missing in (1, 2):
        params = [torch.nn.Parameter(spread(torch.ones(8, 2), fsdp(0, (8, 2)))) for _ in range(2)]
        for index, parameter in enumerate(params):
            if not last or index >= missing:
                parameter.grad = spread(torch.ones(8, 2), fsdp(0, (8, 2)))
        norm = (32 - missing * 16 / world) ** 0.5
        assert_near(torchclip.clip_grad_norm_(params, 1.0), torch.tensor(norm), TOLERANCE, "norm")
        for parameter in params:
            if parameter.grad is not None:
                gradient = local_part(parameter.grad)
                assert_near(gradient, torch.ones_like(gradient) / norm, 2e-6, "gradient")


def measured_in_graphs() -> None:
    """What is sent breaks a graph, and is what it is without one."""
    own = torch.nn.Parameter(torch.full((2,), 1.0 + dist.get_rank()))
    optimizer = torchclip.GRDA([own], lr=0.1, norm_group=dist.group.WORLD)
    own.grad = own.detach().clone()
    whole = sum(2.0 * (1 + rank) ** 2 for rank in range(dist.get_world_size())) ** 0.5

    def measured() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        norm = torchclip.get_total_norm([own.grad], norm_group=dist.group.WORLD)
        return norm, torchclip.clip_grad_norm_([own], whole / 2, norm_group=dist.group.WORLD), optimizer.sparsity()

    with torch.no_grad():
        own[0] = float(dist.get_rank() > 0)
    found = torch.compile(measured, backend="eager")()
    for value, wanted in zip(found, (whole, whole, 0.5 / dist.get_world_size())):
        assert_near(value, torch.tensor(wanted), TOLERANCE, "measured")
    assert_near(own.grad, torch.full((2,), 0.5 * (1 + dist.get_rank())), 1e-6, "gradient")


@on_both
def one_norm_for_two() -> None:
    """Optimizers with half of the parameters each."""
    layout = spreads()[-1]
    twins = Twins(build("sgd", clip=1.5), layout)
    given = {**_sgd(), "clip": 1.5, "backend": twins.optimizer.backend}
    halves = [torchclip.SGD(group["params"], **given) for group in twins.optimizer.param_groups]
    for number in range(3):
        twins.give(number)
        norm = torchclip.get_total_norm([shared.grad for shared in twins.shared])
        for half in halves:
            half.set_grad_norm(norm)
            with counted() as seen:
                half.step()
            assert number == 0 or seen == [], seen
        twins.expected.step()
    for single, shared in zip(twins.single, twins.shared):
        assert_near(local_part(shared), part_of(single.detach(), shared), TOLERANCE, "parameter", among=single.detach())


def _sgd() -> dict[str, Any]:
    return dict(OPTIMIZERS["sgd"][1])


def partial_gradients() -> None:
    """As sequence parallelism leaves those of a LayerNorm: to be added up."""
    mesh = mesh_of(dist.get_world_size())
    parameter = torch.nn.Parameter(distribute_tensor(torch.ones(5), mesh, [Replicate()], src_data_rank=None))
    sharded = torch.nn.Parameter(distribute_tensor(torch.ones(5, 3), mesh, [Shard(0)], src_data_rank=None))
    optimizer = torchclip.SGD([parameter, sharded], lr=1.0, clip=1.0)
    parameter.grad = DTensor.from_local(torch.full((5,), 1.0 + dist.get_rank()), mesh, [Partial()], run_check=False)
    sharded.grad = distribute_tensor(torch.ones(5, 3), mesh, [Shard(0)], src_data_rank=None)
    optimizer.step()
    whole = float(sum(1 + rank for rank in range(dist.get_world_size())))
    norm = torch.tensor((5 * whole**2 + 15) ** 0.5)
    assert_near(optimizer.grad_norm, norm, TOLERANCE, "norm")
    assert_near(local_part(parameter), 1 - torch.full((5,), whole) / (norm + 1e-6), TOLERANCE, "parameter")


CASES = (
    "steps_that_are_not_taken",
    "parameters_replaced",
    "copied",
    "clip_functions",
    "clip_functions_without_gradients",
    "measured_in_graphs",
    "one_norm_for_two",
    "partial_gradients",
)
"""Every one by its name."""
