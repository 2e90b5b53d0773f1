"""Optimizers within the wrappers of Lightning, Fabric and Accelerate: the little of these that reaches an optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.amp import GradScaler

import torchclip


class Copied:
    """As Fabric's and Lightning's: a subclass of the optimizer's, which has its attributes of the time it was made."""

    def __init__(self, optimizer: Any) -> None:
        self.__dict__ = {key: value for key, value in optimizer.__dict__.items() if key != "step"}
        self.__class__ = type("Copied", (self.__class__, optimizer.__class__), {})
        self._wrapped = optimizer

    def step(self, closure: Any = None) -> Any:
        return self._wrapped.step(closure)


class LookedUp:
    """As their newer form: a subclass which looks up what it does not have itself."""

    def __init__(self, optimizer: Any) -> None:
        self._wrapped = optimizer
        self.__class__ = type("LookedUp", (self.__class__, optimizer.__class__), {})

    def step(self, closure: Any = None) -> Any:
        return self._wrapped.step(closure)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wrapped, name)


class Accelerated:
    """As Accelerate's: it takes a call of ``step`` for a step that was taken."""

    def __init__(self, optimizer: Any, scaler: GradScaler) -> None:
        self.optimizer, self.scaler, self.called = optimizer, scaler, False
        self.step_was_skipped = False
        self._plain = optimizer.step

        def patched(*arguments: Any, **options: Any) -> Any:
            self.called = True
            return self._plain(*arguments, **options)

        patched.__module__ = "accelerate.optimizer"
        self._patched = patched

    def step(self) -> None:
        self.called = False
        self.optimizer.step = self._patched
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.step = self._plain
        self.step_was_skipped = not self.called


def parameter() -> torch.nn.Parameter:
    made = torch.nn.Parameter(torch.zeros(2))
    made.grad = torch.tensor([3.0, 4.0])
    return made


@pytest.mark.parametrize("wrapper", [Copied, LookedUp])
def test_what_is_set_and_read_there_is_the_optimizers(wrapper: Callable[[Any], Any], backend: str) -> None:
    p = parameter()
    optimizer = torchclip.AdaGradNorm([p], lr=1.0, scope="tensor", clip=100.0, backend=backend)
    wrapped = wrapper(optimizer)
    wrapped.step()
    assert float(wrapped.grad_norm) == 5.0 and float(wrapped.clip_factor) == 1.0
    wrapped.clip = torchclip.ClipByGlobalNorm(2.5, nonfinite="skip")
    assert optimizer.clip == wrapped.clip == torchclip.ClipByGlobalNorm(2.5, nonfinite="skip")
    wrapped.step()
    assert float(wrapped.clip_factor) == float(optimizer.clip_factor) == pytest.approx(0.5, rel=1e-6)
    assert wrapped.metrics().keys() == optimizer.metrics().keys()
    assert wrapped.backend == backend and wrapped.backend_reason == optimizer.backend_reason
    assert not wrapped.step_was_skipped
    p.grad[0] = torch.inf
    wrapped.step()
    assert wrapped.step_was_skipped and optimizer.step_was_skipped
    if backend == "reference":
        p.grad[0] = 0.0
        wrapped.set_grad_norm(torch.tensor(5.0))
        wrapped.step()
        assert float(optimizer.grad_norm) == 5.0


def test_who_clips_gradients_hears_of_no_scaling_step(backend: str) -> None:
    """Lightning refuses to clip where the step undoes a scale, with bfloat16 too, which has none."""
    optimizer = torchclip.SGD([parameter()], lr=0.1, backend=backend)
    assert not getattr(optimizer, "_step_supports_amp_scaling", False)


def test_scaler_leaves_the_scale_to_the_step(backend: str) -> None:
    p = parameter()
    optimizer = torchclip.SGD([p], lr=1.0, backend=backend)
    scaler = GradScaler("cpu", init_scale=4.0)
    scaler.scale(torch.ones(()))
    scaler.step(optimizer)
    assert p.tolist() == [-0.75, -1.0] and p.grad.tolist() == [3.0, 4.0]  # which unscale_() would have written
    assert not optimizer.step_was_skipped
    p.grad[0] = torch.inf
    scaler.update()
    scaler.scale(torch.ones(()))
    scaler.step(optimizer)
    assert optimizer.step_was_skipped and p.tolist() == [-0.75, -1.0]


def test_accelerate_sees_a_skipped_step(backend: str) -> None:
    p = parameter()
    optimizer, scaler = torchclip.SGD([p], lr=1.0, backend=backend), GradScaler("cpu", init_scale=4.0)
    wrapped = Accelerated(optimizer, scaler)
    scaler.scale(torch.ones(()))
    wrapped.step()
    assert not wrapped.step_was_skipped and p.tolist() == [-0.75, -1.0]
    p.grad[0] = torch.inf
    scaler.scale(torch.ones(()))
    wrapped.step()
    assert wrapped.step_was_skipped and p.tolist() == [-0.75, -1.0]


def test_nothing_was_skipped_before_the_first_step(backend: str) -> None:
    assert not torchclip.SGD([parameter()], lr=0.1, backend=backend).step_was_skipped


@pytest.mark.parametrize("wrapper", [Copied, LookedUp])
def test_a_loss_set_there_is_the_optimizers(wrapper: Callable[[Any], Any], backend: str) -> None:
    optimizer = torchclip.AdaLoss([parameter()], lr=1.0, backend=backend)
    wrapped = wrapper(optimizer)
    wrapped.loss = 3.0
    assert optimizer.loss == wrapped.loss == 3.0
    wrapped.step()
    assert float(wrapped.metrics()["lr_scale"]) == 0.5 and optimizer.loss is None
