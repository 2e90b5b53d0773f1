"""``optimizer.loss = loss`` in front of a step that somebody else calls: taken once, by the next step."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import torchclip


def adaloss(backend: str, **options: Any) -> tuple[torch.nn.Parameter, torchclip.AdaLoss]:
    parameter = torch.nn.Parameter(torch.zeros(2))
    parameter.grad = torch.ones(2)
    return parameter, torchclip.AdaLoss([parameter], lr=1.0, b0=1.0, backend=backend, **options)


def scale(optimizer: torchclip.FusedOptimizer) -> float:
    return float(optimizer.metrics()["lr_scale"])


def test_the_next_step_takes_it_and_the_one_after_has_none(backend: str) -> None:
    parameter, optimizer = adaloss(backend)
    optimizer.loss = torch.tensor(3.0, requires_grad=True)
    assert optimizer.loss is not None and not optimizer.loss.requires_grad
    optimizer.step()
    assert scale(optimizer) == 0.5 and parameter.tolist() == [-0.5, -0.5]
    assert optimizer.loss is None
    with pytest.raises(TypeError, match=r"step\(\) got none: .* optimizer.loss = loss before it"):
        optimizer.step()
    assert parameter.tolist() == [-0.5, -0.5]


def test_it_goes_before_a_closures_and_an_argument_before_it(backend: str) -> None:
    _, optimizer = adaloss(backend)
    optimizer.loss = 3.0
    assert optimizer.step(lambda: 100.0) == 100.0
    assert scale(optimizer) == 0.5
    optimizer.loss = 100.0
    optimizer.step(loss=12.0)
    assert scale(optimizer) == 0.25 and optimizer.loss is None


def test_the_last_one_handed_over_counts(backend: str) -> None:
    _, optimizer = adaloss(backend)
    optimizer.loss = 100.0
    optimizer.loss = 3.0
    optimizer.step()
    assert scale(optimizer) == 0.5
    optimizer.loss, optimizer.loss = 100.0, None
    optimizer.step(lambda: 12.0)
    assert scale(optimizer) == 0.25


def test_it_waits_through_a_load_and_a_new_group(backend: str) -> None:
    _, optimizer = adaloss(backend)
    saved = optimizer.state_dict()
    optimizer.loss = 3.0
    optimizer.load_state_dict(saved)
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))]})
    optimizer.step()
    assert scale(optimizer) == 0.5


def test_it_is_in_no_checkpoint(backend: str) -> None:
    _, optimizer = adaloss(backend)
    before = repr(optimizer.state_dict())
    optimizer.loss = 3.0
    assert repr(optimizer.state_dict()) == before


def test_a_step_that_needs_none_takes_it_too(backend: str) -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = torchclip.SGD([parameter], lr=0.1, backend=backend)
    optimizer.loss = 3.0
    optimizer.step()
    assert optimizer.loss is None


def test_one_that_is_no_loss_is_refused_once(backend: str) -> None:
    parameter, optimizer = adaloss(backend)
    optimizer.loss = torch.ones(2)
    with pytest.raises(ValueError, match="must be a scalar"):
        optimizer.step()
    assert parameter.tolist() == [0.0, 0.0] and optimizer.loss is None


@pytest.mark.usefixtures("forget_graphs")
def test_a_compiled_step_takes_it(backend: str) -> None:
    parameter, optimizer = adaloss(backend)
    optimizer.step(loss=3.0)
    step = torch.compile(optimizer.step, backend="eager")
    for loss, expected in ((12.0, 0.25), (48.0, 0.125)):
        optimizer.loss = torch.tensor(loss)
        step()
        assert scale(optimizer) == expected and optimizer.loss is None
    assert parameter.tolist() == [-0.875, -0.875]


@pytest.mark.parametrize("value", [0, 0.0, False])
def test_grda_takes_a_weight_decay_of_0(value: float, backend: str) -> None:
    """Which frameworks hand to every optimizer."""
    parameter = torch.nn.Parameter(torch.ones(2))
    groups = [{"params": [parameter], "weight_decay": 0.0}]
    optimizer = torchclip.GRDA(groups, lr=0.5, weight_decay=value, backend=backend)
    parameter.grad = torch.ones(2)
    optimizer.step()
    assert parameter.tolist() == [0.5, 0.5]


@pytest.mark.parametrize("value", [0.1, -0.1, float("nan"), "0", None])
def test_grda_takes_no_other(value: Any) -> None:
    for cls, needed in ((torchclip.GRDA, {}), (torchclip.LinBreg, {"lr": 0.1, "lam": 0.1})):
        with pytest.raises(ValueError, match=f"{cls.__name__} has no weight decay"):
            cls([torch.nn.Parameter(torch.ones(2))], **needed, weight_decay=value)
    with pytest.raises(ValueError, match="GRDA has no weight_decay"):
        torchclip.GRDA([{"params": [torch.nn.Parameter(torch.ones(2))], "weight_decay": value}])
