"""Where the elements of a local shard are in the whole tensor, as a compiled plan is told of it."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from torchclip.distributed.shards import coordinates
from torchclip.state.sharded import held_part, is_sharded


class Place(NamedTuple):
    """Local element e, in memory order, is number ``offset + e // inner * outer + e % inner`` of the whole tensor.

    Args:
        offset: of the first one.
        inner: how many follow one another; 0 where all do.
        outer: from the first of those to the first of the next ones.
    """

    offset: int = 0
    inner: int = 0
    outer: int = 0


WHOLE = Place()


def place_of(parameter: Tensor) -> Place | None:
    """That of a parameter; None where its elements lie in the whole tensor as no such numbers say.

    Of a complex one in its real view, whose elements are two numbers each.
    """
    if not is_sharded(parameter):
        return WHOLE
    sharded: Any = parameter
    local, parts = held_part(parameter), 2 if parameter.is_complex() else 1
    if local.numel() == 0:
        return WHOLE
    axes = coordinates(sharded)
    if any(int(axis[-1]) - int(axis[0]) != len(axis) - 1 for axis in axes):
        return None
    steps = _memory_steps(parameter.shape, parameter.stride())
    offset = parts * sum(int(axis[0]) * step for axis, step in zip(axes, steps, strict=True))
    strides = local.stride()
    order = sorted(range(parameter.ndim), key=lambda dimension: -strides[dimension])
    walk = [(local.shape[dimension], parts * steps[dimension]) for dimension in order if local.shape[dimension] > 1]
    runs = _merged([*walk, (parts, 1)])
    if len(runs) == 1 and runs[0][1] == 1:
        return Place(offset)
    if len(runs) == 2 and runs[1][1] == 1:
        return Place(offset, inner=runs[1][0], outer=runs[0][1])
    return None


def _memory_steps(shape: Any, strides: Any) -> list[int]:
    """For each dimension, how many elements of the whole tensor lie between two neighbours, in memory without gaps."""
    order = sorted(range(len(shape)), key=lambda dimension: -strides[dimension])
    steps, step = [0] * len(shape), 1
    for dimension in reversed(order):
        steps[dimension], step = step, step * shape[dimension]
    return steps


def _merged(walk: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """(length, step) from the outermost to the innermost, in as few runs as there can be."""
    runs = walk[-1:]
    for length, step in reversed(walk[:-1]):
        inner, stride = runs[0]
        if step == inner * stride:
            runs[0] = (length * inner, stride)
        else:
            runs.insert(0, (length, step))
    return runs
