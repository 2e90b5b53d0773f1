"""target_sparsity: the law that steers thresholds, what it holds for, and what it refuses."""

from __future__ import annotations

import copy
import math
import statistics
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import torchclip
from torchclip.rules.soft_threshold import FASTEST, GAIN

RULES: dict[str, Callable[..., Any]] = {
    "grda": lambda params, **options: torchclip.GRDA(params, lr=0.05, c=0.02, mu=0.6, **options),
    "lin_breg": lambda params, **options: torchclip.LinBreg(params, lr=0.05, lam=0.1, momentum=0.5, **options),
    "ada_breg": lambda params, **options: torchclip.AdaBreg(params, lr=0.01, lam=0.1, **options),
}

NEAR = 0.03
"""A target so near to the shares of zeros of a first few steps that a threshold goes by their difference."""


def weights(count: int = 3) -> list[torch.nn.Parameter]:
    draws = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(40 + i, 5, generator=draws)) for i in range(count)]


def give_gradients(params: list[torch.nn.Parameter], step: int) -> None:
    """Of a square around a target of which most is small, with noise."""
    draws = torch.Generator().manual_seed(step + 1)
    for parameter in params:
        wanted = torch.linspace(-1, 1, parameter.numel()).view_as(parameter) ** 3
        parameter.grad = parameter.detach() - wanted + 0.1 * torch.randn(parameter.shape, generator=draws)


def steps_of(backend: str, count: int) -> int:
    """Triton's interpreter takes a tenth of a second for one."""
    return 4 if backend == "triton" else count


def moved(target: float, share: float) -> float:
    """The factor on the scale in a step that finds this share of zeros."""
    return math.exp(min(max(GAIN * (target - share), -FASTEST), FASTEST))


def scale_of(optimizer: Any, group: int = 0) -> Tensor:
    scale: Tensor = optimizer.param_groups[group]["shared"]["threshold_scale"]
    return scale


@pytest.mark.parametrize("name", RULES)
def test_the_scale_follows_the_zeros_that_are_found(name: str, backend: str) -> None:
    params = weights()
    optimizer = RULES[name](params, target_sparsity=NEAR, backend=backend)
    by_hand = 1.0
    for step in range(steps_of(backend, 30)):
        give_gradients(params, step)
        if step == 2:  # what the last step has counted is no longer there
            params[1].detach()[:2] = 0
        if step == 3:  # nor here, where autograd's version is as it was
            params[2].data = params[2].data.index_fill(0, torch.arange(2), 0)
        zeros = sum(int((parameter == 0).sum()) for parameter in params) / sum(p.numel() for p in params)
        by_hand *= moved(NEAR, zeros)
        assert step > 3 or abs(GAIN * (NEAR - zeros)) < FASTEST
        optimizer.step()
        assert float(scale_of(optimizer)) == pytest.approx(by_hand, rel=1e-6)


def test_near_its_target_a_share_is_steered_gently() -> None:
    parameter = torch.nn.Parameter(torch.tensor([0.0] * 49 + [1.0] * 51))
    optimizer = torchclip.LinBreg([parameter], lr=0.1, lam=0.1, target_sparsity=0.5)
    parameter.grad = torch.zeros(100)
    optimizer.step()
    assert float(scale_of(optimizer)) == pytest.approx(math.exp(GAIN * 0.01))


@pytest.mark.parametrize("name", RULES)
def test_agrees_with_the_reference(name: str, backend: str) -> None:
    ended = []
    for each in (backend, "reference"):
        params = weights()
        optimizer = RULES[name](params, target_sparsity=NEAR, backend=each)
        for step in range(steps_of(backend, 60)):
            give_gradients(params, step)
            optimizer.step()
        ended.append([*(parameter.detach() for parameter in params), scale_of(optimizer)])
    torch.testing.assert_close(*ended, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("target", [0.3, 0.9])
@pytest.mark.parametrize("name", RULES)
def test_the_share_that_was_asked_for_comes(name: str, target: float) -> None:
    params, shares = weights(8), []
    optimizer = RULES[name](params, target_sparsity=target)
    for step in range(900):
        optimizer.param_groups[0]["lr"] = RULES[name](weights(1)).defaults["lr"] * (1 - step / 900)
        give_gradients(params, step)
        optimizer.step()
        shares.append(float(optimizer.sparsity()))
    # Single elements come and go with the noise of the gradients; their mean is steered.
    assert statistics.mean(shares[-50:]) == pytest.approx(target, abs=0.005)


def test_groups_have_targets_of_their_own(backend: str) -> None:
    first, second, third = weights()
    groups = [
        {"params": [first], "target_sparsity": NEAR},
        {"params": [second], "target_sparsity": 0.5},
        {"params": [third]},
    ]
    optimizer = torchclip.LinBreg(groups, lr=0.05, lam=0.1, backend=backend)
    by_hand = [1.0, 1.0]
    for step in range(steps_of(backend, 20)):
        give_gradients([first, second, third], step)
        for index, (parameter, target) in enumerate(((first, NEAR), (second, 0.5))):
            by_hand[index] *= moved(target, float((parameter == 0).double().mean()))
        optimizer.step()
    assert [float(scale_of(optimizer, index)) for index in (0, 1)] == pytest.approx(by_hand, rel=1e-6)
    assert "shared" not in optimizer.param_groups[2]


@pytest.mark.parametrize("name", RULES)
def test_a_checkpoint_goes_on_bit_for_bit(name: str, backend: str) -> None:
    params = weights()
    optimizer = RULES[name](params, target_sparsity=0.7, backend=backend)
    saved: Any = None
    steps = steps_of(backend, 20)
    for step in range(steps):
        if step == steps // 2:
            saved = copy.deepcopy((optimizer.state_dict(), [parameter.detach() for parameter in params]))
        give_gradients(params, step)
        optimizer.step()
    others = [torch.nn.Parameter(value) for value in saved[1]]
    loaded = RULES[name](others, target_sparsity=0.7, backend=backend)
    loaded.load_state_dict(saved[0])
    for step in range(steps // 2, steps):
        give_gradients(others, step)
        loaded.step()
    for mine, its in zip(params, others, strict=True):
        assert torch.equal(mine, its)
    assert torch.equal(scale_of(optimizer), scale_of(loaded))


def test_a_skipped_step_steers_nothing(backend: str) -> None:
    params = weights()
    clip = torchclip.ClipByGlobalNorm(1.0, nonfinite="skip")
    optimizer = torchclip.LinBreg(params, lr=0.05, lam=0.1, target_sparsity=0.7, clip=clip, backend=backend)
    give_gradients(params, 0)
    optimizer.step()
    before = scale_of(optimizer).clone()
    give_gradients(params, 1)
    params[0].grad[0, 0] = math.nan
    optimizer.step()
    assert torch.equal(scale_of(optimizer), before)
    for parameter in params:
        parameter.grad = None
    optimizer.step()  # nor does one without gradients
    assert torch.equal(scale_of(optimizer), before)
    give_gradients(params, 2)
    optimizer.step()
    assert not torch.equal(scale_of(optimizer), before)


def test_a_loss_scale_that_overflows_steers_nothing(backend: str) -> None:
    params = weights()
    optimizer = torchclip.GRDA(params, lr=0.05, c=0.02, target_sparsity=0.7, backend=backend)
    give_gradients(params, 0)
    optimizer.found_inf = torch.ones(())  # as a GradScaler sets it
    optimizer.step()
    assert float(scale_of(optimizer)) == 1.0
    optimizer.found_inf = torch.zeros(())
    optimizer.step()
    assert float(scale_of(optimizer)) > 1.0


def test_a_target_may_come_and_change_while_training(backend: str) -> None:
    params = weights()
    optimizer = torchclip.LinBreg(params, lr=0.05, lam=0.1, backend=backend)
    scales = []
    for step, target in enumerate((None, 0.9, 0.9, 0.0, 0.0)):
        if target is not None:
            optimizer.param_groups[0]["target_sparsity"] = target
        give_gradients(params, step)
        optimizer.step()
        scales.append(float(scale_of(optimizer)) if target is not None else 1.0)
        assert optimizer.backend == backend and optimizer.metrics().keys() == {"sparsity"}
    assert scales[0] < scales[1] < scales[2] > scales[3] > scales[4]
    del optimizer.param_groups[0]["target_sparsity"]
    give_gradients(params, 5)
    optimizer.step()
    assert float(scale_of(optimizer)) == scales[-1]
    threshold = 0.1 * scales[-1]
    for parameter in params:
        drawn = optimizer.state[parameter]["sub_grad"]
        expected = drawn.sign() * (drawn.abs() - threshold).clamp(min=0)
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("forget_graphs")
def test_compiled_steps_are_steered_too() -> None:
    ended = []
    for compiled in (False, True):
        params = weights(1)
        optimizer = torchclip.LinBreg(params, lr=0.05, lam=0.1, target_sparsity=0.7, backend="reference")
        step = torch.compile(optimizer.step, backend="eager", fullgraph=True) if compiled else optimizer.step
        for number in range(4):
            give_gradients(params, number)
            step()
        ended.append((params[0].detach(), scale_of(optimizer).clone()))
    torch.testing.assert_close(*ended)
    assert float(ended[1][1]) != 1.0


@pytest.mark.parametrize("target", [1.0, -0.1, math.nan, "0.5"])
def test_targets_out_of_range(target: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="target_sparsity"):
        torchclip.LinBreg(weights(), lr=0.1, lam=0.1, target_sparsity=target)
    optimizer = torchclip.LinBreg(weights(), lr=0.1, lam=0.1, target_sparsity=0.5)
    optimizer.param_groups[0]["target_sparsity"] = target
    give_gradients(optimizer.param_groups[0]["params"], 0)
    with pytest.raises((ValueError, TypeError), match="target_sparsity"):
        optimizer.step()


def test_rules_without_thresholds_refuse_a_target() -> None:
    for cls in (torchclip.SGD, torchclip.AdamW, torchclip.AdaLoss):
        with pytest.raises(TypeError, match="'target_sparsity': its rule has no threshold to steer; use GRDA"):
            cls(weights(), lr=0.1, target_sparsity=0.5)
    with pytest.raises(ValueError, match="c=0 makes none: give it above 0"):
        torchclip.GRDA(weights(), lr=0.1, target_sparsity=0.5)


def test_under_other_rules_the_key_is_the_users_own(backend: str) -> None:
    stepped = []
    for own in ({}, {"target_sparsity": "not a number"}):
        params = weights()
        optimizer = torchclip.SGD(params, lr=0.1, clip=1.0, backend=backend)
        optimizer.param_groups[0].update(own)
        give_gradients(params, 0)
        optimizer.step()
        assert "shared" not in optimizer.param_groups[0]
        assert optimizer.state_dict()["param_groups"][0].items() >= own.items()
        stepped.append([parameter.detach() for parameter in params])
    torch.testing.assert_close(*stepped, rtol=0, atol=0)


def test_a_scale_that_is_none_is_refused() -> None:
    optimizer = torchclip.LinBreg(weights(), lr=0.1, lam=0.1, target_sparsity=0.5)
    saved = optimizer.state_dict()
    saved["param_groups"][0]["shared"]["threshold_scale"] = torch.tensor(-1.0)
    with pytest.raises(ValueError, match="threshold_scale.*finite number above 0"):
        optimizer.load_state_dict(saved)


@pytest.mark.parametrize("as_tensor", [False, True], ids=["number", "tensor"])
def test_a_group_that_cannot_move_keeps_its_scale(backend: str, as_tensor: bool) -> None:
    """So that a step which changes nothing, as torch.distributed.checkpoint takes one to have state made, does not."""
    params = weights(2)
    optimizer = RULES["lin_breg"](params, target_sparsity=0.5, backend=backend)
    for step in range(3):
        give_gradients(params, step)
        optimizer.step()
    scale, values = float(scale_of(optimizer)), [parameter.detach().clone() for parameter in params]
    assert scale > 1.0
    optimizer.param_groups[0] |= {"lr": torch.zeros(1) if as_tensor else 0.0, "momentum": 0.0}
    for parameter in params:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert float(scale_of(optimizer)) == scale
    torch.testing.assert_close([parameter.detach() for parameter in params], values, rtol=0, atol=0)


@pytest.mark.parametrize("name", RULES)
def test_a_group_without_a_threshold_keeps_its_scale(name: str, backend: str) -> None:
    """Else it would grow unseen, and be there at once when a schedule gives the group a threshold."""
    params = weights(2)
    optimizer = RULES[name](params, target_sparsity=0.5, backend=backend)
    key, scales = "c" if name == "grda" else "lam", []
    for step, threshold in enumerate((0.1, 0.0, torch.zeros(1), 0.1)):
        optimizer.param_groups[0][key] = threshold
        give_gradients(params, step)
        optimizer.step()
        scales.append(float(scale_of(optimizer)))
    assert 1.0 < scales[0] == scales[1] == scales[2] < scales[3]


def test_parameters_without_a_gradient_do_not_count(backend: str) -> None:
    params = weights()
    params[1].requires_grad_(False)
    optimizer = torchclip.LinBreg(params, lr=0.05, lam=0.1, target_sparsity=NEAR, backend=backend)
    by_hand = 1.0
    for step in range(6):
        give_gradients(params, step)
        params[1].grad = None
        stepping = [params[0], params[2]] if step % 2 else [params[2]]
        params[0].grad = params[0].grad if step % 2 else None
        zeros = sum(int((parameter == 0).sum()) for parameter in stepping) / sum(p.numel() for p in stepping)
        by_hand *= moved(NEAR, zeros)
        optimizer.step()
        assert float(scale_of(optimizer)) == pytest.approx(by_hand, rel=1e-6)
