"""How parameters and gradients may lie in memory, and where they may move between two steps."""

from __future__ import annotations

import pytest
import torch

import torchclip
from builders import (
    KERNELS,
    SPARSE,
    Pair,
    each_kernel,
    tensors,
)
from memory_guard import Guarded, same_bits


@each_kernel
def test_replaced_and_rewritten_gradients(name: str, backend: str) -> None:
    pair = Pair(name, backend, tensors())
    pair.step()
    for _ in range(2):  # in place: .grad keeps its address
        for param, copy in zip(pair.params, pair.copies):
            value = pair.draw(param)
            param.grad.copy_(value)
            copy.grad.copy_(value)
        pair.tested.step()
        pair.expected.step()
        pair.compare()
    pair.step()
    # other strides at every step
    pair.step(layout=lambda g: g.t().contiguous().t() if g.dim() == 2 else g.clone())
    pair.step(layout=lambda g: g.repeat_interleave(2, -1)[..., ::2] if g.dim() else g.clone())
    pair.step()


@each_kernel
def test_changing_which_parameters_have_gradients(name: str, backend: str) -> None:
    pair = Pair(name, backend, tensors())
    for without in ((3,), (0, 3), (0, 1, 2), (), (0, 1, 2, 3), (1,), ()):
        pair.step(without)


@each_kernel
@pytest.mark.parametrize("set_to_none", [True, False])
def test_zero_grad(name: str, set_to_none: bool, backend: str) -> None:
    pair = Pair(name, backend, tensors())
    pair.step()
    for optimizer in (pair.tested, pair.expected):
        optimizer.zero_grad(set_to_none=set_to_none)
    assert all((p.grad is None) == set_to_none for p in pair.params)
    pair.tested.step()  # gradients of zero are gradients: momentum goes on
    pair.expected.step()
    pair.compare()
    pair.step()


@each_kernel
def test_data_swapped_between_steps(name: str, backend: str) -> None:
    pair = Pair(name, backend, tensors())
    pair.step()
    abandoned = [p.data for p in pair.params]
    before = [a.clone() for a in abandoned]
    for p, copy in zip(pair.params, pair.copies):
        p.data = p.detach().clone() * 0.5
        copy.data.mul_(0.5)
    pair.step()
    assert all(same_bits(a, b) for a, b in zip(abandoned, before))
    # another layout: channels_last-like, with state and gradients still in the old one
    pair.params[3].data = pair.params[3].detach().permute(2, 0, 1).contiguous().permute(1, 2, 0)
    assert not pair.params[3].is_contiguous()
    pair.step()
    # a view with gaps
    guard = Guarded.of(pair.params[1].detach(), (2,), offset=1)
    pair.params[1].data = guard.view
    pair.step()
    guard.check("parameter")
    pair.step()
    guard.check("parameter")


@each_kernel
def test_parameters_in_one_flat_buffer(name: str, backend: str) -> None:
    """As DDP and ZeRO lay them out: neighbours share cache lines and vectors."""
    sizes = (1, 3, 64, 5, 127, 0, 2, 33)
    values = torch.randn(sum(sizes))
    pair = Pair(name, backend, [v.clone() for v in values.split(sizes)])
    flat, flat_grad = values.clone(), torch.zeros_like(values)
    for p, view in zip(pair.params, flat.split(sizes)):
        p.data = view
    for _ in range(3):
        for p, copy, view in zip(pair.params, pair.copies, flat_grad.split(sizes)):
            view.copy_(pair.draw(p))
            p.grad, copy.grad = view, view.clone()
        pair.tested.step()
        pair.expected.step()
        pair.compare()
        torch.testing.assert_close(flat, torch.cat([c.detach() for c in pair.copies]))


def test_gradients_are_never_written(backend: str) -> None:
    for name, (cls, options) in KERNELS.items():
        for clip in (None, 0.01, torchclip.ClipByValue(0.01), torchclip.ClipByTensorNorm(0.01, smooth=True)):
            param = torch.nn.Parameter(torch.randn(50))
            param.grad = torch.randn(50)
            before = param.grad.clone()
            decay = {} if name in SPARSE else {"weight_decay": 0.1}
            cls([param], **options, **decay, clip=clip, backend=backend).step()
            assert same_bits(param.grad, before)


@each_kernel
def test_an_expanded_parameter_is_refused(name: str, backend: str) -> None:
    cls, options = KERNELS[name]
    row = torch.zeros(1, 5)
    with pytest.raises(ValueError, match="'tied'.*clone"):
        cls([("tied", row.expand(3, 5).requires_grad_())], **options, backend=backend)
    # One that becomes so later is refused by the step.
    param = torch.nn.Parameter(torch.zeros(3, 5))
    optimizer = cls([("tied", param)], **options, backend=backend)
    param.grad = torch.ones(3, 5)
    param.data = row.expand(3, 5)
    with pytest.raises((RuntimeError, ValueError), match="'tied'"):
        optimizer.step()
    assert torch.equal(row, torch.zeros(1, 5))
