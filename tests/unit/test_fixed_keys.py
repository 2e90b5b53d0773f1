"""What a class fixes stays fixed: whatever an optimizer loads, unpickles or is handed in a param group."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch

import torchclip

FIXED: dict[type[torch.optim.Optimizer], tuple[type[torch.optim.Optimizer], str, Any, Any, dict[str, Any]]] = {
    torchclip.AdamW: (torchclip.Adam, "decoupled_weight_decay", True, False, {}),
    torchclip.SGDW: (torchclip.SGD, "decoupled_weight_decay", True, False, {}),
    torchclip.RAdamW: (torchclip.RAdam, "decoupled_weight_decay", True, False, {}),
    torchclip.MomClip: (torchclip.MixClip, "nu", 1.0, 0.25, {"gamma": 1.0}),
    torchclip.SGDClip: (torchclip.MixClip, "nu", 1.0, 0.25, {"gamma": 1.0}),
}
"""Each class: one that leaves the key open, the key, its value, another one, and what the constructor needs."""

each_fixed = pytest.mark.parametrize("cls", FIXED, ids=lambda cls: cls.__name__)


def one(backend: str, cls: type[torch.optim.Optimizer], **options: Any) -> tuple[torch.nn.Parameter, Any]:
    """A parameter at 1 with a gradient of 1, and its optimizer."""
    param = torch.nn.Parameter(torch.ones(3))
    param.grad = torch.ones(3)
    return param, cls([param], lr=0.1, weight_decay=0.5, **options, backend=backend)


# p = (1 - lr · weight_decay) · 1 - lr · 1 with lr = .1 and weight_decay = .5, where the rule's first direction is 1.
@pytest.mark.parametrize("name", ["AdamW", "SGDW", "RAdamW"])
@pytest.mark.parametrize("way", ["ours", "torchs", "pickle"])
def test_decay_stays_decoupled(name: str, way: str, backend: str) -> None:
    if way == "pickle":
        param, optimizer = one(backend, getattr(torchclip, name))
        state = optimizer.__getstate__()
        state["param_groups"][0]["decoupled_weight_decay"] = False
        state["defaults"]["decoupled_weight_decay"] = False
        optimizer = object.__new__(type(optimizer))
        optimizer.__setstate__(state)
        optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(2))]})
        assert optimizer.param_groups[1]["decoupled_weight_decay"] is True
    else:
        source = torchclip if way == "ours" else torch.optim
        saved = getattr(source, name.removesuffix("W"))([torch.nn.Parameter(torch.ones(3))], lr=0.1, weight_decay=0.5)
        param, optimizer = one(backend, getattr(torchclip, name))
        optimizer.load_state_dict(saved.state_dict())
    optimizer.step()
    torch.testing.assert_close(param.detach(), torch.full((3,), 0.85))
    assert optimizer.param_groups[0]["decoupled_weight_decay"] is True


@each_fixed
def test_a_checkpoint_of_another_class(cls: type[torch.optim.Optimizer], backend: str) -> None:
    other, key, value, different, options = FIXED[cls]
    theirs = other([torch.nn.Parameter(torch.ones(3))], lr=0.1, weight_decay=0.5, **options, **{key: different})
    _, optimizer = one(backend, cls, **options)
    optimizer.load_state_dict(theirs.state_dict())
    for loaded in (optimizer, copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert loaded.param_groups[0][key] == value == loaded.defaults[key]
        loaded.step()


@each_fixed
def test_a_group_that_says_otherwise_is_refused(cls: type[torch.optim.Optimizer], backend: str) -> None:
    _, key, value, different, options = FIXED[cls]
    group = {"params": [torch.nn.Parameter(torch.ones(3))], key: different}
    wanted = f"Invalid {key}: {different}; it must be {value} in every optimizer of this class"
    with pytest.raises(ValueError, match=wanted):
        cls([group], lr=0.1, **options, backend=backend)
    _, optimizer = one(backend, cls, **options)
    with pytest.raises(ValueError, match=key):
        optimizer.add_param_group(group)
    assert len(optimizer.param_groups) == 1
    optimizer.add_param_group({**group, key: value})
    optimizer.step()


def test_a_class_that_leaves_it_open_takes_what_it_loads(backend: str) -> None:
    theirs = torch.optim.AdamW([torch.nn.Parameter(torch.ones(3))], lr=0.1, weight_decay=0.5)
    param, optimizer = one(backend, torchclip.Adam)
    optimizer.load_state_dict(theirs.state_dict())
    optimizer.step()
    torch.testing.assert_close(param.detach(), torch.full((3,), 0.85))
