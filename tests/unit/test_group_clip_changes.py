"""Clip policies of param groups over the life of an optimizer: assigned, added, saved, loaded and copied."""

from __future__ import annotations

import copy
import io
import math
import pickle
from typing import Any

import pytest
import torch

import recorded_plans
import torchclip
from clipped_groups import OWN, groups_of, scalars, step_once
from torchclip import ClipByGlobalNorm
from torchclip.backends.codes import GROUPS_CHANGED


def test_what_is_assigned_between_steps_holds_from_the_next_on(backend: str) -> None:
    params = scalars(3)
    optimizer = torchclip.SGD(groups_of(params, [OWN, OWN, OWN]), lr=1.0, backend=backend)
    assert step_once(optimizer, params) == [4.0, 4.0, 4.0]
    optimizer.param_groups[1]["clip"] = 0.5
    assert step_once(optimizer, params) == [4.0, 0.5, 4.0]
    assert optimizer.grad_norm.tolist() == [0.0, 4.0, 0.0]
    optimizer.param_groups[1]["clip"] = 0.25
    assert step_once(optimizer, params) == [4.0, 0.25, 4.0]
    optimizer.clip = math.hypot(4.0, 4.0) / 2
    assert step_once(optimizer, params) == [2.0, 0.25, 2.0]
    optimizer.param_groups[0]["clip"] = None
    assert step_once(optimizer, params) == [4.0, 0.25, 2.8284]
    del optimizer.param_groups[0]["clip"]
    assert step_once(optimizer, params) == [2.0, 0.25, 2.0]
    del optimizer.param_groups[1]["clip"]
    optimizer.clip = None
    assert step_once(optimizer, params) == [4.0, 4.0, 4.0]
    optimizer.param_groups[2] = {**optimizer.param_groups[2], "clip": 0.5}
    assert step_once(optimizer, params) == [4.0, 4.0, 0.5]


def test_groups_that_are_moved_or_replaced_leave_no_policy_behind(backend: str) -> None:
    params = scalars()
    optimizer = torchclip.SGD(groups_of(params, [0.5, OWN]), lr=1.0, backend=backend)
    assert step_once(optimizer, params) == [0.5, 4.0]
    first = {key: value for key, value in optimizer.param_groups[0].items() if key != "clip"}
    optimizer.param_groups[0] = first
    assert step_once(optimizer, params) == [4.0, 4.0]
    first["clip"] = 0.5
    assert step_once(optimizer, params) == [0.5, 4.0]
    optimizer.param_groups.reverse()
    assert step_once(optimizer, params) == [0.5, 4.0]


def test_a_group_that_is_appended_is_clipped_where_all_others_are_not(backend: str) -> None:
    params = scalars(3)
    optimizer = torchclip.SGD(groups_of(params[:2], [None, None]), lr=1.0, clip=0.5, backend=backend)
    optimizer.step()
    group = {key: value for key, value in optimizer.param_groups[0].items() if key != "clip"}
    optimizer.param_groups.append({**group, "params": params[2:]})
    assert step_once(optimizer, params) == [4.0, 4.0, 0.5]


def test_a_refused_value_is_refused_at_every_step_until_it_goes(backend: str) -> None:
    params = scalars()
    optimizer = torchclip.SGD(groups_of(params, [OWN, 0.5]), lr=1.0, backend=backend)
    step_once(optimizer, params)
    for key, value, says in (
        ("clip", torchclip.AutoClip(), r"^param group 1 sets clip=AutoClip.*a number, ClipByGlobalNorm or None"),
        ("clip", "0.5", r"^param group 1 sets clip='0.5'"),
        ("clip", -1.0, r"^param group 1 sets clip=-1.0.*Invalid max_norm"),
        ("seed", 3, r"^param group 1 sets seed=3, .*constructor"),
    ):
        before = optimizer.param_groups[1].get(key)
        optimizer.param_groups[1][key] = value
        for _ in range(2):
            with pytest.raises((TypeError, ValueError), match=says):
                step_once(optimizer, params)
        assert [float(param) for param in params] == pytest.approx([-4.0, -0.5], rel=1e-5)
        optimizer.param_groups[1][key] = before
        if before is None:
            del optimizer.param_groups[1][key]
    assert step_once(optimizer, params) == [4.0, 0.5]


@pytest.mark.usefixtures("forget_graphs")
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_within_a_compiled_step(backend: str) -> None:
    params = scalars()
    optimizer = torchclip.SGD(groups_of(params, [OWN, 0.5]), lr=1.0, clip=1.0, backend=backend)
    compiled = torch.compile(optimizer.step, backend="eager")
    for own in (0.5, 0.5, 0.25, None, None):
        optimizer.param_groups[1]["clip"] = own
        before = [param.item() for param in params]
        for param in params:
            param.grad = torch.tensor([4.0])
        compiled()
        moves = [old - param.item() for old, param in zip(before, params, strict=True)]
        assert moves == pytest.approx([1.0, 4.0 if own is None else own], rel=1e-4)


def test_a_group_that_is_added(backend: str) -> None:
    params = scalars(3)
    optimizer = torchclip.SGD(params[:1], lr=1.0, clip=1.0, backend=backend)
    assert step_once(optimizer, params[:1]) == [1.0]
    assert optimizer.grad_norm.shape == ()
    optimizer.add_param_group({"params": params[1], "clip": 0.5})
    assert step_once(optimizer, params[:2]) == [1.0, 0.5]
    with pytest.raises(ValueError, match="^param group 2 sets clip=ZClip"):
        optimizer.add_param_group({"params": params[2], "clip": torchclip.ZClip()})
    optimizer.add_param_group({"params": params[2]})
    assert step_once(optimizer, params) == [0.7071, 0.5, 0.7071]


def test_a_checkpoint_neither_holds_nor_changes_how_to_clip(backend: str) -> None:
    params = scalars()
    clips = [ClipByGlobalNorm(0.25, nonfinite="skip"), OWN]
    optimizer = torchclip.SGD(groups_of(params, clips), lr=1.0, momentum=0.5, clip=1.0, backend=backend)
    step_once(optimizer, params)
    saved = optimizer.state_dict()
    assert [group.get("clip", OWN) for group in saved["param_groups"]] == [None, OWN]
    buffer = io.BytesIO()
    torch.save(saved, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=True)
    for own in ([0.5, OWN], [OWN, None], [OWN, OWN]):
        copies = scalars()
        other = torchclip.SGD(groups_of(copies, own), lr=1.0, momentum=0.5, clip=2.0, backend=backend)
        foreign = copy.deepcopy(loaded)
        foreign["param_groups"][1]["clip"] = 0.125  # of somebody else's
        other.load_state_dict(foreign)
        assert [group.get("clip", OWN) for group in other.param_groups] == own
        moves = step_once(other, copies)
        rest = 2.0 / math.sqrt(sum(each is OWN for each in own))
        clipped = [rest if each is OWN else 4.0 if each is None else each for each in own]
        assert moves == pytest.approx([0.125 + clipped[0], 0.5 + clipped[1]], abs=1e-4)
    torch.optim.SGD(scalars(), lr=1.0).load_state_dict({**saved, "param_groups": [
        {**saved["param_groups"][0], "params": [0, 1]}]})  # fmt: skip


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))], ids=["copy", "pickle"]
)
def test_a_copy_clips_alike(duplicate: Any, backend: str) -> None:
    params = scalars(3)
    optimizer = torchclip.SGD(groups_of(params, [OWN, 0.5, None]), lr=1.0, clip=1.0, backend=backend)
    step_once(optimizer, params)
    other = duplicate(optimizer)
    assert step_once(other, [group["params"][0] for group in other.param_groups]) == [1.0, 0.5, 4.0]
    assert "clip: 0.5" in repr(other) and "clip: None" in repr(other)


def test_a_bound_of_0_warns_once(backend: str) -> None:
    params = scalars()
    with pytest.warns(UserWarning, match="clip=None is what clips nothing") as caught:
        optimizer = torchclip.SGD(groups_of(params, [0, OWN]), lr=1.0, clip=1.0, backend=backend)
        assert step_once(optimizer, params) == step_once(optimizer, params) == [0.0, 1.0]
        optimizer.clip = 2.0
    assert len(caught) == 1


def test_readers_of_groups_see_what_the_plan_was_not_configured_for() -> None:
    """Until the plan is configured anew it is told at every refresh."""
    optimizer = recorded_plans.build("sgd", [torch.nn.Parameter(torch.ones(3)) for _ in range(2)])
    reader, groups = recorded_plans.Reader(optimizer), optimizer.param_groups

    refresh, own = reader.refresh, (-1, math.inf, False, 0)

    assert refresh() == []
    for key, value in (("clip", 1.0), ("clip", None), ("clip", 0.5), ("backend", "cpu")):
        groups[1][key] = value
        assert refresh() == refresh() == [GROUPS_CHANGED], key
        reader.configure(False, False, [own, own])
        assert refresh() == refresh() == [], key
    groups[0]["name"] = "encoder"
    assert refresh() == []
    del groups[1]["clip"]
    assert refresh() == [GROUPS_CHANGED]
    reader.configure(False, False, [own, own, own])
    assert refresh() == [GROUPS_CHANGED], "a group that the plan has a policy for is gone"
