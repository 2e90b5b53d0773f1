"""Cases of tests/distributed with parameters that are distinct by declaration."""

from __future__ import annotations

import copy
import itertools
import pickle

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

import torchclip
from sharded_cases import NOISE, build, fsdp
from sharded_twins import (
    TOLERANCE,
    alone,
    assert_near,
    compiled,
    counted,
    local_part,
    mesh_of,
    part_of,
    spread,
    values,
)


def stages() -> None:
    """Parameters that are distinct over processes, of which the last one has none."""
    world, rank = dist.get_world_size(), dist.get_rank()
    shapes = [(3, 2), (4,), (2, 2), (5,), (3, 3), (1,)][: 2 * (world - 1)]
    for options in (
        {"clip": torchclip.ClipByGlobalNorm(0.5)},
        {"clip": torchclip.ClipByGlobalNorm(0.5, scope="group")},
        {"clip": torchclip.ClipByTensorNorm(0.5)},
        {"clip": torchclip.AdaptiveGradientClip(0.1)},
        {"clip": torchclip.AutoClip(50.0, window=3)},
        {"extensions": NOISE["noise"], "seed": 3},
    ):
        whole = [torch.nn.Parameter(value) for value in values(shapes, 1)]
        expected = build("adamw", **options)([{"params": whole}], norm_group=alone(), backend="reference")
        mine = [torch.nn.Parameter(value) for value in values(shapes, 1)[2 * rank : 2 * rank + 2]]
        optimizer = build("adamw", **options)([{"params": mine}], norm_group=dist.group.WORLD)
        for number in range(3):
            for one, gradient in zip(whole, values(shapes, 100 + number)):
                one.grad = gradient
            for one, gradient in zip(mine, values(shapes, 100 + number)[2 * rank :]):
                one.grad = gradient
            expected.step()
            with counted() as seen:
                optimizer.step()
            assert number == 0 or len(seen) <= 1, seen
        for one, other in zip(mine, whole[2 * rank : 2 * rank + 2]):
            assert_near(one.detach(), other.detach(), TOLERANCE, "parameter")
        if "clip" in options and not isinstance(options["clip"], torchclip.ClipByTensorNorm):
            assert_near(optimizer.grad_norm, expected.grad_norm, TOLERANCE, "norm")
    optimizer = torchclip.SGD([{"params": mine}], lr=0.1, norm_group=dist.group.WORLD, clip=1.0)
    assert optimizer.backend == compiled(), optimizer.backend_reason
    for policy, backend in ((torchclip.AdaGC(), "reference"), (1.0, compiled())):  # which does not stay behind
        optimizer.clip = policy
        for parameter in mine:
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        assert optimizer.backend == backend, optimizer.backend_reason
    one = torchclip.ClipByTensorNorm(1.0, nonfinite="skip")
    optimizer = torchclip.SGD([{"params": mine}], lr=0.1, norm_group=dist.group.WORLD, clip=one)
    for parameter in mine:
        parameter.grad = torch.full_like(parameter, torch.inf if rank == 0 else 1.0)
    before = [parameter.detach().clone() for parameter in mine]
    optimizer.step()
    assert optimizer.step_was_skipped and all(map(torch.equal, mine, before))


def stages_without_norms() -> None:
    """Each has as many param groups as it likes, and may have nothing to step: nothing is sent once they agree."""
    rank = dist.get_rank()
    mine = [torch.nn.Parameter(value) for value in values(((3, 2), (4,)), 1 + rank)]
    groups = [{"params": mine[:1]}, {"params": mine[1:]}] if rank == 0 else [{"params": mine}]
    for backend in ("reference", "cpu"):
        optimizer = torchclip.SGD(groups, lr=1.0, norm_group=dist.group.WORLD, backend=backend)
        for parameter in mine:
            parameter.grad = None if rank == 1 else torch.ones_like(parameter)
        before = [parameter.detach().clone() for parameter in mine]
        for asked in (["all_gather"], []):
            with counted() as seen:
                optimizer.step()
            assert seen == asked, seen
        moved = 0 if rank == 1 else 2
        for parameter, value in zip(mine, before):
            torch.testing.assert_close(parameter.detach(), value - moved)


def scales_of_stages() -> None:
    """A gradient that overflows in one stage: all leave out the step, and their scales stay the same with one found_inf
    for all of them."""
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torchclip.SGD([parameter], lr=0.1, clip=1.0, norm_group=dist.group.WORLD)
    scaler = ShardedGradScaler("cpu", init_scale=4.0, process_group=dist.group.WORLD)
    for number in range(3):
        scaler.scale(torch.ones(()))
        parameter.grad = torch.full((3,), torch.inf if number == 1 and dist.get_rank() == 0 else scaler.get_scale())
        before = parameter.detach().clone()
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        assert torch.equal(before, parameter) is optimizer.step_was_skipped is (number == 1)
        assert scaler.get_scale() == (4.0 if number == 0 else 2.0)
        if number != 1:
            assert_near(optimizer.grad_norm, torch.tensor(3.0 * dist.get_world_size()).sqrt(), TOLERANCE, "norm")


def experts() -> None:
    """Some groups are distinct over processes, and of others every process has a copy."""
    rank, world = dist.get_rank(), dist.get_world_size()
    dense, own, others = values(((3, 2),), 1), values(((4, 2),), 10 + rank), range(world)
    for clip in (torchclip.ClipByGlobalNorm(0.5), torchclip.ClipByTensorNorm(0.5)):
        params = [torch.nn.Parameter(value.clone()) for value in (*dense, *own)]
        groups = [{"params": params[:1]}, {"params": params[1:], "norm_group": dist.group.WORLD}]
        optimizer = torchclip.SGD(groups, lr=1.0, clip=clip)
        for parameter in params:
            parameter.grad = parameter.detach().clone()
        with counted() as seen:
            optimizer.step()
        if clip.scope == "tensor":
            norms = [value.norm() for value in (*dense, *own)]
        else:
            assert seen[-1:] == ["all_reduce"], seen
            everyone = [*dense, *(value for other in others for value in values(((4, 2),), 10 + other))]
            norms = [torch.cat([value.flatten() for value in everyone]).norm()] * 2
        for parameter, value, norm in zip(params, (*dense, *own), norms):
            assert_near(parameter.detach(), value * (1 - 0.5 / norm), 1e-6, "parameter")
        saved = optimizer.state_dict()
        assert saved["param_groups"][1]["norm_group"] is None
        optimizer.load_state_dict(saved)
        assert optimizer.param_groups[1]["norm_group"] is dist.group.WORLD


def draws_of_distinct_tensors() -> None:
    """Each tensor has one number, however many processes have parts or copies of it, and no two have the same."""
    mesh = mesh_of(2, dist.get_world_size() // 2)
    stages, parts, everyone = mesh["outer"], mesh["inner"], dist.group.WORLD
    stage, shape = stages.get_local_rank(), (4, 2)
    shards, copies = (parts, [Shard(0)]), (parts, [Replicate()])
    # Where the tensors lie that are distinct over a group of processes, and those that are none, one place in a list.
    for placements, group, common, at in (
        (shards, stages, None, None),
        (shards, everyone, None, None),
        (copies, everyone, None, None),
        (shards, stages, None, 0),
        (None, stages, shards, 0),
        (shards, stages, None, 1),
    ):
        for backend in ("reference", compiled()):
            mine = [torch.nn.Parameter(spread(torch.zeros(shape), placements)) for _ in range(2 if at is None else 1)]
            groups, own = [{"params": [*mine], "norm_group": group}], [len(mine) * stage + index for index in range(2)]
            if at is not None:
                copy = torch.nn.Parameter(spread(torch.zeros(shape), common))
                groups.insert(at, {"params": [copy]})
                mine.insert(at, copy)
                own = [[0, 1 + stage], [2 * stage, 1]][at]
            whole = [torch.nn.Parameter(torch.zeros(shape)) for _ in range(4 if at is None else 3)]
            make = build("sgd", extensions=NOISE["noise"], seed=3, backend=backend)
            expected, optimizer = make([{"params": whole}], norm_group=alone()), make(groups)
            for _ in range(2):
                for parameter in (*whole, *mine):
                    parameter.grad = torch.ones_like(parameter)
                expected.step()
                optimizer.step()
            for parameter, index in zip(mine, own, strict=True):
                wanted = part_of(whole[index].detach(), parameter)
                assert_near(local_part(parameter), wanted, 0.0, f"{placements}, {group}, number {index}")


def copies() -> None:
    """A copy shares the groups, and goes on alike; a pickle would hold groups of this process."""
    mine = [torch.nn.Parameter(value) for value in values(((3, 2), (4,)), 1 + dist.get_rank())]
    rest = [{"params": mine[:1]}, {"params": mine[1:], "norm_group": dist.group.WORLD}]
    for groups, options in (([{"params": mine}], {"norm_group": dist.group.WORLD}), (rest, {})):
        optimizer = torchclip.SGD(groups, lr=1.0, momentum=0.5, clip=0.5, **options)
        for parameter in mine:
            parameter.grad = parameter.detach().clone()
        optimizer.step()
        other = copy.deepcopy(optimizer)
        assert [group.get("norm_group") for group in other.param_groups] == [
            group.get("norm_group") for group in optimizer.param_groups
        ]
        others = [parameter for group in other.param_groups for parameter in group["params"]]
        for parameter, copied in zip(mine, others):
            assert copied is not parameter
            copied.grad = parameter.grad.clone()
        for each in (optimizer, other):
            each.step()
        assert all(map(torch.equal, mine, others)) and torch.equal(optimizer.grad_norm, other.grad_norm)
        with pytest.raises(RuntimeError, match=r"cannot be pickled: save its state_dict\(\), and load that"):
            pickle.dumps(optimizer)


def unlike_stages() -> None:
    """Pipeline stages that hold their parameters otherwise and in another order: what all change is no disagreement,
    and sums over several sets of processes are taken in one order."""
    if dist.get_world_size() != 4:
        return
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("pp", "tp"))
    rank, stages = dist.get_rank(), mesh["pp"]
    stage = rank // 2

    def split(value: torch.Tensor) -> torch.Tensor:
        return distribute_tensor(value, mesh["tp"], [Shard(0)])

    for backend in ("reference", compiled()):
        own = torch.ones(4, 2) if stage == 1 else split(torch.ones(4, 2))
        parameter = torch.nn.Parameter(own)
        optimizer = torchclip.SGD([{"params": [parameter], "norm_group": stages}], lr=0.1, clip=1.0, backend=backend)
        for clip in (1.0, 2.0, 2.0):
            optimizer.clip = clip
            parameter.grad = torch.ones(4, 2) if stage == 1 else split(torch.ones(4, 2))
            optimizer.step()
            assert_near(optimizer.grad_norm, torch.tensor(4.0), TOLERANCE, "norm")

        both = [torch.nn.Parameter(split(torch.ones(4, 2))), torch.nn.Parameter(torch.ones(3))]
        both[0].grad, both[1].grad = split(torch.full((4, 2), 1.0 + stage)), torch.full((3,), 3.0 + stage)
        options = {"clip": 1e9, "step_size": torchclip.AdaLossStep(b0=1.0), "backend": backend}
        optimizer = torchclip.SGD(both[:: 1 - 2 * stage], lr=0.1, norm_group=stages, loss_group=stages, **options)
        optimizer.step(loss=1.0 + rank)
        assert_near(optimizer.grad_norm, torch.tensor(115.0**0.5), TOLERANCE, "norm")
        mean = 1.0 + rank % 2 + 1  # of ranks 0 and 2, and of 1 and 3
        assert_near(optimizer.metrics()["lr_scale"], torch.tensor((1.0 + mean) ** -0.5), TOLERANCE, "lr_scale")


def stages_beside_plain_ones() -> None:
    """Each adds up over the others once, whether it has tensors on a mesh, plain ones, both or none."""
    if dist.get_world_size() != 4:
        return
    mesh = mesh_of(2, 2)
    shards, copies = (mesh["inner"], [Shard(0)]), (mesh["inner"], [Replicate()])
    stage, parts = mesh.get_local_rank("outer"), (None, shards, copies, (mesh["inner"], [Shard(1)]))
    policies = (torchclip.ClipByGlobalNorm(0.5), torchclip.AdaptiveGradientClip(0.1))
    for kinds in (((0,), (1,)), ((1,), ()), ((1, 0), (0,)), ((0, 1, 2, 3), (2,)), ((3, 1), (0, 1, 0))):
        for backend, clip in itertools.product(("reference", None), policies):
            whole = [torch.nn.Parameter(value) for value in values([(4, 2)] * sum(map(len, kinds)), 1)]
            own = whole[len(kinds[0]) :] if stage else whole[: len(kinds[0])]
            held = [spread(value.detach(), parts[kind]) for value, kind in zip(own, kinds[stage], strict=True)]
            mine = [torch.nn.Parameter(value) for value in held]
            make = build("sgd", clip=clip, backend=backend)
            optimizer = make([{"params": mine}], norm_group=mesh["outer"])
            expected = make([{"params": whole}], norm_group=alone())
            for parameter in (*mine, *whole):
                parameter.grad = torch.ones_like(parameter)
            for each in (optimizer, expected):
                each.step()
            assert_near(optimizer.grad_norm, expected.grad_norm, TOLERANCE, f"norm of {kinds}")
            for parameter, single in zip(mine, own, strict=True):
                assert_near(local_part(parameter), part_of(single.detach(), parameter), TOLERANCE, f"{kinds}")


def draws_and_losses_beside_plain_stages() -> None:
    """A stage of plain tensors, of which the others along its mesh have copies, beside one of shards: one seed for all,
    and the mean of all losses."""
    if dist.get_world_size() != 4:
        return
    mesh, rank = mesh_of(2, 2), dist.get_rank()
    is_plain = mesh.get_local_rank("outer") == 0
    for backend in ("reference", None):
        value = torch.arange(8.0).reshape(4, 2)
        mine = torch.nn.Parameter(value if is_plain else spread(value, (mesh["inner"], [Shard(0)])))
        options = {"lr": 0.1, "extensions": (torchclip.GradientNoise(0.5),), "norm_group": mesh["outer"]}
        optimizer = torchclip.AdaLoss([mine], **options, backend=backend, seed=rank)
        mine.grad = torch.ones_like(mine)
        optimizer.step(loss=float(rank))
        kept = optimizer.param_groups[0]["shared"]
        assert kept["seed"] == 0 and kept["b_squared"] == 1.0 + (0 + 1 + 2 + 3) / 4


def rows_of_unlike_stages() -> None:
    """Stages in which other numbers of parameters have rows that are split."""
    mesh = mesh_of(2, dist.get_world_size() // 2)
    stages, placements = mesh["outer"], (mesh["inner"], [Shard(0)])
    stage = stages.get_local_rank()
    for shapes in (((5, 3), (4,), (7,), (6, 2)), ((4, 3), (3, 3), (7,), (4, 2))):
        for group in (stages, dist.group.WORLD):
            whole = [torch.nn.Parameter(value) for value in values(shapes, 1)]
            mine = [torch.nn.Parameter(spread(value, placements)) for value in values(shapes, 1)]
            mine = mine[3:] if stage else mine[:3]
            make = build("sgd", clip=torchclip.AdaptiveGradientClip(0.1), backend="reference")
            optimizer, expected = make(mine, norm_group=group), make(whole, norm_group=alone())
            for number in range(2):
                given = values(shapes, 100 + number)
                for parameter, gradient in zip(whole, given, strict=True):
                    parameter.grad = gradient
                for parameter, gradient in zip(mine, given[3:] if stage else given[:3], strict=True):
                    parameter.grad = spread(gradient, placements)
                expected.step()
                optimizer.step()
                for name in ("grad_norm", "clip_factor"):
                    assert_near(getattr(optimizer, name), getattr(expected, name), TOLERANCE, name)
            for parameter, single in zip(mine, whole[3:] if stage else whole[:3], strict=True):
                assert_near(local_part(parameter), part_of(single.detach(), parameter), TOLERANCE, "parameter")


def what_is_no_group() -> None:
    plain = [torch.nn.Parameter(torch.ones(2))]
    for name in ("norm_group", "loss_group"):
        with pytest.raises(TypeError, match=f"{name}= takes a torch.distributed.ProcessGroup or a DeviceMesh, got 3"):
            torchclip.SGD(plain, lr=0.1, **{name: 3})
        with pytest.raises(ValueError, match="a group that this process is not in"):
            torchclip.SGD(plain, lr=0.1, **{name: dist.GroupMember.NON_GROUP_MEMBER})
    with pytest.raises(TypeError, match="norm_group= takes"):
        torchclip.SGD([{"params": plain, "norm_group": "world"}], lr=0.1)
    gone = dist.new_group([dist.get_rank()], use_local_synchronization=True)
    dist.destroy_process_group(gone)
    with pytest.raises(ValueError, match="a process group that was destroyed"):
        torchclip.SGD(plain, lr=0.1, norm_group=gone)
    partial = DTensor.from_local(torch.ones(3), mesh_of(dist.get_world_size()), [Partial()], run_check=False)
    with pytest.raises(ValueError, match="of which no process holds the elements: redistribute it"):
        torchclip.SGD([torch.nn.Parameter(partial)], lr=0.1)
    sharded = torch.nn.Parameter(spread(torch.ones(4), fsdp(0, (4,))))
    optimizer = torchclip.SGD([sharded], lr=torch.tensor(0.1), differentiable=True, clip=1.0)
    sharded.grad = spread(torch.ones(4), fsdp(0, (4,)))
    with pytest.raises(RuntimeError, match="differentiable=True goes through the step of one process"):
        optimizer.step()


CASES = (
    "stages",
    "stages_without_norms",
    "scales_of_stages",
    "experts",
    "draws_of_distinct_tensors",
    "copies",
    "unlike_stages",
    "stages_beside_plain_ones",
    "draws_and_losses_beside_plain_stages",
    "rows_of_unlike_stages",
    "what_is_no_group",
)
"""Every one by its name."""
