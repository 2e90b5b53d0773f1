"""``param_groups`` edited by hand: tensors replaced, things that are no tensors, and keys of the user's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import torchclip
from builders import LOSS, build, copies_of, draw_gradients, each_optimizer, leaves
from memory_guard import same_bits
from records import BACKENDS

each_backend = pytest.mark.parametrize("backend", BACKENDS, indirect=True)
"""The interpreted one too."""


@each_optimizer
def test_a_tensor_that_is_replaced_starts_anew(name: str, backend: str) -> None:
    """What stands in its place is stepped, from a first step of its own; what stood there is left alone."""
    params = leaves()
    copies = copies_of(params)
    optimizer, plain = build(name, params, backend=backend), build(name, copies, backend="reference")
    for step in range(2):
        draw_gradients(step, params, copies)
        optimizer.step(loss=LOSS)
        plain.step(loss=LOSS)
    (new,) = leaves(1)
    old, kept = params[1], params[1].detach().clone()
    (other,) = copies_of([new])
    optimizer.param_groups[0]["params"][1], plain.param_groups[0]["params"][1] = new, other
    before = new.detach().clone()
    for each in (optimizer, plain):
        each.step(loss=LOSS)
    torch.testing.assert_close(new, other)
    torch.testing.assert_close(optimizer.state[new], plain.state[other])
    assert same_bits(old, kept) and not torch.equal(new, before)
    if "step" in optimizer.state[new]:
        assert optimizer.state[new]["step"] == 1 and optimizer.state[params[0]]["step"] == 3


NO_TENSORS = {"float": 1.0, "none": None, "array": [1.0, 2.0], "text": "weight"}


@pytest.mark.parametrize("thing", NO_TENSORS.values(), ids=NO_TENSORS)
@pytest.mark.parametrize("steps", (0, 1), ids=("first", "later"))
@each_backend
def test_what_is_no_tensor_is_refused(thing: Any, steps: int, backend: str) -> None:
    params = leaves()
    optimizer = torchclip.AdamW([{"params": params[:1]}, {"params": params[1:]}], lr=0.1, clip=1.0, backend=backend)
    for _ in range(steps):
        optimizer.step()
    before = [p.detach().clone() for p in params]
    held = optimizer.param_groups[1]["params"]
    kept, held[1] = held[1], thing
    for _ in range(2):
        with pytest.raises(TypeError, match=r"^param group 1 holds a \w+ at position 1 of its 'params'"):
            optimizer.step()
    held.append(thing)
    with pytest.raises(TypeError, match=r"^param group 1 holds a \w+ at position 1 of its 'params'"):
        optimizer.step()
    assert all(map(same_bits, params, before))
    assert [float(optimizer.state[p]["step"]) for p in params if p in optimizer.state] == [1.0] * 3 * steps
    held[1:] = [kept]
    optimizer.step()
    assert [float(optimizer.state[p]["step"]) for p in params] == [steps + 1.0] * 3


GROUPS: dict[str, tuple[Any, type[Exception], str]] = {
    "none": (None, TypeError, "^param group 1 is a NoneType, and must be a dict with 'params'"),
    "list": ([], TypeError, "^param group 1 is a list, and must be a dict with 'params'"),
    "empty": ({}, KeyError, "param group 1 has no 'params'"),
    "iterator": ({"params": iter([])}, TypeError, "^param group 1 holds a list_iterator under 'params', .*list of par"),
    "tensor": ({"params": torch.ones(3)}, TypeError, "^param group 1 holds a Tensor under 'params', .*list of parame"),
    "values": ({"params": []}, KeyError, "param group 1 has no 'lr', which every step reads"),
}


@pytest.mark.parametrize("group, error, message", GROUPS.values(), ids=GROUPS)
@each_backend
def test_what_is_no_param_group_is_refused(group: Any, error: type[Exception], message: str, backend: str) -> None:
    optimizer = torchclip.SGD(leaves(), lr=0.1, momentum=0.5, backend=backend)
    optimizer.param_groups.append(group)
    for _ in range(2):
        with pytest.raises(error, match=message):
            optimizer.step()
    assert not optimizer.state
    optimizer.param_groups.pop()
    optimizer.step()
    assert len(optimizer.state) == 3


@each_backend
def test_groups_in_a_tuple(backend: str) -> None:
    params = leaves()
    copies = copies_of(params)
    optimizer = torchclip.AdamW(params[:2], lr=0.1, clip=1.0, backend=backend)
    plain = torchclip.AdamW(copies[:2], lr=0.1, clip=1.0, backend=backend)
    optimizer.param_groups[0]["params"] = tuple(params[:2])
    optimizer.param_groups = tuple(optimizer.param_groups)
    for step in range(3):
        draw_gradients(step, params, copies)
        optimizer.step()
        plain.step()
        assert all(map(same_bits, params, copies))
    for each, added in ((optimizer, params[2]), (plain, copies[2])):
        each.add_param_group({"params": [added], "lr": 0.5})
        each.step()
    assert all(map(same_bits, params, copies))
    optimizer.param_groups = {0: optimizer.param_groups[0]}
    with pytest.raises(TypeError, match="^param_groups is a dict, and must be a list of dicts"):
        optimizer.step()


def own_tensors() -> dict[str, Any]:
    """Of shapes, types and places that no hyperparameter has."""
    return {
        "mask": torch.ones(3, 3),
        "pair": (torch.ones(2), torch.ones(0, 5), "text"),
        "where": torch.empty(4, device="meta"),
        "ids": torch.arange(5),
        "indices": torch.ones(2, 2).to_sparse(),
        "shared": (torch.ones(3), torch.ones(2)),
    }


@each_optimizer
def test_tensors_under_keys_of_the_users_own(name: str, backend: str) -> None:
    if name.startswith("ada_"):
        pytest.skip("these keep state of their own under 'shared'")
    params = leaves()
    copies = copies_of(params)
    own = own_tensors()
    optimizer = build(name, [{"params": params, **own}], backend=backend)
    plain = build(name, copies, backend=backend)
    for step in range(2):
        draw_gradients(step, params, copies)
        optimizer.step(loss=LOSS)
        plain.step(loss=LOSS)
    assert all(map(same_bits, params, copies))
    group = optimizer.param_groups[0]
    assert all(group[key] is value for key, value in own.items())
    for key, value in own_tensors().items():
        if isinstance(value, Tensor) and not value.is_meta:
            assert torch.equal(group[key].to_dense(), value.to_dense())


@each_backend
def test_state_that_is_cleared_stays_so_where_the_groups_changed_too(backend: str) -> None:
    params = [torch.nn.Parameter(torch.zeros(2)) for _ in range(2)]
    for param in params:
        param.grad = torch.ones(2)
    optimizer = torchclip.SGD(params, lr=1.0, momentum=0.5, backend=backend)
    optimizer.step()
    optimizer.state.clear()
    optimizer.param_groups[0]["params"].pop()
    optimizer.step()
    assert params[0].tolist() == [-2.0, -2.0]  # and -2.5 with the momentum that is gone
    assert optimizer.state[params[0]]["momentum_buffer"].tolist() == [1.0, 1.0]


def test_bounds_of_ada_gc_follow_the_param_groups(backend: str) -> None:
    """A group that the user takes out takes its bounds along; one that comes again begins without."""
    params = [torch.nn.Parameter(torch.ones(3)) for _ in range(3)]
    optimizer = torchclip.SGD(params[:1], lr=0.1, clip=torchclip.AdaGC(), backend=backend)
    optimizer.add_param_group({"params": params[1:]})
    for taken in (False, True):
        if taken:
            optimizer.param_groups.pop()
        for param in params:
            param.grad = torch.full_like(param, 2.0)
        optimizer.step()
        assert len(optimizer.param_groups[0]["shared"]["norm_bounds"]) == (1 if taken else 3)
    optimizer.add_param_group({"params": params[1:]})
    optimizer.step()
    bounds = optimizer.param_groups[0]["shared"]["norm_bounds"]
    assert len(bounds) == 3 and (bounds > 0).all()
