"""Every scheduler of torch.optim: ours under it does what torch's optimizer does under it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler as schedulers
from torch.optim.swa_utils import SWALR, AveragedModel

import torchclip
from builders import OPTIMIZERS, copies_of, draw_gradients, leaves

STEPS = 9

Make = Callable[[torch.optim.Optimizer], Any]

SCHEDULERS: dict[str, Make] = {
    "LambdaLR": lambda o: schedulers.LambdaLR(o, lambda step: 0.9**step),
    "MultiplicativeLR": lambda o: schedulers.MultiplicativeLR(o, lambda step: 0.9),
    "StepLR": lambda o: schedulers.StepLR(o, 2, 0.5),
    "MultiStepLR": lambda o: schedulers.MultiStepLR(o, [2, 5], 0.5),
    "ConstantLR": lambda o: schedulers.ConstantLR(o, 0.5, 3),
    "LinearLR": lambda o: schedulers.LinearLR(o, 0.5, total_iters=4),
    "ExponentialLR": lambda o: schedulers.ExponentialLR(o, 0.9),
    "CosineAnnealingLR": lambda o: schedulers.CosineAnnealingLR(o, 5, 0.01),
    "CosineAnnealingWarmRestarts": lambda o: schedulers.CosineAnnealingWarmRestarts(o, 3, 2),
    "CyclicLR": lambda o: schedulers.CyclicLR(o, 0.01, 0.2, 2, cycle_momentum=True),
    "OneCycleLR": lambda o: schedulers.OneCycleLR(o, 0.2, total_steps=STEPS + 1, cycle_momentum=True),
    "PolynomialLR": lambda o: schedulers.PolynomialLR(o, 5),
    "ReduceLROnPlateau": lambda o: schedulers.ReduceLROnPlateau(o, factor=0.5, patience=0),
    "SequentialLR": lambda o: schedulers.SequentialLR(
        o, [schedulers.ConstantLR(o, 0.1, 2), schedulers.ExponentialLR(o, 0.8)], [2]
    ),
    "ChainedScheduler": lambda o: schedulers.ChainedScheduler(
        [schedulers.ConstantLR(o, 0.1, 2), schedulers.ExponentialLR(o, 0.8)]
    ),
    "SWALR": lambda o: SWALR(o, 0.05, anneal_epochs=4),
}

PAIRS: dict[str, tuple[type[torch.optim.Optimizer], type[torch.optim.Optimizer], dict[str, Any]]] = {
    "sgd": (torchclip.SGD, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    "adamw": (torchclip.AdamW, torch.optim.AdamW, {"lr": 0.1}),  # whose betas a cycle of momentum changes
}


def advance(scheduler: Any, step: int) -> None:
    """One step; a plateau is one in which the loss stays."""
    if isinstance(scheduler, schedulers.ReduceLROnPlateau):
        scheduler.step(1.0)
    else:
        scheduler.step()


def test_every_scheduler_is_here() -> None:
    public = {name for name in schedulers.__all__ if inspect.isclass(getattr(schedulers, name))}
    assert public - {"LRScheduler"} == SCHEDULERS.keys() - {"SWALR"}


@pytest.mark.parametrize("optimizer", PAIRS)
@pytest.mark.parametrize("name", SCHEDULERS)
def test_agrees_with_torch(name: str, optimizer: str, backend: str) -> None:
    cls, torch_cls, options = PAIRS[optimizer]
    params = leaves()
    copies = copies_of(params)
    ours, theirs = cls(params, **options, backend=backend), torch_cls(copies, **options)
    pair = [SCHEDULERS[name](made) for made in (ours, theirs)]
    rates = set()
    for step in range(STEPS):
        draw_gradients(step, params, copies)
        for made, scheduler in zip((ours, theirs), pair):
            made.step()
            advance(scheduler, step)
        for mine, other in zip(ours.param_groups, theirs.param_groups):
            assert mine["lr"] == other["lr"]
            rates.add(float(mine["lr"]))
    assert len(rates) > 1
    for p, q in zip(params, copies):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_schedule_on_every_optimizer_is_that_of_written_rates(name: str, backend: str) -> None:
    """As if the rate of each step were written by hand, with a tensor for the rate too."""
    cls, options = OPTIMIZERS[name]
    sets = [leaves()]
    sets += [copies_of(sets[0]) for _ in range(2)]
    scheduled, written = (cls(params, **options, backend=backend) for params in sets[:2])
    with_tensor = cls(sets[2], **{**options, "lr": torch.tensor(options["lr"], dtype=torch.float64)}, backend=backend)
    scheduler, of_tensor = (schedulers.CosineAnnealingLR(made, 6) for made in (scheduled, with_tensor))
    for step in range(6):
        draw_gradients(step, *sets)
        written.param_groups[0]["lr"] = float(scheduler.get_last_lr()[0])
        for made in (scheduled, written, with_tensor):
            made.step(loss=1.0)
        scheduler.step()
        of_tensor.step()
    for a, b, c in zip(*sets):
        assert torch.equal(a, b)
        torch.testing.assert_close(a, c)


def test_averaged_model_and_swa(backend: str) -> None:
    torch.manual_seed(2)
    net = torch.nn.Linear(4, 3)
    optimizer = torchclip.SGD(net.parameters(), lr=0.1, momentum=0.9, clip=1.0, backend=backend)
    average, scheduler = AveragedModel(net), SWALR(optimizer, 0.02, anneal_epochs=2)
    seen = []
    for step in range(4):
        optimizer.zero_grad()
        net(torch.randn(5, 4, generator=torch.Generator().manual_seed(step))).square().mean().backward()
        optimizer.step()
        scheduler.step()
        average.update_parameters(net)
        seen.append(net.weight.detach().clone())
    torch.testing.assert_close(average.module.weight, torch.stack(seen).mean(0))
    assert optimizer.param_groups[0]["lr"] == 0.02
