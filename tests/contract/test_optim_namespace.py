"""``torchclip.optim`` in the place of ``torch.optim``: the same names and training, or a refusal with the remedy."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

import torchclip
from torchclip import optim, optimizers

TORCHS = sorted({*torch.optim.__all__, *(name for name in dir(torch.optim) if not name.startswith("_"))})
"""Every public name of torch.optim."""

PASSED_ON = ("Optimizer", "lr_scheduler", "swa_utils")
"""What is torch's own in either namespace."""

NAMESAKES = [name for name in TORCHS if name in optimizers.__all__]


@pytest.mark.parametrize("name", TORCHS)
def test_a_name_of_torch_is_ours_or_refused_with_the_remedy(name: str) -> None:
    if name in PASSED_ON:
        assert getattr(optim, name) is getattr(torch.optim, name)
    elif name in optimizers.__all__:
        assert getattr(optim, name) is getattr(optimizers, name)
        assert getattr(optim, name) is not getattr(torch.optim, name)
    else:
        assert name not in dir(optim) and not hasattr(optim, name)
        with pytest.raises(AttributeError, match=rf"use torch\.optim\.{name}\b"):
            getattr(optim, name)


def test_a_refused_optimizer_says_how_to_clip_with_it() -> None:
    with pytest.raises(AttributeError, match=r"no LBFGS .* torch\.optim\.LBFGS, with torchclip\.clip_grad_norm_"):
        _ = optim.LBFGS
    with pytest.raises(ImportError, match=r"no SparseAdam .* torch\.optim\.SparseAdam, with"):
        from torchclip.optim import SparseAdam  # noqa: F401


@pytest.mark.parametrize("name", ["AdamX", "clip_grad_norm_", "_functional", "__path__"])
def test_a_name_that_is_nowhere(name: str) -> None:
    with pytest.raises(AttributeError, match=rf"module 'torchclip\.optim' has no attribute '{name}'; it has .*AdamW"):
        getattr(optim, name)


def test_every_optimizer_of_ours_is_here() -> None:
    assert {*optim.__all__} == {*optimizers.__all__, *PASSED_ON} == {*dir(optim)}
    assert len(optim.__all__) == len(set(optim.__all__))
    for name in optimizers.__all__:
        assert issubclass(getattr(optim, name), torchclip.step.fused_optimizer.FusedOptimizer)


def test_star_import() -> None:
    namespace: dict[str, Any] = {}
    exec("from torchclip.optim import *", namespace)
    assert {name for name in namespace if not name.startswith("__")} == set(optim.__all__)


def test_import_forms_of_a_script() -> None:
    """In a fresh interpreter, where nothing has imported the module yet."""
    script = """
import torchclip.optim as first
from torchclip import optim as second
from torchclip.optim import AdamW, Optimizer, lr_scheduler
import torch
assert first is second and AdamW is second.AdamW and issubclass(AdamW, Optimizer)
assert Optimizer is torch.optim.Optimizer and lr_scheduler is torch.optim.lr_scheduler
"""
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr


def regression() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """A small network and what it is to learn, the same at every call; in float64, where rounding hides little."""
    generator = torch.Generator().manual_seed(3)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1)).double()
    inputs = torch.randn(64, 4, generator=generator, dtype=torch.float64)
    return model, inputs, inputs.prod(dim=1, keepdim=True) + inputs[:, :1]


def script(
    optim: ModuleType, name: str, steps: int, **options: Any
) -> tuple[list[float], list[float], list[torch.Tensor]]:
    """A training script as people write it, with either library's ``optim``: losses, rates, parameters, averages."""
    model, inputs, targets = regression()
    optimizer: optim.Optimizer = getattr(optim, name)(model.parameters(), **options)
    scheduler = optim.lr_scheduler.SequentialLR(
        optimizer,
        [
            optim.lr_scheduler.LinearLR(optimizer, start_factor=0.5, total_iters=3),
            optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps),
        ],
        milestones=[3],
    )
    averaged = optim.swa_utils.AveragedModel(model)
    losses, rates = [], []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(inputs), targets)
        loss.backward()
        optimizer.step()
        rates.append(optimizer.param_groups[0]["lr"])
        scheduler.step()
        averaged.update_parameters(model)
        losses.append(loss.item())
    return losses, rates, [p.detach() for p in (*model.parameters(), *averaged.parameters())]


@pytest.mark.parametrize("name", NAMESAKES)
def test_a_script_trains_alike_in_either_namespace(name: str) -> None:
    losses, rates, params = script(optim, name, steps=12, lr=0.02)
    their_losses, their_rates, their_params = script(torch.optim, name, steps=12, lr=0.02)
    assert losses[-1] < 0.99 * losses[0]
    assert rates == their_rates and len(set(rates)) > 9
    # torch rounds NAdam's product of momenta to float32 at every step; here it is rounded when it is stored.
    tolerance = 1e-6 if name == "NAdam" else 1e-9
    assert losses == pytest.approx(their_losses, rel=tolerance)
    for p, q in zip(params, their_params):
        torch.testing.assert_close(p, q, rtol=tolerance, atol=tolerance)


def test_a_script_with_a_clipped_step() -> None:
    """The one thing that a port adds, against the call that it replaces."""
    model, inputs, targets = regression()
    copy, _, _ = regression()
    ours = optim.SGD(model.parameters(), lr=0.5, momentum=0.9, clip=0.1)
    theirs = torch.optim.SGD(copy.parameters(), lr=0.5, momentum=0.9)
    cycle = {"max_lr": 0.5, "total_steps": 12}  # it writes momentum too
    schedulers = [optim.lr_scheduler.OneCycleLR(optimizer, **cycle) for optimizer in (ours, theirs)]
    for _ in range(11):
        for network, optimizer in ((model, ours), (copy, theirs)):
            optimizer.zero_grad()
            nn.functional.mse_loss(network(inputs), targets).backward()
        norm = nn.utils.clip_grad_norm_(copy.parameters(), 0.1)
        ours.step()
        theirs.step()
        assert ours.grad_norm.item() == pytest.approx(norm.item(), rel=1e-6)
        assert norm > 0.1  # clipped
        for scheduler in schedulers:
            scheduler.step()
    assert ours.param_groups[0]["momentum"] == theirs.param_groups[0]["momentum"] != 0.9
    for p, q in zip(model.parameters(), copy.parameters()):
        torch.testing.assert_close(p, q)


@pytest.mark.parametrize(
    "name, options",
    [
        ("MixClip", {"lr": 0.5, "gamma": 0.5, "momentum": 0.9}),
        ("SGDClip", {"lr": 0.5, "gamma": 0.5}),
        ("NormalizedSGD", {"lr": 0.1}),
        ("GRDA", {"lr": 0.05, "c": 0.001}),
        ("AdaGradNorm", {"lr": 1.0}),
        ("AdaGradNorm", {"lr": 0.1, "scope": "row"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_class_that_torch_lacks_trains_through_the_namespace(name: str, options: dict[str, Any]) -> None:
    losses, rates, _ = script(optim, name, steps=20, **options)
    assert losses[-1] < 0.9 * losses[0]
    assert len(set(rates)) > 10
