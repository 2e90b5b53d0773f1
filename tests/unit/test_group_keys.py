"""Keys that a param group cannot have: arguments of the constructor, and clip policies that measure all groups."""

from __future__ import annotations

from typing import Any

import pytest

import torchclip
from clipped_groups import OWN, groups_of, scalars, step_once
from torchclip import ClipByGlobalNorm
from torchclip.policies.group_clip import ARGUMENTS


@pytest.mark.parametrize(
    "policy",
    [torchclip.AutoClip(), torchclip.ZClip(), torchclip.ClipByTensorNorm(1.0), torchclip.ClipByValue(1.0),
     torchclip.AdaptiveGradientClip()],
    ids=lambda policy: type(policy).__name__,
)  # fmt: skip
def test_policies_of_all_groups_at_once(policy: Any) -> None:
    with pytest.raises(
        ValueError, match=f"^param group 1 sets clip={type(policy).__name__}.* a number, ClipByGlobalNorm or None"
    ):
        torchclip.SGD(groups_of(scalars(), [OWN, policy]), lr=1.0)
    says = f"^param group 1 sets clip=0.5, and the optimizer's {type(policy).__name__}"
    with pytest.raises(ValueError, match=says):
        torchclip.SGD(groups_of(scalars(), [OWN, 0.5]), lr=1.0, clip=policy)
    optimizer = torchclip.SGD(groups_of(scalars(), [OWN, 0.5]), lr=1.0, clip=1.0)
    with pytest.raises(ValueError, match=says):
        optimizer.clip = policy
    assert optimizer.clip == ClipByGlobalNorm(1.0)
    alone = torchclip.SGD(scalars(), lr=1.0, clip=policy)
    with pytest.raises(ValueError, match=says):
        alone.add_param_group({"params": scalars(1), "clip": 0.5})
    assert len(alone.param_groups) == 1
    alone.add_param_group({"params": scalars(1)})


MISPLACED = {
    "step_size": torchclip.AdaLossStep(),
    "extensions": (),
    "precision": None,
    "seed": None,
    "skip": True,
    "backend": "nonsense",
}


def test_every_argument_is_tried() -> None:
    assert MISPLACED.keys() == ARGUMENTS.keys()


@pytest.mark.parametrize("key", MISPLACED)
def test_arguments_of_the_constructor_in_a_group(key: str, backend: str) -> None:
    value = MISPLACED[key]
    says = f"^param group 1 sets {key}=.*, which is no setting of a single group"
    with pytest.raises(TypeError, match=says):
        torchclip.SGD([{"params": scalars(1)}, {"params": scalars(1), key: value}], lr=1.0, backend=backend)
    params = scalars(2)
    optimizer = torchclip.SGD(groups_of(params, [OWN, OWN]), lr=1.0, backend=backend)
    with pytest.raises(TypeError, match=says.replace("1", "2", 1)):
        optimizer.add_param_group({"params": scalars(1), key: value})
    step_once(optimizer, params)
    optimizer.param_groups[1][key] = value
    for _ in range(2):
        with pytest.raises(TypeError, match=says):
            step_once(optimizer, params)
    assert [float(param) for param in params] == [-4.0, -4.0]
    del optimizer.param_groups[1][key]
    assert step_once(optimizer, params) == [4.0, 4.0]


def test_a_scope_in_a_group_of_a_rule_that_clips_itself() -> None:
    group = {"params": scalars(1), "scope": "group"}
    with pytest.raises(TypeError, match="^param group 0 sets scope='group'"):
        torchclip.MomClip([group], lr=1.0, gamma=1.0)
    torchclip.SGD([group], lr=1.0)  # to which it means nothing: the user's own


def test_within_backward(backend: str) -> None:
    """A policy that a group was given measures several parameters; a group without one may step there."""
    params = scalars()
    optimizer = torchclip.SGD(groups_of(params, [OWN, OWN]), lr=1.0, backend=backend)
    optimizer.param_groups[0]["clip"] = 1.0
    for param in params:
        param.register_post_accumulate_grad_hook(lambda _: optimizer.step())
    with pytest.raises(RuntimeError, match="within backward.*ClipByGlobalNorm"):
        sum(params).backward()
    optimizer.param_groups[0]["clip"] = None
    sum(params).backward()
