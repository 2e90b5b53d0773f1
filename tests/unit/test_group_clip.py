"""Clip policies of single param groups, against torch: its own clipping on each group's parameters, then its step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch

import torchclip
from builders import copies_of, draw_gradients, leaves
from clipped_groups import OWN, groups_of
from torchclip import ClipByGlobalNorm


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
    copies = copies_of(params)
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


def test_groups_of_several_types_are_measured_behind_one_that_is_not(backend: str) -> None:
    dtypes = (torch.float32, torch.float32, torch.float64, torch.float64)
    params = [torch.nn.Parameter(torch.zeros(3, dtype=dtype)) for dtype in dtypes]
    optimizer = torchclip.SGD(groups_of(params, [1.0, None, None, 0.5]), lr=1.0, clip=1.0, backend=backend)
    for param in params:
        param.grad = torch.full_like(param, 2.0)
    optimizer.step()
    norm = math.sqrt(12)
    assert optimizer.grad_norm.tolist() == pytest.approx([norm, 0.0, 0.0, norm], rel=1e-6)
    moved = [-2.0 / norm, -2.0, -2.0, -1.0 / norm]
    assert [param[0].item() for param in params] == pytest.approx(moved, rel=1e-5)


def test_an_unmeasured_group_between_others_of_another_kind(backend: str) -> None:
    """Three groups for three kernels, of which the norm pass leaves out the middle one."""
    shapes, decays = [(5_003,), (70, 31), (3, 4_099)], (0.0, 0.1, 0.1)
    params = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    groups = groups_of(params, [OWN, None, OWN])
    for group, decay in zip(groups, decays, strict=True):
        group["weight_decay"] = decay
    copies = copies_of(params)
    theirs = [{"params": [twin], "weight_decay": decay} for twin, decay in zip(copies, decays, strict=True)]
    ours, torchs = torchclip.SGD(groups, lr=0.1, clip=1.0, backend=backend), torch.optim.SGD(theirs, lr=0.1)
    for step in range(2):
        draw_gradients(step, params, copies)
        ours.step()
        norm = torch.nn.utils.clip_grad_norm_([copies[0], copies[2]], 1.0)
        torchs.step()
        assert ours.grad_norm.tolist() == pytest.approx([float(norm), 0.0, float(norm)], rel=1e-5)
        for param, twin in zip(params, copies, strict=True):
            torch.testing.assert_close(param, twin, rtol=2e-5, atol=1e-6)


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
