"""What is read of DTensors before a step, and counted after it: by the compiled loops as by those in Python."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed._functional_collectives import AsyncCollectiveTensor
from torch.distributed.tensor import DeviceMesh, DTensor, Replicate, Shard, distribute_tensor, init_device_mesh

import torchclip
from shards import as_one_of_two
from torchclip.backends import native, sharded_plan
from torchclip.distributed import parts as in_python

_two_ranks = pytest.fixture(autouse=True)(as_one_of_two)

COMPILED = native.PART_LOOPS
LOOPS = [in_python] if COMPILED is in_python else [in_python, COMPILED]
either = pytest.mark.parametrize("loops", LOOPS, ids=lambda loops: loops.__name__)
compiled = pytest.mark.skipif(COMPILED is in_python, reason="torchclip._torch is not in use")


@pytest.fixture
def mesh() -> DeviceMesh:
    return init_device_mesh("cpu", (2,))


class Other(DTensor):
    """Of another class than parameters are."""


def _laid(value: Tensor, mesh: DeviceMesh, placement: Any = None) -> DTensor:
    return distribute_tensor(value, mesh, [placement or Shard(0)])


def _parameter(mesh: DeviceMesh) -> DTensor:
    # No Parameter: of that DTensor would remember the mesh of another test, which is equal to this one.
    made = _laid(torch.arange(12.0).reshape(4, 3), mesh).requires_grad_()
    made.grad = _laid(torch.ones(4, 3), mesh)
    return made


def _of_class(value: Tensor, mesh: DeviceMesh) -> Tensor:
    laid = _laid(value, mesh)
    made: Tensor = Other(laid._local_tensor, laid._spec, requires_grad=False)
    return made


def _holding(change: Callable[[Tensor], Tensor]) -> Callable[[Tensor, DeviceMesh], Tensor]:
    def made(value: Tensor, mesh: DeviceMesh) -> Tensor:
        laid = _laid(value, mesh)
        laid._local_tensor = change(laid._local_tensor)
        return laid

    return made


# Gradients of the same numbers, which are not as nearly all are.
UNUSUAL: dict[str, Callable[[Tensor, DeviceMesh], Tensor]] = {
    "replicated": lambda value, mesh: _laid(value, mesh, Replicate()),
    "over an equal mesh": lambda value, mesh: _laid(value, init_device_mesh("cpu", (2,))),
    "of another class": _of_class,
    "still on its way": _holding(AsyncCollectiveTensor),
}


@either
@pytest.mark.parametrize("kind", [*UNUSUAL, "as ever"])
def test_gradients_of_every_kind(kind: str, loops: ModuleType, mesh: DeviceMesh, monkeypatch: Any) -> None:
    """One comes after others that were as ever, and is then given up for one of those again."""
    monkeypatch.setattr(sharded_plan, "PART_LOOPS", loops)
    p, expected = _parameter(mesh), torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))
    optimizer = torchclip.SGD([p], lr=0.5, momentum=0.5, backend="cpu")
    beside = torchclip.SGD([expected], lr=0.5, momentum=0.5, backend="cpu")
    for number in range(5):
        value = torch.arange(12.0).reshape(4, 3) + number
        p.grad = UNUSUAL[kind](value, mesh) if number == 2 and kind in UNUSUAL else _laid(value, mesh)
        expected.grad = value[:2].clone()
        optimizer.step()
        beside.step()
        assert torch.equal(p._local_tensor, expected) and p._local_tensor.grad is None


@either
def test_steps_without_a_gradient(loops: ModuleType, mesh: DeviceMesh, monkeypatch: Any) -> None:
    monkeypatch.setattr(sharded_plan, "PART_LOOPS", loops)
    p, other = _parameter(mesh), _parameter(mesh)
    optimizer = torchclip.SGD([p, other], lr=0.5, backend="cpu")
    optimizer.step()
    p.grad, before, version = None, p._local_tensor.clone(), p._version
    optimizer.step()
    assert torch.equal(p._local_tensor, before) and p._version == version
    assert torch.equal(other._local_tensor, torch.arange(6.0).reshape(2, 3) - 1)


@compiled
@pytest.mark.parametrize("kind", UNUSUAL)
def test_unusual_gradients_are_left_to_python(kind: str, mesh: DeviceMesh) -> None:
    usual, unusual, bare = _parameter(mesh), _parameter(mesh), _parameter(mesh)
    unusual.grad, bare.grad = UNUSUAL[kind](torch.ones(4, 3), mesh), None
    parameters = [usual, unusual, bare, usual]
    own = [one._local_tensor for one in parameters]
    for part in own:
        part.grad = torch.zeros(2, 3)
    left = COMPILED.lend_gradients(parameters, own, [None] * 8)
    assert left == [1]
    assert own[0].grad is usual.grad._local_tensor and own[2].grad is None and own[1].grad is not None
    COMPILED.take_gradients_back(own)
    assert all(part.grad is None for part in own)


@compiled
@pytest.mark.parametrize(
    "held",
    [
        torch.ones(3, 3),
        torch.ones(2, 3, dtype=torch.bfloat16),
        torch.ones(2, 3, device="meta"),
        torch.ones(2, 3).to_sparse(),
        torch._neg_view(torch.ones(2, 3)),
        torch.nn.Parameter(torch.ones(2, 3)),
    ],
    ids=["sizes", "type", "device", "sparse", "lazily negated", "class"],
)
def test_parts_that_a_gradient_may_not_fit_are_left_to_python(held: Tensor, mesh: DeviceMesh) -> None:
    p = _parameter(mesh)
    p.grad._local_tensor = held
    assert COMPILED.lend_gradients([p], [p._local_tensor], [None] * 2) == [0] and p._local_tensor.grad is None


@compiled
@pytest.mark.parametrize("whose", ["gradient", "parameter"])
def test_a_spec_that_is_replaced_is_seen(whose: str, mesh: DeviceMesh) -> None:
    """Also of a tensor whose last one was found to do."""
    p = _parameter(mesh)
    specs: list[Any] = [None] * 2
    for _ in range(2):
        assert COMPILED.lend_gradients([p], [p._local_tensor], specs) == []
        assert specs[0] is p._spec and specs[1] is p.grad._spec and specs[0] is not specs[1]
    tensor = p.grad if whose == "gradient" else p
    tensor._spec = _laid(torch.ones(4, 3), mesh, Replicate())._spec
    assert COMPILED.lend_gradients([p], [p._local_tensor], specs) == [0]


@compiled
def test_lists_of_other_lengths_are_refused(mesh: DeviceMesh) -> None:
    p = _parameter(mesh)
    for arguments in (([p], [], []), ([p], [p._local_tensor], [None])):
        with pytest.raises(ValueError, match="lengths"):
            COMPILED.lend_gradients(*arguments)
    with pytest.raises(ValueError, match="lengths"):
        COMPILED.hold_parts([p], [])


@either
def test_versions_that_are_counted(loops: ModuleType, mesh: DeviceMesh) -> None:
    """Of parameters with a gradient, and of all others, but for those that have none."""
    p, bare, state = _parameter(mesh), _parameter(mesh), _laid(torch.ones(4, 3), mesh)
    bare.grad = None
    with torch.inference_mode():
        without = torch.ones(2)
    before = [one._version for one in (p, bare, state)]
    loops.count_versions([p, bare], [state, without])
    assert [one._version for one in (p, bare, state)] == [before[0] + 1, before[1], before[2] + 1]


@either
def test_parameters_that_are_others(loops: ModuleType) -> None:
    one, two, three = (torch.nn.Parameter(torch.ones(1)) for _ in range(3))
    known = [[one, two], [three]]

    def are_held(*groups: list[Tensor]) -> bool:
        held: bool = loops.hold_parameters([{"params": params, "lr": 0.1} for params in groups], known)
        return held

    assert are_held([one, two], [three])
    for groups in ([[one, two]], [[one, two], []], [[one], [two, three]], [[two, one], [three]], [[one, two], [two]]):
        assert not are_held(*groups)
    assert not are_held([one, two], [three], [])


@either
def test_parts_that_are_others(loops: ModuleType, mesh: DeviceMesh) -> None:
    one, two = (
        _laid(torch.ones(4, 3), mesh),
        Other(torch.ones(2, 3), _laid(torch.ones(4, 3), mesh)._spec, requires_grad=False),
    )
    known = [one._local_tensor, two._local_tensor]
    assert loops.hold_parts([one, two], known) and loops.hold_parts([], [])
    for tensor in (one, two):
        kept, tensor._local_tensor = tensor._local_tensor, torch.ones(2, 3)
        assert not loops.hold_parts([one, two], known)
        tensor._local_tensor = kept


@either
def test_state_that_is_another(loops: ModuleType) -> None:
    first, second, key = {"a": torch.ones(1), "b": torch.ones(1)}, {"a": torch.ones(1)}, torch.ones(1)
    state: dict[Any, Any] = {0: first, 1: second, 2: key}
    dicts, values = [first, second, key], [*first.values(), *second.values()]
    assert loops.hold_values(state, dicts, values)
    others = [
        {0: first, 1: second},
        {**state, 3: {}},
        {0: first, 1: dict(second), 2: key},
        {0: second, 1: first, 2: key},
        {0: first, 1: second, 2: key.clone()},
    ]
    for other in others:
        assert not loops.hold_values(other, dicts, values)
    for change in (lambda: second.update(c=key), lambda: second.update(a=key), lambda: second.pop("a")):
        kept = dict(second)
        change()
        assert not loops.hold_values(state, dicts, values)
        second.clear()
        second.update(kept)
    assert loops.hold_values(state, dicts, values)
