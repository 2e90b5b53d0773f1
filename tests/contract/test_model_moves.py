"""What may happen to a model between two steps: parameters swapped, cast, moved, shared; gradients zeroed."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

import torchclip
from builders import LOSS, OPTIMIZERS, Pair, assert_same_params, build, copies_of, each_kernel, each_optimizer, leaves


def swapped(p: nn.Parameter, value: Tensor) -> None:
    """The tensors change places, as with torch.__future__.set_swap_module_params_on_conversion(True)."""
    torch.utils.swap_tensors(p, nn.Parameter(value))


def data_assigned(p: nn.Parameter, value: Tensor) -> None:
    p.data = value


def set_without_autograd(p: nn.Parameter, value: Tensor) -> None:
    with torch.no_grad():
        p.set_(value)


REPLACED: dict[str, Callable[[nn.Parameter, Tensor], None]] = {
    "swap_tensors": swapped,
    "data": data_assigned,
    "set_": set_without_autograd,
}


@pytest.mark.parametrize("replace", REPLACED.values(), ids=REPLACED)
@each_kernel
def test_other_values_in_the_place_of_a_parameters(
    name: str, replace: Callable[[nn.Parameter, Tensor], None], backend: str
) -> None:
    """Before the first step and between two, in another layout too; the state stays."""
    pair = Pair(name, backend, [torch.randn(5, 7), torch.randn(33)])
    for layout in (Tensor.clone, lambda value: value.t().contiguous().t(), Tensor.clone):
        for number in range(2):
            value = torch.randn(pair.params[number].shape)
            for param in (pair.params[number], pair.copies[number]):
                param.grad = None
                replace(param, layout(value.clone()) if value.dim() == 2 else value.clone())
        old = [param.detach() for param in pair.params]
        pair.step()
        assert all(param.data_ptr() == at.data_ptr() for param, at in zip(pair.params, old))


@contextmanager
def conversion_by_swapping(swaps: bool) -> Iterator[None]:
    torch.__future__.set_swap_module_params_on_conversion(swaps)
    try:
        yield
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)


def trained(net: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        net(torch.ones(2, 3, dtype=net.weight.dtype)).square().sum().backward()
        optimizer.step(loss=LOSS)


@pytest.mark.parametrize("swaps", [False, True], ids=["data", "swap_tensors"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@each_optimizer
def test_a_model_cast_before_the_first_step(name: str, dtype: torch.dtype, swaps: bool, backend: str) -> None:
    net = nn.Linear(3, 2)
    other = copy.deepcopy(net).to(dtype)
    optimizer = build(name, net.parameters(), backend=backend)
    with conversion_by_swapping(swaps):
        net.to(dtype)
    before = net.weight.detach().clone()
    trained(net, optimizer, 2)
    trained(other, build(name, other.parameters(), backend=backend), 2)
    assert_same_params(list(net.parameters()), list(other.parameters()))
    assert net.weight.dtype is dtype and not torch.equal(net.weight, before)


@pytest.mark.parametrize("swaps", [False, True], ids=["data", "swap_tensors"])
@each_optimizer
def test_a_model_cast_after_a_step(name: str, swaps: bool, backend: str) -> None:
    """State of the old type is refused by name, and loading it casts it, as the error says; a sum has no old type."""
    net = nn.Linear(3, 2)
    optimizer = build(name, net.named_parameters(), backend=backend)
    trained(net, optimizer, 1)
    with conversion_by_swapping(swaps):
        net.to(torch.float64)
    before = net.weight.detach().clone()
    has_tensors = any(value.dim() for value in optimizer.state[net.weight].values())
    if has_tensors:
        with pytest.raises(RuntimeError, match="of parameter 'weight' of shape .* move and cast the state") as caught:
            trained(net, optimizer, 1)
        assert str(caught.value).count("shape") == 1 and "is torch.float32 where torch.float64 is" in str(caught.value)
        assert torch.equal(net.weight, before)
        optimizer.load_state_dict(optimizer.state_dict())
    trained(net, optimizer, 1)
    assert not torch.equal(net.weight, before)
    for key, value in optimizer.state[net.weight].items():
        assert value.dtype is torch.float64 or not value.dim(), key


@each_optimizer
def test_a_model_on_the_meta_device(name: str) -> None:
    """As torch's, a step is taken there, on no values; and its state has the shapes."""
    cls, options = OPTIMIZERS[name]
    net = nn.Linear(3, 2, device="meta")
    optimizer = cls(net.parameters(), **options)
    assert optimizer.backend == "reference"
    for param in net.parameters():
        param.grad = torch.empty_like(param)
    optimizer.step(loss=None if cls is not torchclip.AdaLoss else torch.empty((), device="meta"))
    for value in optimizer.state[net.weight].values():
        assert value.dim() == 0 or (value.device.type == "meta" and value.shape[0] == 2)


@each_optimizer
def test_memory_shared_between_steps(name: str, backend: str) -> None:
    """``share_memory()`` moves parameters and gradients into shared memory."""
    params = leaves()
    copies = copies_of(params)
    optimizer, plain = build(name, params, backend=backend), build(name, copies, backend=backend)
    for moves in (True, False):
        optimizer.step(loss=LOSS)
        plain.step(loss=LOSS)
        if moves:
            for param in params:
                param.share_memory_()
                param.grad.share_memory_()
    assert all(param.is_shared() for param in params)
    assert_same_params(params, copies)


@each_optimizer
def test_gradients_zeroed_in_place(name: str, backend: str) -> None:
    """``zero_grad(set_to_none=False)`` keeps the tensors, and a step then sees zeros that were written after it."""
    params = leaves()
    copies = copies_of(params)
    ours, plain = build(name, params, backend=backend), build(name, copies, backend=backend)
    for _ in range(3):
        kept = [param.grad for param in params]
        ours.step(loss=LOSS)
        plain.step(loss=LOSS)
        ours.zero_grad(set_to_none=False)
        assert all(param.grad is grad and not grad.any() for param, grad in zip(params, kept))
        plain.zero_grad()
        assert all(param.grad is None for param in copies)
        for param, other in zip(params, copies):
            other.grad = torch.zeros_like(other)
            if param.dim():
                param.grad += 1.0
                other.grad += 1.0
    assert_same_params(params, copies)


# Not of every optimizer: collecting garbage takes a quarter of a second, and what keeps one alive is no rule's matter.
@pytest.mark.parametrize("name", ["sgd", "adamw", "mix_clip", "ada_loss"])
def test_a_scheduler_wraps_the_step_and_keeps_nothing_alive(name: str, backend: str) -> None:
    optimizer = build(name, leaves(), backend=backend)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    start = optimizer.param_groups[0]["lr"]
    wrapped = optimizer.step
    assert "step" in vars(optimizer)
    wrapped(loss=LOSS)
    assert optimizer._opt_called  # written by the wrapper
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == start / 2
    duplicate = copy.deepcopy(optimizer)
    duplicate.step(loss=LOSS)
    watched = weakref.ref(optimizer)
    del optimizer, scheduler, wrapped
    gc.collect()
    assert watched() is None
