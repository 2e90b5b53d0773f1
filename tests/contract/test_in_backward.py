"""Optimizers in the backward pass: steps in hooks on gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.distributed.optim import _apply_optimizer_in_backward

import torchclip
from builders import OPTIMIZERS, assert_same_params

PER_PARAMETER: dict[str, tuple[type[torch.optim.Optimizer], dict[str, Any]]] = {
    **{
        name: (cls, options)
        for name, (cls, options) in OPTIMIZERS.items()
        if not cls.spec.clips_itself and cls is not torchclip.AdaLoss
    },
    "mix_clip_tensor": (torchclip.MixClip, {"lr": 0.5, "gamma": 2.0, "momentum": 0.9, "scope": "tensor"}),
    "ada_grad_norm_tensor": (torchclip.AdaGradNorm, {"lr": 1.0, "scope": "tensor"}),
    "ada_grad_norm_row": OPTIMIZERS["ada_grad_norm_row"],
    "sgd_tensor_norm": (torchclip.SGD, {"lr": 0.1, "momentum": 0.9, "clip": torchclip.ClipByTensorNorm(0.5)}),
    "adamw_value": (torchclip.AdamW, {"lr": 0.1, "clip": torchclip.ClipByValue(0.1)}),
    "adamw_adaptive": (torchclip.AdamW, {"lr": 0.1, "clip": torchclip.AdaptiveGradientClip(0.1)}),
}
"""What looks at one parameter at a time."""

OVER_MANY: dict[str, tuple[type[torch.optim.Optimizer], dict[str, Any], str]] = {
    "global_norm": (torchclip.SGD, {"lr": 0.1, "clip": 1.0}, "ClipByTensorNorm"),
    "group_norm": (torchclip.AdamW, {"clip": torchclip.ClipByGlobalNorm(1.0, scope="group")}, "ClipByTensorNorm"),
    "auto_clip": (torchclip.AdamW, {"clip": torchclip.AutoClip()}, "ClipByTensorNorm"),
    "z_clip": (torchclip.AdamW, {"clip": torchclip.ZClip()}, "ClipByTensorNorm"),
    "mix_clip": (torchclip.MixClip, {"lr": 0.5, "gamma": 2.0}, "scope='tensor'"),
    "normalized_sgd": (torchclip.NormalizedSGD, {"lr": 0.5, "scope": "group"}, "scope='tensor'"),
    "ada_grad_norm": (torchclip.AdaGradNorm, {"lr": 0.5}, "scope='tensor'"),
}


def model() -> torch.nn.Module:
    torch.manual_seed(5)
    return torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))


def loss_of(net: torch.nn.Module, step: int) -> torch.Tensor:
    return net(torch.randn(8, 6, generator=torch.Generator().manual_seed(step))).square().sum()


def trained_as_usual(cls: type[torch.optim.Optimizer], options: dict[str, Any], backend: str | None) -> torch.nn.Module:
    net = model()
    optimizer = cls(net.parameters(), **options, backend=backend)
    for step in range(4):
        optimizer.zero_grad()
        loss_of(net, step).backward()
        optimizer.step()
    return net


@pytest.mark.parametrize("name", PER_PARAMETER)
def test_a_hook_on_every_gradient(name: str, backend: str) -> None:
    cls, options = PER_PARAMETER[name]
    net = model()
    optimizer = cls(net.parameters(), **options, backend=backend)

    def step_and_forget(param: torch.Tensor) -> None:
        optimizer.step()
        param.grad = None

    for param in net.parameters():
        param.register_post_accumulate_grad_hook(step_and_forget)
    for step in range(4):
        loss_of(net, step).backward()
    assert all(param.grad is None for param in net.parameters())
    expected = trained_as_usual(cls, options, backend)
    for ours, theirs in zip(net.parameters(), expected.parameters()):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", PER_PARAMETER)
def test_torchs_own_helper(name: str) -> None:
    cls, options = PER_PARAMETER[name]
    net = model()
    _apply_optimizer_in_backward(cls, net.parameters(), options)
    for step in range(4):
        loss_of(net, step).backward()
    assert_same_params(list(net.parameters()), list(trained_as_usual(cls, options, None).parameters()))


EXTENSIONS = (torchclip.Lookahead(k=2), torchclip.LRDropout(0.5), torchclip.GradientNoise(0.1))


def test_an_optimizer_for_each_parameter_counts_its_steps() -> None:
    net, single = model(), model()
    options = {"lr": 0.1, "extensions": EXTENSIONS[:1], "step_size": torchclip.SqrtDecay()}
    _apply_optimizer_in_backward(torchclip.SGD, net.parameters(), options)
    optimizer = torchclip.SGD(single.parameters(), **options)
    for step in range(4):
        loss_of(net, step).backward()
        optimizer.zero_grad()
        loss_of(single, step).backward()
        optimizer.step()
    assert_same_params(list(net.parameters()), list(single.parameters()))


@pytest.mark.parametrize("extension", EXTENSIONS, ids=lambda extension: type(extension).__name__)
def test_steps_that_are_counted_are_refused_where_each_counts_one_parameter(extension: Any) -> None:
    net = model()
    optimizer = torchclip.SGD(net.parameters(), lr=0.1, extensions=(extension,))
    for param in net.parameters():
        param.register_post_accumulate_grad_hook(lambda param: optimizer.step())
    with pytest.raises(RuntimeError, match="go by the number of steps: make an optimizer for each parameter"):
        loss_of(net, 0).backward()


@pytest.mark.parametrize("name", OVER_MANY)
def test_a_norm_over_several_parameters_is_refused(name: str, backend: str) -> None:
    cls, options, remedy = OVER_MANY[name]
    net = model()
    optimizer = cls(net.parameters(), **options, backend=backend)
    hooks = [param.register_post_accumulate_grad_hook(lambda param: optimizer.step()) for param in net.parameters()]
    before = [param.detach().clone() for param in net.parameters()]
    with pytest.raises(RuntimeError, match="within backward") as raised:
        loss_of(net, 0).backward()
    assert remedy in str(raised.value)
    assert all(torch.equal(param, start) for param, start in zip(net.parameters(), before))
    assert not optimizer.state
    for hook in hooks:
        hook.remove()
    optimizer.zero_grad()
    loss_of(net, 0).backward()
    optimizer.step()  # and works after it
    assert not torch.equal(next(net.parameters()), before[0])
