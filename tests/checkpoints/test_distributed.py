"""torch.distributed.checkpoint's way with optimizers, in one process."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.state_dict import (
    _init_optim_state,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

import torchclip
from builders import LOSS, OPTIMIZERS, assert_same_params

WITH_MEMORY: dict[str, tuple[type[torch.optim.Optimizer], dict[str, Any]]] = {
    "extensions": (
        torchclip.SGD,
        {"lr": 0.1, "extensions": (torchclip.Lookahead(k=3), torchclip.GradientNoise(0.01)), "seed": 3},
    ),
    "auto_clip": (torchclip.AdamW, {"clip": torchclip.AutoClip(50.0, window=4)}),
    "z_clip": (torchclip.AdamW, {"clip": torchclip.ZClip(warmup_steps=2)}),
    "sqrt_decay": (torchclip.SGD, {"lr": 0.1, "step_size": torchclip.SqrtDecay()}),
}
EVERY = {**OPTIMIZERS, **WITH_MEMORY}


def model() -> torch.nn.Module:
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Linear(5, 2))


def train(net: torch.nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        optimizer.zero_grad()
        inputs = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        net(inputs).square().mean().backward()
        optimizer.step(loss=LOSS)


@pytest.mark.parametrize("name", EVERY)
def test_initialising_the_state_changes_nothing_and_training_resumes(name: str, backend: str) -> None:
    cls, options = EVERY[name]
    first = model()
    optimizer = cls(first.parameters(), **options, backend=backend)
    train(first, optimizer, range(4))
    saved = copy.deepcopy(get_optimizer_state_dict(first, optimizer))

    second = model()
    second.load_state_dict(first.state_dict())
    loaded = cls(second.parameters(), **{**options, **({"seed": 9} if "seed" in options else {})}, backend=backend)
    _init_optim_state(loaded)  # a step with gradients and rates of zero
    assert all(map(torch.equal, second.parameters(), first.parameters()))  # a zero may change its sign
    set_optimizer_state_dict(second, loaded, saved)
    train(first, optimizer, range(4, 8))
    train(second, loaded, range(4, 8))
    assert_same_params(list(second.parameters()), list(first.parameters()))


def test_a_missing_loss_is_an_error_where_a_step_is_taken() -> None:
    optimizer = torchclip.AdaLoss(model().parameters(), lr=0.1)
    with pytest.raises(TypeError, match="goes by the loss"):
        optimizer.step()
