"""Clip policies of single param groups, against torch: its own clipping on each group's parameters, then its step."""

from __future__ import annotations

import copy
import io
import math
import pickle
from collections.abc import Sequence
from typing import Any

import pytest
import torch

import torchclip
from builders import draw_gradients, leaves, twins
from torchclip import ClipByGlobalNorm

OWN = object()
"""Stands for the policy of the optimizer in place of a group's own: the key is not there."""

Optimizer = torch.optim.Optimizer


def groups_of(params: Sequence[torch.Tensor], clips: Sequence[Any]) -> list[dict[str, Any]]:
    """One parameter for each group."""
    return [
        {"params": [param]} if clip is OWN else {"params": [param], "clip": clip}
        for param, clip in zip(params, clips, strict=True)
    ]


def make(count: int) -> list[torch.nn.Parameter]:
    torch.manual_seed(0)
    return leaves(count)


def torch_clip(params: Sequence[torch.Tensor], clips: Sequence[Any], clip: float | None) -> list[float]:
    """Clips as the groups say, and returns the norm that each of them shows."""
    norms = [0.0] * len(params)
    units = [[index] for index, own in enumerate(clips) if own is not OWN]
    units.append([index for index, own in enumerate(clips) if own is OWN])
    for unit in filter(None, units):
        max_norm = clip if clips[unit[0]] is OWN else clips[unit[0]]
        if max_norm is None:
            continue
        max_norm = getattr(max_norm, "max_norm", max_norm)
        norm = float(torch.nn.utils.clip_grad_norm_([params[index] for index in unit], max_norm))
        for index in unit:
            norms[index] = norm
    return norms


CASES = {
    "two_of_two": (None, [0.5, ClipByGlobalNorm(0.25)]),
    "one_beside_the_optimizers": (1.0, [OWN, 0.5]),
    "one_beside_none": (None, [0.5, OWN]),
    "shared_and_apart": (1.0, [OWN, 0.5, None, OWN]),
    "never_clipped": (1.0, [None, OWN]),
    "scope_group_is_itself": (1.0, [ClipByGlobalNorm(0.5, scope="group"), OWN]),
    "single_group": (1.0, [0.5]),
    "all_none": (1.0, [None, None]),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_each_group_is_clipped_as_torch_clips_it(case: str, name: str, backend: str) -> None:
    clip, clips = CASES[case]
    params = make(len(clips))
    copies = twins(params)
    options = {"lr": 0.1, "momentum": 0.9} if name == "SGD" else {"lr": 0.1}
    ours = getattr(torchclip, name)(groups_of(params, clips), clip=clip, backend=backend, **options)
    theirs = getattr(torch.optim, name)(copies, **options)
    for step in range(3):
        draw_gradients(step, params, copies)
        before = [param.grad.clone() for param in params]
        ours.step()
        norms = torch_clip(copies, clips, clip)
        theirs.step()
        for param, twin in zip(params, copies, strict=True):
            torch.testing.assert_close(param, twin, rtol=2e-5, atol=1e-6)
        assert all(map(torch.equal, before, (param.grad for param in params))), ".grad was written to"
        if not any(norms):
            with pytest.raises(RuntimeError, match="measures no norm"):
                _ = ours.grad_norm
            continue
        assert ours.grad_norm.tolist() == pytest.approx(norms, rel=1e-5)
        factors = [
            1.0 if norm == 0 else min(1.0, getattr(max_norm, "max_norm", max_norm) / (norm + 1e-6))
            for max_norm, norm in zip([clip if own is OWN else own for own in clips], norms, strict=True)
        ]
        assert ours.clip_factor.tolist() == pytest.approx(factors, rel=1e-5)
        assert float(ours.metrics()["clipped_fraction"]) == 1.0


def test_groups_without_gradients(backend: str) -> None:
    """A group that shares a norm shows it; one that has its own and no gradient shows 0, and 1 for the factor."""
    params = [torch.nn.Parameter(torch.ones(1)) for _ in range(4)]
    optimizer = torchclip.SGD(groups_of(params, [OWN, OWN, 2.0, 2.0]), lr=1.0, clip=1.0, backend=backend)
    params[1].grad, params[3].grad = torch.tensor([4.0]), torch.tensor([8.0])
    optimizer.step()
    assert optimizer.grad_norm.tolist() == [4.0, 4.0, 0.0, 8.0]
    assert optimizer.clip_factor.tolist() == pytest.approx([0.25, 0.25, 1.0, 0.25])
    assert [float(param) for param in params] == pytest.approx([1.0, 0.0, 1.0, -1.0], abs=1e-5)
    for param in params:
        param.grad = None
    optimizer.step()
    assert optimizer.grad_norm.tolist() == [0.0] * 4 and optimizer.clip_factor.tolist() == [1.0] * 4


def test_the_optimizers_policy_over_each_group(backend: str) -> None:
    params = [torch.nn.Parameter(torch.zeros(1)) for _ in range(3)]
    clip = ClipByGlobalNorm(1.0, scope="group")
    optimizer = torchclip.SGD(groups_of(params, [OWN, 2.0, OWN]), lr=1.0, clip=clip, backend=backend)
    for param, gradient in zip(params, (4.0, 8.0, 16.0), strict=True):
        param.grad = torch.tensor([gradient])
    optimizer.step()
    assert optimizer.grad_norm.tolist() == [4.0, 8.0, 16.0]
    assert [float(param) for param in params] == pytest.approx([-1.0, -2.0, -1.0], rel=1e-5)


def test_the_smooth_form_of_one_group(backend: str) -> None:
    params = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    smooth = ClipByGlobalNorm(1.0, smooth=True)
    optimizer = torchclip.SGD(groups_of(params, [smooth, OWN]), lr=1.0, clip=1.0, backend=backend)
    for param in params:
        param.grad = torch.tensor([3.0])
    optimizer.step()
    assert [float(param) for param in params] == pytest.approx([-3.0 / 4.0, -1.0], rel=1e-5)


def test_more_groups_than_one_block_takes_at_once(backend: str) -> None:
    """Every third shares the optimizer's norm, the others have their own."""
    count = 8 if backend == "triton" else 70
    params = [torch.nn.Parameter(torch.zeros(1)) for _ in range(count)]
    clips = [OWN if index % 3 == 0 else float(index) for index in range(count)]
    optimizer = torchclip.SGD(groups_of(params, clips), lr=1.0, clip=1.0, backend=backend)
    for index, param in enumerate(params):
        param.grad = torch.tensor([2.0 * index])
    optimizer.step()
    shared = math.sqrt(sum((2.0 * index) ** 2 for index in range(0, count, 3)))
    wanted = [-2.0 * index / shared if index % 3 == 0 else -float(index) for index in range(count)]
    assert [float(param) for param in params] == pytest.approx(wanted, rel=1e-5)
    norms = [shared if index % 3 == 0 else 2.0 * index for index in range(count)]
    assert optimizer.grad_norm.tolist() == pytest.approx(norms, rel=1e-6)


# Norms that are not finite.


@pytest.mark.parametrize("bad", [0, 1, 2])
def test_a_group_that_skips_skips_the_whole_step(bad: int, backend: str) -> None:
    """Group 0 propagates, group 1 skips, group 2 is not measured."""
    params = [torch.nn.Parameter(torch.ones(2)) for _ in range(3)]
    clips = [1.0, ClipByGlobalNorm(1.0, nonfinite="skip"), None]
    optimizer = torchclip.SGD(groups_of(params, clips), lr=0.5, momentum=0.9, backend=backend)
    for param in params:
        param.grad = torch.full((2,), 0.5)
    params[bad].grad = torch.tensor([math.inf, 0.5])
    optimizer.step()
    if bad == 1:
        assert all(param.tolist() == [1.0, 1.0] for param in params)
        made = optimizer.state_dict()["state"].values()  # a device knows alone that it has skipped
        assert not any(buffer.any() for each in made for buffer in each.values())
        assert math.isinf(optimizer.grad_norm[1])
    else:
        assert all(param.tolist() == [0.75, 0.75] for index, param in enumerate(params) if index != bad)
        assert not params[bad].isfinite().all()


def test_a_group_that_raises(backend: str) -> None:
    params = [torch.nn.Parameter(torch.ones(2)) for _ in range(3)]
    raises, skips = ClipByGlobalNorm(1.0, nonfinite="error"), ClipByGlobalNorm(1.0, nonfinite="skip")
    optimizer = torchclip.SGD(groups_of(params, [skips, raises, 1.0]), lr=0.5, backend=backend)
    for param in params:
        param.grad = torch.full((2,), 0.5)
    params[0].grad = torch.tensor([math.nan, 0.5])
    optimizer.step()  # that group skips
    params[1].grad = torch.tensor([math.nan, 0.5])
    with pytest.raises(RuntimeError, match=r"max_norm=1.0, .*nonfinite='error'.* says to raise; not finite: .*group 1"):
        optimizer.step()
    assert all(param.tolist() == [1.0, 1.0] for param in params)
    params[0].grad = params[1].grad = torch.full((2,), 0.5)
    params[2].grad = torch.tensor([math.nan, 0.5])
    optimizer.step()  # that one propagates
    assert params[0].tolist() == [0.75, 0.75] and params[2].isnan().any()


def test_under_a_grad_scaler(backend: str) -> None:
    """The scale is undone before anything is measured; an overflow skips."""
    params = [torch.nn.Parameter(torch.zeros(1)) for _ in range(3)]
    raises = ClipByGlobalNorm(1.0, nonfinite="error")
    optimizer = torchclip.SGD(groups_of(params, [OWN, raises, None]), lr=1.0, clip=2.0, backend=backend)
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(8.0), torch.tensor(0.0)
    for param in params:
        param.grad = torch.tensor([32.0])
    optimizer.step()
    assert optimizer.grad_norm.tolist() == [4.0, 4.0, 0.0]
    assert [float(param) for param in params] == pytest.approx([-2.0, -1.0, -4.0], rel=1e-5)
    optimizer.found_inf = torch.tensor(1.0)
    params[1].grad = torch.tensor([math.inf])
    optimizer.step()
    assert [float(param) for param in params] == pytest.approx([-2.0, -1.0, -4.0], rel=1e-5)


def test_a_rule_that_clips_itself_behind_it(backend: str) -> None:
    """MixClip measures what the policies have left."""
    params, copies = [], []
    for _ in range(3):
        params.append(torch.nn.Parameter(torch.zeros(2)))
        copies.append(torch.nn.Parameter(torch.zeros(2)))
    options = {"lr": 1.0, "gamma": 1.0, "momentum": 0.9, "backend": backend}
    ours = torchclip.MixClip(groups_of(params, [OWN, 0.5, None]), clip=1.0, **options)
    plain = torchclip.MixClip(copies, **options)
    for step in range(2):
        draw_gradients(step, params, copies)
        torch_clip(copies, [OWN, 0.5, None], 1.0)
        ours.step()
        plain.step()
        for param, twin in zip(params, copies, strict=True):
            torch.testing.assert_close(param, twin, rtol=2e-5, atol=1e-6)
    assert ours.grad_norm.shape == (3,)
    torch.testing.assert_close(ours.metrics()["direction_norm"], plain.metrics()["direction_norm"])


# Between steps, and over the life of an optimizer.


def step_once(optimizer: Optimizer, params: Sequence[torch.Tensor], gradient: float = 4.0) -> list[float]:
    """By how much each parameter moves when all gradients are alike, with lr 1."""
    before = [float(param) for param in params]
    for param in params:
        param.grad = torch.tensor([gradient])
    optimizer.step()
    return [round(old - float(param), 4) for old, param in zip(before, params, strict=True)]


def scalars(count: int = 2) -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.zeros(1)) for _ in range(count)]


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
    assert all("clip" not in group for group in saved["param_groups"])
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


# What is refused.


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
    "seed": None,
    "skip": True,
    "backend": "nonsense",
}


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
