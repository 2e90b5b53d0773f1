"""Keys of a param group that are the user's own: kept, saved and loaded, and never looked at."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch

import torchclip
from builders import LOSS, build, copies_of, draw_gradients, each_optimizer, leaves

EXTRA: dict[str, Any] = {"initial_lr": 3.0, "tags": ["decoder", 2], "layer": 7, "owner": None, "is_head": True}
"""``initial_lr`` is a scheduler's; the others are of a training script."""


@each_optimizer
def test_extra_keys_are_left_alone(name: str, backend: str) -> None:
    params = leaves()
    copies = copies_of(params)
    groups = [{"params": params[:2], **copy.deepcopy(EXTRA)}, {"params": params[2:], "layer": 8}]
    optimizer = build(name, groups, backend=backend)
    plain = build(name, [{"params": copies[:2]}, {"params": copies[2:]}], backend=backend)
    for step in range(3):
        draw_gradients(step, params, copies)
        optimizer.step(loss=LOSS)
        plain.step(loss=LOSS)
    assert all(map(torch.equal, params, copies))
    loaded = build(name, [{"params": copies[:2]}, {"params": copies[2:], "mine": 1}], backend=backend)
    loaded.load_state_dict(optimizer.state_dict())
    assert "mine" not in loaded.param_groups[1]  # a checkpoint's keys take the place of all, as torch's do
    for other in (optimizer, loaded, copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        first, second = other.param_groups
        assert {key: first[key] for key in EXTRA} == EXTRA and second["layer"] == 8
        assert {key: other.state_dict()["param_groups"][0][key] for key in EXTRA} == EXTRA
        other.step(loss=LOSS)


@each_optimizer
def test_a_group_that_is_added_keeps_them(name: str, backend: str) -> None:
    first, second = leaves(1), leaves(1)
    optimizer = build(name, first, backend=backend)
    given = {"params": second[0], **EXTRA}
    optimizer.add_param_group(given)
    assert {key: optimizer.param_groups[1][key] for key in EXTRA} == EXTRA
    assert given == {"params": second[0], **EXTRA}, "the caller's group was written to"
    optimizer.step(loss=LOSS)


@pytest.mark.parametrize("value", [True, {}, {"a": 1}, "yes"], ids=str)
def test_the_key_under_which_state_is_kept(value: Any, backend: str) -> None:
    """``"shared"`` is the user's where the optimizer has nothing to keep there, and refused by name where it has."""
    optimizer = torchclip.SGD([{"params": leaves(), "shared": value}], lr=0.5, backend=backend)
    optimizer.step()
    for other in (optimizer, copy.deepcopy(optimizer)):
        assert other.param_groups[0]["shared"] == value
        assert f"shared: {value}" in repr(other)
        other.load_state_dict(other.state_dict())
        assert other.param_groups[0]["shared"] == value
        other.step()
    with pytest.raises(ValueError, match="^param group 0 holds shared=.*'shared': call yours otherwise"):
        torchclip.SGD([{"params": leaves(), "shared": value}], extensions=(torchclip.Lookahead(),), backend=backend)


def test_the_key_in_a_group_that_is_added(backend: str) -> None:
    options = {"lr": 0.5, "scope": "group", "backend": backend}
    optimizer = torchclip.AdaGradNorm(leaves(), **options)
    with pytest.raises(ValueError, match="^param group 1 holds shared=True"):
        optimizer.add_param_group({"params": leaves(), "shared": True})
    assert len(optimizer.param_groups) == 1
    optimizer.step()
    assert optimizer.param_groups[0]["shared"].keys() == {"sum"}
    assert "shared" not in repr(optimizer)
