"""Cases of tests/distributed about what processes agree on, at first and later, and about those that take no part."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.tensor import Shard

import torchclip
from builders import LOSS
from sharded_cases import build, fsdp, spreads, steps, two_roots
from sharded_twins import (
    TOLERANCE,
    Twins,
    alone,
    assert_near,
    compiled,
    counted,
    local_part,
    mesh_of,
    on_both,
    part_of,
    spread,
)


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
            with pytest.raises(RuntimeError, match=r"ranks \[0, .*\] did not all take part in an all-reduce"):
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
        with pytest.raises(RuntimeError, match="did not all take part in .* give norm_group=, if to one, to all"):
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
        ("adamw", {"clip": 1.0}, {"clip": 1.0, "lr": 0.5}, r"has lr=0.5 in param group 0"),
        ("adamw", {}, {"betas": (0.5, torch.tensor(0.25))}, r"has betas=\[0.5, 0.25\] in param group 0"),
        ("mix_clip", {"gamma": 0.1}, {"gamma": 10.0}, r"has gamma=10.0 in param group 0"),
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


def add_group(optimizer: Any) -> None:
    """One more than the two of a twin."""
    added = torch.nn.Parameter(spread(torch.ones(4, 2), fsdp(0, (4, 2))))
    added.grad = spread(torch.ones(4, 2), fsdp(0, (4, 2)))
    optimizer.add_param_group({"params": [added]})


def drop_group(optimizer: Any) -> None:
    """That one again."""
    del optimizer.param_groups[2]


def swap(optimizer: Any) -> None:
    """Two parameters change places."""
    group = optimizer.param_groups[0]
    group["params"] = [group["params"][at] for at in (1, 0, *range(2, len(group["params"])))]


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

    def written(target: float) -> Callable[[Any], None]:
        return lambda optimizer: optimizer.param_groups[0]["target_sparsity"].fill_(target)

    tensor, target = torchclip.ClipByTensorNorm(0.5), {"target_sparsity": 0.05}
    loss, itself = {"step_size": torchclip.AdaLossStep()}, {"clip": None}
    own = {**loss, "loss_group": mesh_of(2, 2)["inner"]} if dist.get_world_size() == 4 else loss
    tensors = {"target_sparsity": torch.tensor(0.05)}
    rules = {id(target): "lin_breg", id(tensors): "lin_breg", id(itself): "mix_clip"}
    for options, change, undo, said, extra in (
        ({}, clip(2.0), clip(1.0), r"max_norm=\d.0", 0),
        ({}, clip(tensor), clip(1.0), "ClipByTensorNorm", 1),
        (loss, clip(None), clip(1.0), "clip None", 1),
        (own, clip(None), clip(1.0), "clip None", 1),  # with a sum over others
        (itself, clip(1.0), clip(None), "clip None", 1),
        ({}, of_group(0.5), lambda optimizer: optimizer.param_groups[0].pop("clip"), "max_norm=0.5", 1),
        (target, of_group(0.1, "target_sparsity"), of_group(0.05, "target_sparsity"), "target_sparsity", 0),
        (target, loaded(0.1), loaded(0.05), "target_sparsity", 0),
        (tensors, written(0.1), written(0.05), "target_sparsity", 0),
        ({}, add_group, drop_group, "param groups", 2),
        ({}, swap, swap, "has parameters and state as before, and rank . has other parameters than before", 2),
    ):
        twins = Twins(build(rules.get(id(options), "adamw"), **{"clip": 1.0, **options}), spreads()[0])
        steps(twins, 2)
        before = [local_part(shared).clone() for shared in twins.shared]
        if last:
            change(twins.optimizer)
        for number in (2, 3):
            twins.give(number)
            with pytest.raises(RuntimeError, match=f"the processes of this optimizer disagree: .*({said})"):
                twins.optimizer.step(loss=LOSS)
        assert all(map(torch.equal, map(local_part, twins.shared), before))
        if last:
            undo(twins.optimizer)
        twins.optimizer.metrics()  # which asks the others for their zeros, and compares nothing
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


def one_path_for_all() -> None:
    """Where one process is left to the reference path, whose sums are no plan's, the others go along, or all raise."""
    mesh = mesh_of(2, dist.get_world_size() // 2)
    stages, shards = mesh["outer"], (mesh["inner"], [Shard(0)])
    stage = stages.get_local_rank()

    def make(backend: str | None = None, **options: Any) -> Any:
        shapes = ((4, 3), (6,))[: 1 + stage]  # rows are split in the last stage alone
        mine = [torch.nn.Parameter(spread(torch.ones(shape), shards)) for shape in shapes]
        for parameter in mine:
            parameter.grad = torch.ones_like(parameter)
        return torchclip.AdaGradNorm(mine, lr=0.1, norm_group=stages, backend=backend, **options)

    def step_alike(optimizer: Any, expected: Any) -> None:
        for each in (optimizer, expected):
            each.step()
        own = expected.param_groups[0]["params"][stage : 2 * stage + 1]
        for parameter, single in zip(optimizer.param_groups[0]["params"], own, strict=True):
            assert_near(local_part(parameter), part_of(single.detach(), parameter), TOLERANCE, "parameter")

    adaptive, plain = torchclip.AdaptiveGradientClip(0.1), {"clip": 0.5}
    whole = [torch.nn.Parameter(torch.ones(shape)) for shape in ((4, 3), (4, 3), (6,))]
    for parameter in whole:
        parameter.grad = torch.ones_like(parameter)
    expected = torchclip.AdaGradNorm(whole, lr=0.1, scope="tensor", **plain, norm_group=alone())
    optimizer = make(scope="tensor", **plain)
    step_alike(optimizer, expected)
    assert optimizer.backend == compiled(), optimizer.backend_reason
    optimizer.clip = adaptive  # later they do not go along, but hear of it
    before = [local_part(parameter).clone() for parameter in optimizer.param_groups[0]["params"]]
    with pytest.raises(RuntimeError, match="disagree: .*the reference path's steps|disagree since this step"):
        optimizer.step()
    assert all(map(torch.equal, map(local_part, optimizer.param_groups[0]["params"]), before))
    optimizer.clip = 0.5
    step_alike(optimizer, expected)

    optimizer = make(clip=adaptive)
    optimizer.step()
    reason = "rows of a parameter are split" if stage else "the reference path takes the steps of other processes"
    assert optimizer.backend == "reference" and reason in optimizer.backend_reason, optimizer.backend_reason
    for clip in (0.5, adaptive):
        optimizer.clip = clip
        optimizer.step()
    optimizer = make(None if stage else compiled(), clip=adaptive)
    said = "disagree: rank . has backend='cpu', and rank . has backend='reference'. Make it with the same backend="
    for _ in range(2):
        with pytest.raises(RuntimeError, match=said if dist.get_world_size() == 2 else "disagree"):
            optimizer.step()
    alike = torch.nn.Parameter(torch.ones(3))
    alike.grad = torch.ones(3)
    optimizer = torchclip.SGD([alike], lr=0.1, backend=(None, "reference")[stage], norm_group=dist.group.WORLD)
    optimizer.step()  # which sends nothing
    assert optimizer.backend == (compiled(), "reference")[stage], optimizer.backend_reason


def _exchanges(twins: Twins) -> list[str]:
    """Those of another step."""
    with counted() as seen:
        twins.optimizer.step(loss=LOSS)
    return seen


CASES = (
    "disagreements",
    "declared_by_some",
    "changes",
    "changes_on_two_meshes",
    "one_path_for_all",
    "a_rank_that_leaves",
)
"""Every one by its name."""
