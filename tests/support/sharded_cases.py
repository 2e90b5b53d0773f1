"""The cases of tests/distributed, each of which runs in two processes or four."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.placement_types import _StridedShard

import torchclip
from builders import OPTIMIZERS
from sharded_twins import (
    TOLERANCE,
    Placements,
    Twins,
    alone,
    counted,
    mesh_of,
    on_both,
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
    {"clip": torchclip.AdaGC(lambda_abs=0.5, warmup_steps=2)},
    {"skip": torchclip.SkipSpikes(window=6, sigma=0.5)},
    {"step_size": torchclip.PolyakStep(growth=2.0), "clip": torchclip.ClipByTensorNorm(0.5)},
)


def steps(twins: Twins, count: int = 3, tolerance: float = 3e-7) -> None:
    for number in range(count):
        twins.step(number, scale=1.0 + number)
    twins.check(tolerance)


@on_both
def rules() -> None:
    for layout in spreads():
        for name in FOUR_RULES:
            twins = Twins(clipped(name), layout)
            steps(twins)
            with counted() as seen:
                twins.optimizer.step()
            assert seen == ["all_reduce"], (layout, name, seen)


@on_both
def policies() -> None:
    for layout in spreads():
        for options in POLICIES:
            steps(Twins(build("sgd", **options), layout))


@on_both
def zeros() -> None:
    """Thresholds go by the zeros of all processes, which a step sends with its norm; and those of a step that is not
    taken stay. What is written to a parameter between steps is counted."""
    for layout, options in itertools.product(spreads(), ({}, {"clip": 1.5})):
        twins = Twins(build("lin_breg", target_sparsity=0.05, **options), layout)
        for number in range(4):
            twins.step(number)
            if number == 1:
                for parameter in (*twins.single, *twins.shared):
                    parameter.detach().mul_(0)
        twins.check()
        scales = [
            [float(group["shared"]["threshold_scale"]) for group in each.param_groups]
            for each in (twins.optimizer, twins.expected)
        ]
        assert scales[0] == scales[1] and scales[0][0] != 1.0, scales
        twins.give(4)
        with counted() as seen:
            twins.optimizer.step()
        assert seen == ["all_reduce"], seen
        before = twins.optimizer.param_groups[0]["shared"]["threshold_scale"].clone()
        twins.give(5)
        twins.optimizer.found_inf = torch.tensor(float(dist.get_rank() == 0))
        twins.optimizer.step()
        assert torch.equal(twins.optimizer.param_groups[0]["shared"]["threshold_scale"], before)


@on_both
def split_rows() -> None:
    steps(Twins(build("ada_grad_norm", scope="row"), spreads()[-1]))


@on_both
def every_scope() -> None:
    for layout in spreads():
        for scope in ("optimizer", "group", "tensor", "row"):
            steps(Twins(build("ada_grad_norm", scope=scope), layout))
        for scope in ("group", "tensor"):
            steps(Twins(build("mix_clip", scope=scope), layout))


@on_both
def groups_of_their_own() -> None:
    def make(groups: list[dict[str, Any]], **options: Any) -> Any:
        groups[0]["clip"] = 0.7
        return torchclip.AdamW(groups, lr=0.1, clip=2.0, **options)

    for layout in spreads():
        steps(Twins(make, layout, groups=3))


@on_both
def every_rule() -> None:
    for name in OPTIMIZERS:
        steps(Twins(build(name), fsdp))


@on_both
def nothing_is_sent_without_norms() -> None:
    for layout in spreads():
        for name in ("sgd", "adamw", "grda"):
            twins = Twins(
                build(name, **({} if name == "grda" else {"extensions": (torchclip.Lookahead(k=2),)})), layout
            )
            for number in range(3):
                with counted() as seen:
                    twins.step(number)
                asked = {"all_gather"} if number == 0 else set()  # whether all of them send nothing
                assert set(seen) == asked, seen
            twins.check(tolerance=0)


NOISE: dict[str, tuple[Any, ...]] = {
    "noise": (torchclip.GradientNoise(eta=0.3, gamma=0.55),),
    "dropouts": (torchclip.GradientDropout(0.3), torchclip.LRDropout(0.5)),
}


@on_both
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


@on_both
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


@on_both
def complex_numbers() -> None:
    """Draws go by the real view."""
    _types(torch.complex64)


@on_both
def every_type() -> None:
    """State may be wider than a parameter."""
    _types(torch.bfloat16, torch.float64, torch.complex64)


def _types(*types: torch.dtype) -> None:
    for dtype in types:
        extensions = (*NOISE["dropouts"], torchclip.GradientNoise(eta=0.1), torchclip.Lookahead(k=2))
        for clip in (1.5, torchclip.AdaptiveGradientClip(0.1)):
            made = build("adamw", clip=clip, extensions=extensions, seed=3)
            twins = Twins(made, spreads()[-1], dtype=dtype)
            # A norm in other last bits may round a bfloat16 number the other way.
            steps(twins, 3, tolerance=2.0**-7 if dtype is torch.bfloat16 else TOLERANCE)


@on_both
def channels_last() -> None:
    """Draws go by the memory of the whole tensor, whatever its layout."""

    def layout(index: int, shape: tuple[int, ...]) -> Placements:
        return mesh_of(dist.get_world_size()), [Shard(index % len(shape))]

    shapes = ((4, 3, 5, 2), (8, 4, 2, 2), (2, 8, 3, 3))
    made = build("sgd", extensions=NOISE["noise"], seed=3)
    twins = Twins(made, layout, shapes=shapes, memory_format=torch.channels_last)
    assert any(not single.is_contiguous() for single in twins.single)
    steps(twins, tolerance=0)


def two_roots() -> Spread:
    """Meshes that no collective goes over together, of four processes."""
    other = init_device_mesh("cpu", (2, 2), mesh_dim_names=("outer", "inner"))

    def layout(index: int, shape: tuple[int, ...]) -> Placements:
        mesh = mesh_of(2, 2)["inner"] if index % 2 else other["outer"]
        return (mesh, [Shard(0)]) if shape else None

    return layout


@on_both
def meshes_without_a_root() -> None:
    """One all-reduce for each, where none goes over both."""
    if dist.get_world_size() < 4:
        return
    layout = two_roots()
    for name in ("sgd", "mix_clip"):
        twins = Twins(clipped(name), layout)
        steps(twins)
        with counted() as seen:
            twins.optimizer.step()
        assert seen == ["all_reduce"] * 2, seen
    steps(Twins(build("sgd", clip=torchclip.AdaptiveGradientClip(0.1)), layout))
    steps(Twins(build("sgd", clip=torchclip.ClipByTensorNorm(0.5)), layout))


@on_both
def ten_steps() -> None:
    """Every policy, each with another rule in another layout, and a mix of extensions; a save and load in between."""
    for position, (layout, policy) in enumerate(itertools.product(spreads(), POLICIES)):
        name = FOUR_RULES[(position + position // len(POLICIES)) % len(FOUR_RULES)]
        extensions = (torchclip.GradientNoise(eta=0.01), torchclip.LRDropout(0.3), torchclip.Lookahead(k=3))
        twins = Twins(build(name, **policy, extensions=extensions, seed=11), layout)
        for number in range(10):
            twins.step(number)
            if number == 4:
                twins.reload()
        twins.check(TOLERANCE, measured=False)  # what was counted before the load is not state


CASES = (
    *("ten_steps", "rules", "policies", "zeros", "split_rows", "every_scope"),
    *("groups_of_their_own", "every_rule", "nothing_is_sent_without_norms", "draws", "draws_of_whole_tensors"),
    *("losses", "complex_numbers", "every_type", "channels_last", "meshes_without_a_root"),
)
"""Every one by its name."""
