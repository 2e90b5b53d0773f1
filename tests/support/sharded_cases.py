"""The cases of tests/distributed, each of which runs in two processes or four."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.placement_types import _StridedShard

import torchclip
from builders import OPTIMIZERS
from sharded_twins import (
    TOLERANCE,
    Placements,
    Twins,
    alone,
    assert_near,
    counted,
    local_part,
    mesh_of,
    part_of,
    spread,
    values,
)

FOUR_RULES = ("sgd", "adamw", "mix_clip", "ada_grad_norm")

Build = Callable[..., Any]
Spread = Callable[[int, tuple[int, ...]], Placements]


def build(name: str, **options: Any) -> Build:
    cls, given = OPTIMIZERS[name]
    return lambda groups, **more: cls(groups, **{**given, **options, **more})


def clipped(name: str) -> Build:
    """The rule, with a clip policy where it has none of its own."""
    return build(name) if OPTIMIZERS[name][0].spec.clips_itself else build(name, clip=1.5)


# How parameters are spread.


def fsdp(index: int, shape: tuple[int, ...]) -> Placements:
    return mesh_of(dist.get_world_size()), [Shard(0)] if shape else [Replicate()]


def columns(index: int, shape: tuple[int, ...]) -> Placements:
    """As rowwise tensor parallelism has it: no row is whole."""
    return mesh_of(dist.get_world_size()), [Shard(len(shape) - 1)] if shape else [Replicate()]


def beside_plain(index: int, shape: tuple[int, ...]) -> Placements:
    """Tensor parallelism for some, and layers of which every process has a copy."""
    return None if index % 3 == 0 else (columns, fsdp)[index % 2](index, shape)


def hybrid(index: int, shape: tuple[int, ...]) -> Placements:
    return mesh_of(2, dist.get_world_size() // 2), [Replicate(), Shard(0) if shape else Replicate()]


def fsdp_by_tp(index: int, shape: tuple[int, ...]) -> Placements:
    """Some in both dimensions of the mesh, one of them split twice in the same dimension, and some in one alone."""
    mesh = mesh_of(2, dist.get_world_size() // 2)
    if not shape:
        return None
    last = Shard(len(shape) - 1)
    both = [[_StridedShard(0, split_factor=mesh.size(1)), Shard(0)], [Shard(0), last], [last, Shard(0)]]
    return [(mesh, both[index % 3]), (mesh["inner"], [Shard(0)]), (mesh["outer"], [last])][index // 2]


def spreads() -> Sequence[Spread]:
    return (fsdp, columns, beside_plain) if dist.get_world_size() < 4 else (beside_plain, hybrid, fsdp_by_tp)


POLICIES: Sequence[dict[str, Any]] = (
    {"clip": torchclip.ClipByGlobalNorm(1.5)},
    {"clip": torchclip.ClipByGlobalNorm(1.5, smooth=True, scope="group")},
    {"clip": torchclip.ClipByTensorNorm(0.5)},
    {"clip": torchclip.AdaptiveGradientClip(0.1)},
    {"clip": torchclip.AutoClip(50.0, window=3)},
    {"clip": torchclip.ZClip(warmup_steps=2, z_threshold=0.1)},
)


def _steps(twins: Twins, count: int = 4, tolerance: float = 3e-7) -> None:
    for number in range(count):
        twins.step(number, scale=1.0 + number)
    twins.check(tolerance)


def rules() -> None:
    for layout in spreads():
        for name in FOUR_RULES:
            twins = Twins(clipped(name), layout)
            _steps(twins)
            with counted() as seen:
                twins.optimizer.step()
            assert seen == ["all_reduce"], (layout, name, seen)


def policies() -> None:
    for layout in spreads():
        for options in POLICIES:
            _steps(Twins(build("sgd", **options), layout))


def scopes() -> None:
    for layout in spreads():
        for scope in ("optimizer", "group", "tensor", "row"):
            _steps(Twins(build("ada_grad_norm", scope=scope), layout))
        for scope in ("group", "tensor"):
            _steps(Twins(build("mix_clip", scope=scope), layout))


def groups_of_their_own() -> None:
    def make(groups: list[dict[str, Any]], **options: Any) -> Any:
        groups[0]["clip"] = 0.7
        return torchclip.AdamW(groups, lr=0.1, clip=2.0, **options)

    for layout in spreads():
        _steps(Twins(make, layout, groups=3))


def every_rule() -> None:
    for name in OPTIMIZERS:
        _steps(Twins(build(name), fsdp))


def nothing_is_sent_without_norms() -> None:
    for layout in spreads():
        for name in ("sgd", "adamw", "grda"):
            twins = Twins(
                build(name, **({} if name == "grda" else {"extensions": (torchclip.Lookahead(k=2),)})), layout
            )
            with counted() as seen:
                for number in range(3):
                    twins.step(number)
            assert seen == [], seen
            twins.check(tolerance=0)


NOISE: dict[str, tuple[Any, ...]] = {
    "noise": (torchclip.GradientNoise(eta=0.3, gamma=0.55),),
    "dropouts": (torchclip.GradientDropout(0.3), torchclip.LRDropout(0.5)),
}


def draws() -> None:
    """Bit for bit those of one process, though every process has drawn another seed."""
    for layout in spreads():
        for extensions in NOISE.values():

            def make(groups: Any, **options: Any) -> Any:
                torch.manual_seed(dist.get_rank() if "norm_group" not in options else 0)
                return build("adamw", extensions=extensions)(groups, **options)  # noqa: B023

            twins = Twins(make, layout)
            with counted() as seen:
                for number in range(3):
                    twins.step(number)
            assert set(seen) == {"all_gather"} and len(seen) <= 2, seen
            twins.check(tolerance=0)


def draws_of_whole_tensors() -> None:
    """As data parallelism has them: copies, in processes that have drawn other seeds; on every backend."""
    for backend in ("reference", "cpu"):
        torch.manual_seed(dist.get_rank())
        optimizer = torchclip.SGD(_copies(), lr=0.1, extensions=NOISE["noise"], backend=backend)
        with counted() as seen:
            optimizer.step()
            optimizer.step()
        assert seen == ["all_gather"], seen
        _assert_same_everywhere(optimizer)


def losses() -> None:
    """Each process has its own, and all take the step of their mean."""
    own = 0.5 + dist.get_rank()
    mean = 0.5 + (dist.get_world_size() - 1) / 2
    for clip, layout in itertools.product((None, 1.5), spreads()):
        twins = Twins(build("sgd", step_size=torchclip.AdaLossStep(), clip=clip), layout)
        for number in range(3):
            for optimizer, loss in ((twins.expected, mean), (twins.optimizer, own)):
                twins.give(number)
                optimizer.step(loss=loss)
        twins.check()
        with counted() as seen:
            twins.optimizer.step(loss=own)
        assert seen == ["all_reduce"], seen
    for backend in ("reference", "cpu"):
        for options in ({}, {"loss_group": alone()}, {"step_size": torchclip.AdaLossStep(is_averaged=True)}):
            given = {"step_size": torchclip.AdaLossStep(), **options}
            optimizer = torchclip.SGD(_copies(), lr=0.1, backend=backend, **given)
            optimizer.step(loss=own)
            wanted = torch.tensor(1 / (1 + (own if options else mean)) ** 0.5)
            torch.testing.assert_close(optimizer.metrics()["lr_scale"], wanted)


def _copies() -> list[torch.nn.Parameter]:
    copies = [torch.nn.Parameter(value) for value in values(((5, 3), (4,)), 1)]
    for copy in copies:
        copy.grad = torch.ones_like(copy)
    return copies


def _assert_same_everywhere(optimizer: Any) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            others = [torch.empty_like(parameter) for _ in range(dist.get_world_size())]
            dist.all_gather(others, parameter.detach())
            assert all(torch.equal(parameter, other) for other in others)


def steps_that_are_not_taken() -> None:
    """By all, when one process alone has a reason; the same collectives are called as in every step."""
    last = dist.get_rank() == dist.get_world_size() - 1
    for layout in spreads():
        for policy in (torchclip.ClipByGlobalNorm, torchclip.ClipByTensorNorm):
            twins = Twins(build("adamw", clip=policy(1.0, nonfinite="skip")), layout)
            _steps(twins, 2)
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
        twins = Twins(build("adamw", clip=1.0), layout)
        twins.give(1)
        twins.optimizer.found_inf = torch.tensor(float(last))
        twins.optimizer.step()
        assert twins.optimizer.step_was_skipped
        del twins.optimizer.found_inf
        _steps(twins)


def _make_infinite(twins: Twins, *, here: bool) -> None:
    """A gradient of one process, of which another one may have a copy that is finite."""
    for shared in twins.shared:
        gradient = shared.grad.to_local() if isinstance(shared, DTensor) else shared.grad
        if here and gradient is not None and gradient.numel() > 0:
            gradient.view(-1)[0] = torch.inf
            return


def disagreements() -> None:
    """An error in every process, at the first step."""
    first = dist.get_rank() == 0
    for options, other, said in (
        ({"clip": 1.0}, {"clip": 2.0}, r"max_norm=\d.0"),
        ({"clip": 1.0}, {"clip": torchclip.ClipByTensorNorm(1.0)}, "ClipByTensorNorm"),
    ):
        twins = Twins(build("adamw", **(options if first else other)), fsdp)
        twins.give(0)
        with pytest.raises(RuntimeError, match=f"the processes of this optimizer disagree: .*{said}"):
            twins.optimizer.step()
    twins = Twins(build("adamw", clip=1.0), fsdp)
    if first:
        del twins.optimizer.param_groups[1]["params"][1]
    twins.give(0)
    with pytest.raises(RuntimeError, match="the processes of this optimizer disagree"):
        twins.optimizer.step()


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
    assert optimizer.backend == "reference" and float(optimizer.grad_norm) == 4.0
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


def one_norm_for_two() -> None:
    """Optimizers with half of the parameters each."""
    layout = spreads()[-1]
    twins = Twins(build("sgd", clip=1.5), layout)
    halves = [torchclip.SGD(group["params"], **_sgd(), clip=1.5) for group in twins.optimizer.param_groups]
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
        assert_near(local_part(shared), part_of(single.detach(), shared), TOLERANCE, "parameter")


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
    assert optimizer.backend == "reference" and "norm_group= asks for sums" in optimizer.backend_reason
    with pytest.raises(RuntimeError, match="backend='cpu' is not available: norm_group= asks for sums"):
        torchclip.SGD([{"params": mine}], lr=0.1, norm_group=dist.group.WORLD, clip=1.0, backend="cpu")
    one = torchclip.ClipByTensorNorm(1.0, nonfinite="skip")
    optimizer = torchclip.SGD([{"params": mine}], lr=0.1, norm_group=dist.group.WORLD, clip=one)
    for parameter in mine:
        parameter.grad = torch.full_like(parameter, torch.inf if rank == 0 else 1.0)
    before = [parameter.detach().clone() for parameter in mine]
    optimizer.step()
    assert optimizer.step_was_skipped and all(map(torch.equal, mine, before))


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
        assert "norm_group" not in saved["param_groups"][1]
        optimizer.load_state_dict(saved)
        assert optimizer.param_groups[1]["norm_group"] is dist.group.WORLD


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
    "experts",
    "what_is_no_group",
    "clip_functions",
    "one_norm_for_two",
    "partial_gradients",
    "steps_that_are_not_taken",
    "disagreements",
    "parameters_replaced",
    "draws",
    "draws_of_whole_tensors",
    "losses",
    "rules",
    "policies",
    "scopes",
    "groups_of_their_own",
    "every_rule",
    "nothing_is_sent_without_norms",
)
"""Every one by its name."""
