"""Complex parameters that are not taken: by which optimizers, and whose memory holds other numbers than they do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import torchclip
from builders import LOSS, REQUIRED, each_class, unchanged
from complex_pairs import DTYPES, REFUSING
from recorded_plans import Reader, settled
from records import dtype_name

REAL_CLASSES = pytest.mark.parametrize("cls", REFUSING, ids=lambda cls: cls.__name__)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)


def complex_parameter() -> torch.nn.Parameter:
    """One with a gradient."""
    p = torch.nn.Parameter(torch.randn(4, 5, dtype=torch.complex64))
    p.grad = torch.randn_like(p)
    return p


# --- optimizers ---------------------------------------------------------------------------------------------------


@each_dtype
@REAL_CLASSES
def test_class_that_takes_real_parameters_only(cls: type[torch.optim.Optimizer], dtype: torch.dtype) -> None:
    good, bad = torch.zeros(3, requires_grad=True), torch.zeros(3, dtype=dtype, requires_grad=True)
    with pytest.raises(
        TypeError, match=f"'head.bias'.*{dtype}.*all but GRDA, LinBreg, AdaBreg and AdaGradNorm.*view_as_complex"
    ):
        cls([("head.weight", good), ("head.bias", bad)], **REQUIRED[cls])
    optimizer = cls([good], **REQUIRED[cls])
    with pytest.raises(TypeError, match=f"parameter 0 of param group 1.*{dtype}"):
        optimizer.add_param_group({"params": [bad]})
    assert len(optimizer.param_groups) == 1


@each_class
def test_the_message_lists_them(cls: type[torch.optim.Optimizer]) -> None:
    assert cls.spec.takes_complex == (cls not in REFUSING)
    if cls.spec.takes_complex:
        p = complex_parameter()
        before = p.detach().clone()
        cls([p], **REQUIRED[cls]).step(loss=LOSS)
        assert not bool((p.detach() == before).any())


@pytest.mark.parametrize("scope", ("optimizer", "tensor", "row"))
def test_cast_after_the_optimizer_was_made(scope: str, backend: str) -> None:
    p = torch.nn.Parameter(torch.randn(4, 5))
    optimizer = torchclip.AdaGradNorm([("net.weight", p)], scope=scope, backend=backend)
    p.data = p.data.to(torch.complex64)
    p.grad = torch.randn_like(p)
    with unchanged(optimizer), pytest.raises(TypeError, match="'net.weight'.*complex64.*AdaGradNorm"):
        optimizer.step()


# --- lazy views ---------------------------------------------------------------------------------------------------


def negated(tensor: Tensor) -> Tensor:
    """The same numbers, in memory that holds their negatives."""
    return torch._neg_view(-tensor)


def conjugated(tensor: Tensor) -> Tensor:
    """The same numbers, in memory that holds their conjugates."""
    return tensor.conj().resolve_conj().conj()


LAZY = {"conjugated": conjugated, "negated": negated}
each_lazy = pytest.mark.parametrize("lazy", LAZY)


def optimizer_over(p: torch.nn.Parameter, backend: str) -> Any:
    """After its first step."""
    optimizer = torchclip.AdamW([("net.weight", p)], lr=0.5, backend=backend)
    optimizer.step()
    return optimizer


def same_step(p: torch.nn.Parameter, optimizer: Any, backend: str, gradient: Tensor) -> None:
    """A step is what it is for a copy with that gradient, whose memory holds its elements."""
    copy = torch.nn.Parameter(p.detach().clone())
    other = optimizer_over_state(copy, optimizer, p, backend)
    copy.grad = gradient.clone()
    optimizer.step()
    other.step()
    assert torch.equal(p.detach(), copy.detach())


def optimizer_over_state(copy: torch.nn.Parameter, optimizer: Any, p: torch.nn.Parameter, backend: str) -> Any:
    other = torchclip.AdamW([("net.weight", copy)], lr=0.5, backend=backend)
    other.state[copy] = {name: value.clone() for name, value in optimizer.state[p].items()}
    return other


@pytest.mark.parametrize("dtype", (torch.complex64, torch.float32), ids=dtype_name)
@each_lazy
def test_lazy_gradient(lazy: str, dtype: torch.dtype, backend: str) -> None:
    """Reading its memory would step along another gradient."""
    if lazy == "conjugated" and not dtype.is_complex:
        pytest.skip("real numbers are their own conjugates")
    p = torch.nn.Parameter(torch.randn(4, 5, dtype=dtype))
    p.grad = torch.randn_like(p)
    optimizer = optimizer_over(p, backend)
    value = torch.randn_like(p).detach()
    p.grad = LAZY[lazy](value)
    for _ in range(2):
        with unchanged(optimizer), pytest.raises(RuntimeError, match=f"'net.weight'.*lazily {lazy}.*resolve_conj"):
            optimizer.step()
    p.grad = p.grad.resolve_conj().resolve_neg()
    same_step(p, optimizer, backend, value)


def test_gradient_as_autograd_leaves_it(backend: str) -> None:
    """A model that conjugates its parameter."""
    p, weights = complex_parameter(), torch.randn(4, 5, dtype=torch.complex64)
    optimizer = optimizer_over(p, backend)
    p.grad = None
    (p.conj() * weights).real.sum().backward()
    if not p.grad.is_conj():
        pytest.skip("this torch's autograd resolves it")
    value = p.grad.resolve_conj()
    with unchanged(optimizer), pytest.raises(RuntimeError, match="'net.weight'.*lazily conjugated"):
        optimizer.step()
    p.grad = value
    same_step(p, optimizer, backend, weights)


@each_lazy
def test_lazy_parameter(lazy: str, backend: str) -> None:
    values = torch.randn(4, 5, dtype=torch.complex64)
    bad = torch.nn.Parameter(LAZY[lazy](values))
    with pytest.raises(ValueError, match=f"'net.weight'.*lazily {lazy}.*resolve_conj"):
        torchclip.AdamW([("net.weight", bad)], backend=backend)
    p = complex_parameter()
    optimizer = optimizer_over(p, backend)
    p.data = LAZY[lazy](values)
    with unchanged(optimizer), pytest.raises(ValueError, match=f"'net.weight'.*lazily {lazy}"):
        optimizer.step()


@each_lazy
def test_lazy_state(lazy: str, backend: str) -> None:
    p = complex_parameter()
    optimizer = optimizer_over(p, backend)
    held = optimizer.state[p]["exp_avg"]
    optimizer.state[p]["exp_avg"] = LAZY[lazy](held)
    with unchanged(optimizer), pytest.raises(RuntimeError, match=f"'exp_avg' of .*'net.weight'.*lazily {lazy}"):
        optimizer.step()
    optimizer.state[p]["exp_avg"] = held
    optimizer.step()


@each_lazy
def test_plans_see_lazy_views(lazy: str) -> None:
    """Of the same type, sizes and strides as what was there before."""
    p = complex_parameter()
    optimizer = torchclip.AdamW([p], backend="reference")
    reader = Reader(optimizer)
    settled(reader, optimizer)
    held = optimizer.state[p]
    for where, whole in (("grad", p.grad), ("data", p.data), ("exp_avg", held["exp_avg"])):
        if where == "exp_avg":
            held[where] = LAZY[lazy](whole)
        else:
            setattr(p, where, LAZY[lazy](whole))
        assert reader.refresh() == [0], where
        if where == "exp_avg":
            held[where] = whole
        else:
            setattr(p, where, whole)
        assert reader.refresh() == [], where


@pytest.mark.parametrize("scope", ("optimizer", "row"))
def test_plans_refuse_what_the_rule_does(scope: str) -> None:
    p = torch.nn.Parameter(torch.randn(4, 5))
    optimizer = torchclip.AdaGradNorm([p], scope=scope, backend="reference")
    reader = Reader(optimizer)
    p.data, p.grad = p.data.to(torch.complex64), torch.zeros(4, 5, dtype=torch.complex64)
    assert reader.refresh() == [0]


# --- state --------------------------------------------------------------------------------------------------------


REAL_STATE: dict[str, Callable[[Tensor], Tensor]] = {
    "real": lambda value: value.real.clone(),
    "real_view": lambda value: torch.view_as_real(value).clone(),
    "complex128": lambda value: value.to(torch.complex128),
}


@pytest.mark.parametrize("change", REAL_STATE.values(), ids=REAL_STATE)
def test_state_of_another_type(change: Callable[[Tensor], Tensor], backend: str) -> None:
    for name in ("exp_avg", "slow"):
        p = complex_parameter()
        options: dict[str, Any] = {"extensions": (torchclip.Lookahead(k=2),), "backend": backend}
        optimizer = torchclip.AdamW([("net.weight", p)], lr=0.5, **options)
        optimizer.step()
        optimizer.state[p][name] = change(optimizer.state[p][name])
        with unchanged(optimizer), pytest.raises(RuntimeError, match=f"'{name}' of .*'net.weight'"):
            optimizer.step()
