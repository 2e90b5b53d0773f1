"""Accelerate: a run with torchclip beside the same one with torch.optim and ``accelerator.clip_grad_norm_``."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import LinearLR
from torch.utils.data import DataLoader

import torchclip
from framework_runs import MAX_NORM, OPTIONS, Net, assert_alike, assert_alike_numbers, rows, values

accelerate = pytest.importorskip("accelerate", reason="accelerate is of the extra 'test-frameworks'")


@pytest.fixture(autouse=True)
def _one_state_a_test() -> Iterator[None]:
    from accelerate.state import AcceleratorState, GradientState, PartialState

    yield
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


class Run:
    """Of some epochs, with two parts to a step."""

    def __init__(self, cls: Any, **options: Any) -> None:
        self.accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
        model = Net()
        optimizer = cls(model.parameters(), **options)
        schedule = LinearLR(optimizer, total_iters=8)
        data = DataLoader(rows(), batch_size=4)
        self.own = optimizer
        self.model, self.optimizer, self.data, self.schedule = self.accelerator.prepare(
            model, optimizer, data, schedule
        )
        self.losses: list[float] = []
        self.norms: list[float] = []

    def train(self, epochs: int = 2, max_norm: float | None = None) -> Run:
        for _ in range(epochs):
            for batch in self.data:
                with self.accelerator.accumulate(self.model):
                    loss = self.model(**batch)["loss"]
                    self.accelerator.backward(loss)
                    self.losses.append(float(loss.detach()))
                    if max_norm is not None and self.accelerator.sync_gradients:
                        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), max_norm)
                        self.norms.append(float(norm))
                    self.own.loss = loss
                    self.optimizer.step()
                    if max_norm is None and self.accelerator.sync_gradients:
                        self.norms.append(float(self.own.grad_norm))
                    self.schedule.step()
                    self.optimizer.zero_grad()
        return self


@pytest.fixture
def of_torch() -> Run:
    return Run(torch.optim.AdamW, **OPTIONS).train(max_norm=MAX_NORM)


def test_losses_norms_and_parameters_are_those_of_torch(of_torch: Run) -> None:
    run = Run(torchclip.AdamW, **OPTIONS, clip=MAX_NORM).train()
    assert_alike_numbers(run.losses, of_torch.losses)
    assert_alike_numbers(run.norms, of_torch.norms)
    assert_alike(values(run.model), values(of_torch.model))


def test_a_run_is_resumed_in_the_middle(of_torch: Run, tmp_path: Path) -> None:
    first = Run(torchclip.AdamW, **OPTIONS, clip=MAX_NORM).train(epochs=1)
    first.accelerator.save_state(str(tmp_path))
    resumed = Run(torchclip.AdamW, **OPTIONS, clip=MAX_NORM)
    resumed.accelerator.load_state(str(tmp_path))
    resumed.train(epochs=1)
    assert_alike(values(resumed.model), values(of_torch.model))


def test_the_loss_is_taken_once_by_the_step_that_is_taken() -> None:
    """Of the optimizer itself: what is set on Accelerate's wrapper stays there."""
    run = Run(torchclip.AdaLoss, lr=0.1, b0=1.0, clip=math.inf)
    assert run.optimizer.optimizer is run.own
    run.train(epochs=1)
    b_squared = 1.0 + sum(run.losses[1::2])
    assert float(run.own.metrics()["lr_scale"]) == pytest.approx(1 / math.sqrt(b_squared), rel=1e-5)
    run.optimizer.loss = 1.0
    with pytest.raises(TypeError, match="of the optimizer itself and not of a wrapper"):
        run.optimizer.step()
