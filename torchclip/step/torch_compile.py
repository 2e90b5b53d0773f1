"""A fused step within a graph of ``torch.compile``: one custom operator, so that the graph need not break.

The operator is handed the number of the optimizer, and every tensor that the step reads and writes, so that the
compiler knows of them. Hyperparameters are read when it runs: a scheduler that writes them compiles nothing anew.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from torchclip.distributed.device_flag import LeftOut
from torchclip.state.group_state import numbers_of
from torchclip.step.first_step import drop_handed, leave_out

if TYPE_CHECKING:
    from torchclip.step.fused_optimizer import FusedOptimizer

_OPTIMIZERS: WeakValueDictionary[int, FusedOptimizer] = WeakValueDictionary()
_COUNT = itertools.count()


def register(optimizer: FusedOptimizer) -> int:
    """A number for the optimizer, by which a graph finds it; it is not kept alive."""
    number = next(_COUNT)
    _OPTIMIZERS[number] = optimizer
    return number


def step(optimizer: FusedOptimizer, loss: Tensor | None, grad_scale: Tensor | None, found_inf: Tensor | None) -> None:
    """Puts the step of a fused backend into the graph that is being compiled.

    The first one, which makes the state, is another graph than those that follow.
    """
    everyone = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    positions = [position for position, parameter in enumerate(everyone) if parameter.grad is not None]
    params = [everyone[position] for position in positions]
    if not params:
        optimizer._last.given_norm = None
        return
    grads = [parameter.grad for parameter in params]
    with torch.no_grad():
        held = _held(optimizer, params)
        torch.ops.torchclip.step(optimizer._number, positions, params, grads, held, loss, grad_scale, found_inf)


# What a captured CUDA graph replays is the kernels, without what the host does before them.
@torch.library.custom_op("torchclip::step", mutates_args=("params", "held"), tags=(torch.Tag.cudagraph_unsafe,))
def _step(
    number: int,
    positions: Sequence[int],
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    held: Sequence[Tensor],
    loss: Tensor | None,
    grad_scale: Tensor | None,
    found_inf: Tensor | None,
) -> None:
    """Takes the step of one optimizer.

    Args:
        number: the optimizer's, from :func:`register`.
        positions: those of ``params`` among the parameters of all groups.
        params, grads: the parameters that have a gradient, and those.
        held: the shared numbers, and the state of ``params``, in order.
        loss, grad_scale, found_inf: as the plan's ``step`` takes them.
    """
    optimizer = _OPTIMIZERS.get(number)
    if optimizer is None:
        raise RuntimeError("a compiled step was called after its optimizer was deleted: keep a reference to it")
    everyone = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    own = [everyone[position] for position in positions]
    gradients = dict(zip(positions, grads, strict=True))
    with ExitStack() as afterwards:
        afterwards.callback(drop_handed, optimizer)
        for position, parameter in enumerate(everyone):
            _lend_gradient(parameter, gradients.get(position), afterwards)
        for mine, given in zip((*own, *_held(optimizer, own)), (*params, *held), strict=True):
            _lend_values(mine, given, afterwards)
        try:
            optimizer._run(loss, grad_scale, found_inf)
        except LeftOut:
            leave_out(optimizer)


@_step.register_fake
def _(*arguments: object) -> None:
    """Writes in place, and returns nothing."""


def _held(optimizer: FusedOptimizer, params: Sequence[Tensor]) -> list[Tensor]:
    """What the step of ``params`` reads and writes besides: the shared numbers, and the state that there is."""
    shared = [number for group in optimizer.param_groups for number in numbers_of(group).values()]
    states = [optimizer.state.get(parameter, {}) for parameter in params]
    return shared + [value for state in states for value in state.values() if isinstance(value, Tensor)]


def _lend_gradient(parameter: Tensor, gradient: Tensor | None, afterwards: ExitStack) -> None:
    """Lets ``parameter`` have this gradient until ``afterwards``: the graph may set or clear ``grad`` only later."""
    before = parameter.grad
    if before is not gradient:
        parameter.grad = gradient
        afterwards.callback(setattr, parameter, "grad", before)


def _lend_values(mine: Tensor, given: Tensor, afterwards: ExitStack) -> None:
    """Lets a tensor of the optimizer have the values of ``given``, which has those of the step ``afterwards``.

    Where the compiler does not hand over the tensor itself but a copy, the copy is what the graph goes on with.
    """
    if mine.data_ptr() == given.data_ptr():
        return
    before = mine.clone()
    afterwards.callback(mine.copy_, before)
    afterwards.callback(given.copy_, mine)  # first
    mine.copy_(given)
