"""set_grad_norm: a norm that one step takes in place of its own."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import torchclip

pytestmark = pytest.mark.parametrize("backend", ["reference", "cpu"], indirect=True)


def made(backend: str) -> tuple[torchclip.SGD, torch.nn.Parameter]:
    parameter = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    parameter.grad = torch.tensor([3.0, 4.0])
    optimizer = torchclip.SGD([parameter], lr=1.0, clip=1.0, backend=backend)
    optimizer.step()
    return optimizer, parameter


def test_a_norm_is_that_of_one_step_whatever_comes_of_it(backend: str) -> None:
    optimizer, parameter = made(backend)

    def fails() -> float:
        raise ArithmeticError

    for kind in ("gradient", "closure"):
        optimizer.set_grad_norm(torch.tensor(100.0))
        if kind == "gradient":
            parameter.grad = torch.ones(2).to_sparse()
            with pytest.raises(RuntimeError, match="sparse gradient"):
                optimizer.step()
        else:
            with pytest.raises(ArithmeticError):
                optimizer.step(fails)
        parameter.grad = torch.tensor([3.0, 4.0])
        optimizer.step()
        assert float(optimizer.clip_factor) == pytest.approx(0.2)


def test_a_step_that_a_hook_does_not_let_begin_has_used_it_up(backend: str) -> None:
    """As it has a loss: the next step takes neither."""
    optimizer, _ = made(backend)

    def refuse(*_: Any) -> None:
        raise ArithmeticError

    hook = optimizer.register_step_pre_hook(refuse)
    optimizer.set_grad_norm(torch.tensor(100.0))
    optimizer.loss = 3.0
    with pytest.raises(ArithmeticError):
        optimizer.step()
    assert optimizer.loss is None
    hook.remove()
    optimizer.step()
    assert float(optimizer.clip_factor) == pytest.approx(0.2)
    hook = optimizer.register_step_pre_hook(lambda *_: optimizer.set_grad_norm(torch.tensor(100.0)))
    optimizer.step()  # what a hook gives is taken
    assert float(optimizer.clip_factor) == pytest.approx(0.01)


def test_of_one_compiled_step_too(backend: str) -> None:
    optimizer, parameter = made(backend)
    step = torch.compile(optimizer.step, backend="eager")
    step()
    assert float(optimizer.clip_factor) == pytest.approx(0.2)
    optimizer.set_grad_norm(torch.tensor(100.0))
    step()
    assert float(optimizer.clip_factor) == pytest.approx(0.01)
    step()
    assert float(optimizer.clip_factor) == pytest.approx(0.2)
    optimizer.set_grad_norm(torch.tensor(100.0))
    parameter.grad = torch.ones(2).to_sparse()
    with pytest.raises(RuntimeError, match="sparse gradient"):
        step()
    parameter.grad = torch.tensor([3.0, 4.0])
    step()
    assert float(optimizer.clip_factor) == pytest.approx(0.2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_of_any_type(dtype: torch.dtype, backend: str) -> None:
    optimizer, _ = made(backend)
    optimizer.set_grad_norm(torch.tensor(5.125, dtype=dtype))
    optimizer.step()
    assert float(optimizer.clip_factor) == pytest.approx(1 / 5.125, rel=1e-6)


@pytest.mark.parametrize(
    "norm, exception, message",
    [
        (torch.tensor(-1.0), ValueError, r"got -1\.0: a norm is at least 0"),
        (torch.tensor(10), TypeError, r"got torch\.LongTensor: norm\.float\(\)"),
        (3.0, TypeError, r"got float: torch\.tensor\(float\(norm\)\)"),
    ],
)
def test_what_is_no_norm(norm: Any, exception: type[Exception], message: str, backend: str) -> None:
    optimizer, _ = made(backend)
    with pytest.raises(exception, match=message):
        optimizer.set_grad_norm(norm)


@pytest.mark.parametrize("first", [True, False], ids=["first", "later"])
def test_an_error_names_the_given_norm_alone(first: bool, backend: str) -> None:
    optimizer, parameter = made(backend)
    if first:
        optimizer.add_param_group({"params": torch.nn.Parameter(torch.ones(1))})
    optimizer.clip = torchclip.ClipByGlobalNorm(1.0, nonfinite="error")
    for norm in (torch.nan, torch.inf):
        for gradient in (torch.ones(2), torch.full((2,), torch.inf)):
            parameter.grad = gradient
            optimizer.set_grad_norm(torch.tensor(norm))
            with pytest.raises(
                RuntimeError, match=rf"^set_grad_norm\(\) gave the step a norm of {norm}, and"
            ) as caught:
                optimizer.step()
            assert "gradient" not in str(caught.value)
    with pytest.raises(
        RuntimeError, match="^the gradient norm is not finite, .*; not finite: parameter 0 of"
    ) as caught:
        optimizer.step()
    assert "set_grad_norm" not in str(caught.value)


class OnAnotherDevice(torch.Tensor):
    """A tensor of the CPU that says to be on a GPU."""

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return torch.device("cuda")


def test_a_negative_norm_that_is_not_waited_for_has_no_sign(backend: str) -> None:
    optimizer, _ = made(backend)
    optimizer.set_grad_norm(torch.tensor(-10.0).as_subclass(OnAnotherDevice))
    assert float(optimizer._last.given_norm) == 10.0


@pytest.mark.parametrize("kind", ["compiled_without_gradients", "within_averaged"])
def test_of_a_step_that_is_none(kind: str, backend: str) -> None:
    parameter = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    extensions = (torchclip.WeightEMA(decay=0.5),)
    optimizer = torchclip.SGD([parameter], lr=1.0, clip=1.0, extensions=extensions, backend=backend)
    parameter.grad = torch.tensor([3.0, 4.0])
    optimizer.step()
    optimizer.set_grad_norm(torch.tensor(100.0))
    if kind == "within_averaged":
        with optimizer.averaged(), pytest.raises(RuntimeError, match="within averaged"):
            optimizer.step()
    else:
        parameter.grad = None
        torch.compile(optimizer.step, backend="eager")()
        parameter.grad = torch.tensor([3.0, 4.0])
    optimizer.step()
    assert float(optimizer.clip_factor) == pytest.approx(0.2)
