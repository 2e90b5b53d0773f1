"""A parameter that asks for no gradient and has none never steps: it may be of any kind, and decides nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

import torchclip
from builders import LOSS, build, each_optimizer
from records import BACKENDS

each_backend = pytest.mark.parametrize("backend", BACKENDS, indirect=True)  # the interpreted one too


class Wrapped(Tensor):
    """As the weights of quantisation libraries are: without elements of its own."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor, requires_grad: bool = False) -> Wrapped:
        made = Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, requires_grad=requires_grad)
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        def unwrapped(value: Any) -> Any:
            return value.inner if isinstance(value, Wrapped) else value

        return func(*tree_map(unwrapped, args), **tree_map(unwrapped, kwargs or {}))


def negated() -> Tensor:
    return torch.full((3, 4), 1j).conj().imag


ODD: dict[str, Callable[[], Tensor]] = {
    "uint8": lambda: torch.ones(3, 4, dtype=torch.uint8),
    "int8": lambda: torch.ones(3, 4, dtype=torch.int8),
    "int64": lambda: torch.ones(3, 4, dtype=torch.int64),
    "bool": lambda: torch.ones(3, 4, dtype=torch.bool),
    "float8": lambda: torch.ones(3, 4).to(torch.float8_e4m3fn),
    "expanded": lambda: torch.ones(1, 4).expand(3, 4),
    "conjugated": lambda: torch.ones(3, 4, dtype=torch.complex64).conj(),
    "negated": negated,
    "sparse": lambda: torch.eye(3).to_sparse(),
    "sparse_csr": lambda: torch.eye(3).to_sparse_csr(),
    "meta": lambda: torch.ones(3, 4, device="meta"),
    "wrapper": lambda: Wrapped(torch.ones(3, 4)),
    "complex": lambda: torch.ones(3, 4, dtype=torch.complex64),
}
each_kind = pytest.mark.parametrize("make", ODD.values(), ids=ODD)

CLIPPED = {"clip": 1.0}
LOOKING_AHEAD = {"extensions": (torchclip.Lookahead(k=2),)}


def two_steps(name: str, backend: str | None, frozen: list[Tensor], **options: Any) -> torch.optim.Optimizer:
    """The frozen ones stand before the parameters that step, between them, and in a group of their own."""
    params = [torch.nn.Parameter(torch.arange(1.0, 6.0)), torch.nn.Parameter(torch.ones(2, 3))]
    groups = [{"params": [*frozen[:1], params[0], *frozen[1:2], params[1]]}, {"params": frozen[2:]}]
    optimizer = build(name, groups if frozen else params, **options, backend=backend)
    for step in range(2):
        for param in params:
            param.grad = torch.full_like(param, 1.0 + step)
        optimizer.step(loss=LOSS)
    optimizer.stepped = params
    return optimizer


@pytest.mark.parametrize("name", ["sgd", "adamw", "grda", "mix_clip", "ada_loss"])
@each_kind
def test_a_step_leaves_it_alone(name: str, make: Callable[[], Tensor], backend: str) -> None:
    frozen = [make() for _ in range(3)]
    with_them, without = two_steps(name, backend, frozen), two_steps(name, backend, [])
    for param, other in zip(with_them.stepped, without.stepped):
        assert torch.equal(param, other) and not torch.equal(param, torch.ones_like(param))
    assert not any(each in with_them.state for each in frozen)
    assert with_them.backend == backend


@pytest.mark.parametrize("options", [CLIPPED, LOOKING_AHEAD], ids=["clip", "lookahead"])
@each_kind
def test_what_is_reported_is_of_the_others(make: Callable[[], Tensor], options: dict[str, Any], backend: str) -> None:
    frozen = [make() for _ in range(3)]
    with_them, without = (two_steps("adam", backend, each, **options) for each in (frozen, []))
    assert "backend: " in repr(with_them)
    if "clip" in options:
        assert with_them.grad_norm.item() == without.grad_norm.item() == pytest.approx(2 * 11**0.5)
    assert with_them.metrics()["sparsity"].item() == 0.0
    state = with_them.state_dict()
    assert sorted(state["state"]) == [1, 3]
    with_them.load_state_dict(state)
    with_them.step(loss=LOSS)


@each_kind
@each_backend
def test_it_does_not_choose_the_backend(make: Callable[[], Tensor], backend: str) -> None:
    """And an explicit choice is not refused for it."""
    trained = torch.nn.Parameter(torch.ones(3))
    assert torchclip.SGD([make(), trained], lr=0.5, backend=backend).backend == backend
    alone = torchclip.SGD([trained], lr=0.5)
    beside = torchclip.SGD([make(), trained], lr=0.5)
    assert beside.backend == alone.backend
    assert beside.backend_reason == alone.backend_reason
    trained.grad = torch.ones(3)
    beside.step()
    assert trained.tolist() == [0.5] * 3


REFUSED = {
    "expanded": (ValueError, "expanded"),
    "conjugated": (ValueError, "lazily conjugated"),
    "negated": (ValueError, "lazily negated"),
}
"""What the kinds that can have a gradient set by hand are told once they have one."""


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("asks", [False, True], ids=["set_by_hand", "unfrozen"])
def test_it_is_checked_when_it_has_a_gradient(kind: str, asks: bool, backend: str) -> None:
    trained, odd = torch.nn.Parameter(torch.ones(3)), ODD[kind]()
    optimizer = torchclip.SGD([("head", trained), ("body.odd", odd)], lr=0.5, backend=backend)
    trained.grad = torch.ones(3)
    optimizer.step()
    odd.requires_grad_(asks)
    odd.grad = torch.ones(odd.shape, dtype=odd.dtype)
    error, words = REFUSED[kind]
    with pytest.raises(error, match=f"'body.odd'.* {words}"):
        optimizer.step()
    assert trained.tolist() == [0.5] * 3  # nothing has been written
    odd.grad = None
    optimizer.step()
    assert trained.tolist() == [0.0] * 3


def test_a_wrapper_that_gets_a_gradient_is_stepped_by_the_reference_path() -> None:
    inner = torch.ones(3)
    trained, odd = torch.nn.Parameter(torch.ones(3)), Wrapped(inner)
    optimizer = torchclip.SGD([trained, odd], lr=0.5)
    assert optimizer.backend == "cpu"
    trained.grad, odd.grad = torch.ones(3), Wrapped(torch.ones(3))
    optimizer.step()
    assert optimizer.backend == "reference"
    assert trained.tolist() == [0.5] * 3 and inner.tolist() == [0.5] * 3


@each_optimizer
def test_an_optimizer_of_nothing_but_frozen_ones(name: str, backend: str) -> None:
    """It waits; what is unfrozen then steps as if it always had."""
    frozen, twin = (torch.nn.Parameter(torch.ones(3, 2), requires_grad=asks) for asks in (False, True))
    optimizer, other = build(name, [frozen], backend=backend), build(name, [twin], backend=backend)
    optimizer.step(loss=LOSS)
    assert torch.equal(frozen, torch.ones(3, 2)) and not any(optimizer.state.values())
    if name == "ada_loss":  # a loss counts in every step
        other.step(loss=LOSS)
    frozen.requires_grad_()
    for each, stepped in ((frozen, optimizer), (twin, other)):
        each.grad = torch.ones(3, 2)
        stepped.step(loss=LOSS)
    assert torch.equal(frozen, twin) and not torch.equal(frozen, torch.ones(3, 2))


@each_kind
def test_nothing_to_choose_by(make: Callable[[], Tensor]) -> None:
    optimizer = torchclip.AdamW([make()])
    optimizer.step()
    assert not any(optimizer.state.values()) and optimizer.backend in ("cpu", "reference")


@pytest.mark.parametrize("kind", ["float8", "expanded", "conjugated", "sparse", "sparse_csr"])
def test_what_asks_for_a_gradient_is_checked_at_once(kind: str) -> None:
    odd = ODD[kind]().detach().requires_grad_()
    with pytest.raises((TypeError, ValueError), match="parameter 0 of param group 0"):
        torchclip.SGD([odd], lr=0.1)
    optimizer = torchclip.SGD([torch.nn.Parameter(torch.ones(3))], lr=0.1)
    with pytest.raises((TypeError, ValueError), match="parameter 0 of param group 1"):
        optimizer.add_param_group({"params": [odd]})
    assert len(optimizer.param_groups) == 1
