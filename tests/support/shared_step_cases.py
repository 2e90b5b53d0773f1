"""Cases of tests/distributed about what processes have in common: steps that are skipped, agreement, one norm."""

from __future__ import annotations

import copy
import datetime
import itertools
import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

import torchclip
from builders import LOSS, OPTIMIZERS
from sharded_cases import build, fsdp, spreads, steps, two_roots
from sharded_twins import (
    TOLERANCE,
    Twins,
    assert_near,
    compiled,
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
        for rule in (build("adamw"), build("adamw", clip=1.0), build("mix_clip"), build("ada_grad_norm")):
            twins = Twins(rule, layout)
            twins.give(1)
            twins.optimizer.found_inf = torch.tensor(float(last))
            with counted() as seen:
                twins.optimizer.step()
            assert seen.count("all_reduce") == 1, seen
            assert twins.optimizer.step_was_skipped
            twins.optimizer.found_inf = torch.tensor(0.0)
            steps(twins, 2)
            del twins.optimizer.found_inf
            steps(twins)


def _make_infinite(twins: Twins, *, here: bool) -> None:
    """A gradient of one process, of which another one may have a copy that is finite."""
    for shared in twins.shared:
        gradient = shared.grad.to_local() if isinstance(shared, DTensor) else shared.grad
        if here and gradient is not None and gradient.numel() > 0:
            gradient.view(-1)[0] = torch.inf
            return


def a_rank_that_leaves() -> None:
    """The others say so within the time-out of their group, and have written nothing."""
    rank, world = dist.get_rank(), dist.get_world_size()
    wait = datetime.timedelta(seconds=3)
    group = dist.new_group(list(range(world)), timeout=wait)
    for backend in ("reference", "cpu"):
        parameter = torch.nn.Parameter(torch.ones(3))
        optimizer = torchclip.SGD([parameter], lr=1.0, clip=1.0, norm_group=group, backend=backend)
        parameter.grad = torch.ones(3)
        optimizer.step()
        before = parameter.detach().clone()
        dist.barrier()
        if rank != world - 1:
            with pytest.raises(RuntimeError, match="(?i)time|closed|reset|abort|connection"):
                optimizer.step()
            assert torch.equal(parameter, before)
        dist.barrier()
        group = dist.new_group(list(range(world)), timeout=wait)


def declared_by_some() -> None:
    """Those that know of no others ask nobody: the others say what may be wrong once they have waited long enough."""
    rank, world = dist.get_rank(), dist.get_world_size()
    group = dist.new_group(list(range(world)), timeout=datetime.timedelta(seconds=3))
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torchclip.SGD([parameter], lr=1.0, clip=1.0, norm_group=None if rank == world - 1 else group)
    parameter.grad = torch.ones(3)
    if rank == world - 1:
        optimizer.step()
    else:
        with pytest.raises(RuntimeError, match="did not all take part in the first step .* say norm_group= in each"):
            optimizer.step()
        assert torch.equal(parameter, torch.ones(3))
    dist.barrier()


def disagreements() -> None:
    """An error in every process, at the first step."""
    first = dist.get_rank() == 0
    for name, options, other, said in (
        ("adamw", {"clip": 1.0}, {"clip": 2.0}, r"max_norm=\d.0"),
        ("adamw", {"clip": 1.0}, {"clip": torchclip.ClipByTensorNorm(1.0)}, "ClipByTensorNorm"),
        ("lin_breg", {"target_sparsity": 0.5}, {"target_sparsity": 0.6}, r"target_sparsity \[0\.[56], 0"),
        ("lin_breg", {"target_sparsity": 0.5}, {}, r"target_sparsity \[None, None\]"),
        ("adamw", {}, {"clip": 1.0}, "clip None"),
        ("sgd", {"skip": torchclip.SkipSpikes(window=6)}, {}, "skip None"),
        ("adamw", {"precision": torchclip.StateDtype("bfloat16")}, {}, "precision None"),
    ):
        twins = Twins(build(name, **(options if first else other)), fsdp, compiles="precision" not in options)
        twins.give(0)
        with pytest.raises(RuntimeError, match=f"the processes of this optimizer disagree: .*{said}"):
            twins.optimizer.step(loss=1.0)
    twins = Twins(build("adamw", clip=1.0), fsdp)
    if first:
        del twins.optimizer.param_groups[1]["params"][1]
    twins.give(0)
    with pytest.raises(RuntimeError, match="the processes of this optimizer disagree"):
        twins.optimizer.step()


@on_both
def changes() -> None:
    """What all of them change is taken. What one of them changes by itself is an error in every process, at the next
    step, which writes nothing; and once that has changed it back, or the others have done it too, they go on."""
    last = dist.get_rank() == dist.get_world_size() - 1

    def clip(policy: Any) -> Callable[[Any], None]:
        return lambda optimizer: setattr(optimizer, "clip", policy)

    def of_group(value: Any, key: str = "clip") -> Callable[[Any], None]:
        return lambda optimizer: optimizer.param_groups[0].update({key: value})

    def loaded(target: float) -> Callable[[Any], None]:
        def load(optimizer: Any) -> None:
            saved = optimizer.state_dict()
            optimizer.load_state_dict(
                {**saved, "param_groups": [{**group, "target_sparsity": target} for group in saved["param_groups"]]}
            )

        return load

    def another(optimizer: Any) -> None:
        added = torch.nn.Parameter(spread(torch.ones(4, 2), fsdp(0, (4, 2))))
        added.grad = spread(torch.ones(4, 2), fsdp(0, (4, 2)))
        optimizer.add_param_group({"params": [added]})

    def back(optimizer: Any) -> None:
        del optimizer.param_groups[2]

    tensor, target = torchclip.ClipByTensorNorm(0.5), {"target_sparsity": 0.05}
    loss, itself = {"step_size": torchclip.AdaLossStep()}, {"clip": None}
    rules = {id(target): "lin_breg", id(itself): "mix_clip"}
    for options, change, undo, said, extra in (
        ({}, clip(2.0), clip(1.0), r"max_norm=\d.0", 0),
        ({}, clip(tensor), clip(1.0), "ClipByTensorNorm", 1),
        (loss, clip(None), clip(1.0), "clip None", 1),
        (itself, clip(1.0), clip(None), "clip None", 1),
        ({}, of_group(0.5), lambda optimizer: optimizer.param_groups[0].pop("clip"), "max_norm=0.5", 1),
        (target, of_group(0.1, "target_sparsity"), of_group(0.05, "target_sparsity"), "target_sparsity", 0),
        (target, loaded(0.1), loaded(0.05), "target_sparsity", 0),
        ({}, another, back, "parameters|param groups", 2),
    ):
        twins = Twins(build(rules.get(id(options), "adamw"), **{"clip": 1.0, **options}), spreads()[0])
        steps(twins, 2)
        before = [local_part(shared).clone() for shared in twins.shared]
        if last:
            change(twins.optimizer)
        on_host = compiled() == "cpu"
        found = f": .*({said})" if on_host else " since this step, or one before it"
        for number in (2, 3):
            twins.give(number)
            hears = pytest.raises(RuntimeError, match=f"the processes of this optimizer disagree{found}")
            # From a device those hear of it before their next step that have not changed the kind of an exchange.
            with hears if on_host or number == 3 else suppress(RuntimeError):
                twins.optimizer.step(loss=LOSS)
        assert all(map(torch.equal, map(local_part, twins.shared), before))
        if last:
            undo(twins.optimizer)
        steps(twins, 2)
        change(twins.optimizer)
        with counted() as seen:
            twins.optimizer.step(loss=LOSS)
        assert seen.count("all_reduce") == len(_exchanges(twins)) + (extra > 0), seen
        assert "all_gather_object" not in seen and seen.count("all_gather") == (extra == 2)


@on_both
def changes_on_two_meshes() -> None:
    """Of which no collective goes over both: every process learns of it."""
    if dist.get_world_size() < 4:
        return
    for policy in (2.0, None):
        twins = Twins(build("adamw", clip=1.0), two_roots())
        steps(twins, 2)
        if dist.get_rank() == 1:
            twins.optimizer.clip = policy
        twins.give(2)
        with pytest.raises(RuntimeError, match="the processes of this optimizer disagree since this step"):
            twins.optimizer.step()
        twins.optimizer.clip = policy
        twins.optimizer.step()


def _exchanges(twins: Twins) -> list[str]:
    """Those of another step."""
    with counted() as seen:
        twins.optimizer.step(loss=LOSS)
    return seen


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
    "disagreements",
    "declared_by_some",
    "changes",
    "changes_on_two_meshes",
    "a_rank_that_leaves",
    "parameters_replaced",
    "copied",
    "clip_functions",
    "one_norm_for_two",
    "partial_gradients",
)
"""Every one by its name."""
