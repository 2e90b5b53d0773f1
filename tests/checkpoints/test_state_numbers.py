"""Numbers of state in other types: converted where that is exact, and refused by name elsewhere."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

import torchclip
from builders import REQUIRED, assert_same_params, build, copies_of, draw_gradients, leaves
from records import BACKENDS
from torchclip import Precision
from torchclip.rules.state_numbers import COUNT, exact_number

each_backend = pytest.mark.parametrize("backend", BACKENDS, indirect=True)

TAKEN: dict[str, Callable[[float], Any]] = {
    "int": int,
    "float": float,
    "int32": lambda number: torch.tensor(int(number), dtype=torch.int32),
    "uint8": lambda number: torch.tensor(int(number), dtype=torch.uint8),
    "bfloat16": lambda number: torch.tensor(number, dtype=torch.bfloat16),
    "float16_of_one": lambda number: torch.tensor([number], dtype=torch.float16),
    "float64": lambda number: torch.tensor(number, dtype=torch.float64),
    "matrix": lambda number: torch.full((1, 1), int(number)),
    "negated": lambda number: torch._neg_view(torch.tensor(-float(number))),
}
each_taken = pytest.mark.parametrize("change", TAKEN.values(), ids=TAKEN)


def pair(name: str, backend: str) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer, list[Any], list[Any]]:
    """Two optimizers after two steps each, alike."""
    params = leaves()
    copies = copies_of(params)
    both = build(name, params, backend=backend), build(name, copies, backend=backend)
    for step in range(2):
        draw_gradients(step, params, copies)
        for optimizer in both:
            optimizer.step()
    return *both, params, copies


@each_backend
@each_taken
@pytest.mark.parametrize("loads", [True, False], ids=["load", "by_hand"])
def test_a_step_count_in_another_type(loads: bool, change: Callable[[float], Any], backend: str) -> None:
    optimizer, twin, params, copies = pair("adamw", backend)
    if loads:
        saved = copy.deepcopy(optimizer.state_dict())
        for state in saved["state"].values():
            state["step"] = change(2)
        optimizer.load_state_dict(saved)
    else:
        for param in params:
            optimizer.state[param]["step"] = change(2)
    for step in (2, 3):
        draw_gradients(step, params, copies)
        optimizer.step()
        twin.step()
    assert_same_params(params, copies)
    for param in params:
        count = optimizer.state[param]["step"]
        assert count.dtype in (torch.float32, torch.float64) and count.shape == () and count == 4


def test_the_other_numbers(backend: str) -> None:
    """NAdam's product and gRDA's threshold as numbers of Python's, which are float64's."""
    for name, entry in (("nadam", "mu_product"), ("grda", "l1")):
        optimizer, twin, params, copies = pair(name, backend)
        for param in params:
            optimizer.state[param][entry] = optimizer.state[param][entry].item()
        draw_gradients(2, params, copies)
        optimizer.step()
        twin.step()
        assert_same_params(params, copies)


COUNTING = [cls for cls in REQUIRED if cls([torch.ones(1)], **REQUIRED[cls]).spec.scalars]
HELD: list[tuple[type[torch.optim.Optimizer], Precision | None]] = [
    *((cls, None) for cls in COUNTING),
    (torchclip.AdamW, torchclip.SplitMaster()),
    (torchclip.AdamW, torchclip.StochasticRounding()),
]


@pytest.mark.parametrize("cls, precision", HELD, ids=lambda value: getattr(value, "__name__", type(value).__name__))
def test_numbers_of_one_dimension_step_alike(
    cls: type[torch.optim.Optimizer], precision: Precision | None, backend: str
) -> None:
    """Those of shape [1] stay as they are, and promote nothing to their type."""
    dtype = torch.float32 if precision is None else torch.bfloat16
    params = [torch.nn.Parameter(param.detach().to(dtype)) for param in leaves()]
    copies = copies_of(params)
    options = {**REQUIRED[cls], "precision": precision, "backend": backend, "seed": 1}
    optimizer, twin = cls(params, **options), cls(copies, **options)
    for step in range(3):
        draw_gradients(step, params, copies)
        optimizer.step()
        twin.step()
        assert_same_params(params, copies)
        for param in params:
            held = optimizer.state[param]
            assert step == 0 or all(held[scalar.name].shape == (1,) for scalar in optimizer.spec.scalars)
            held |= {scalar.name: held[scalar.name].reshape(1) for scalar in optimizer.spec.scalars}


REFUSED: dict[str, tuple[Any, str]] = {
    "nan": (math.nan, "is nan; it must be a whole number from 0"),
    "negative": (-1, "is -1; it must be a whole number from 0"),
    "infinite": (torch.tensor(math.inf, dtype=torch.bfloat16), "is inf; it must be a whole number from 0"),
    "huge": (1e300, r"is 1e\+300; it must be a whole number from 0"),
    "part": (2.5, "is 2.5; it must be a whole number from 0"),
    "two": (torch.tensor([1, 2]), r"has shape \(2,\), and a whole number from 0"),
    "none": (torch.tensor([], dtype=torch.int64), r"has shape \(0,\), and a whole number from 0"),
    "complex": (torch.tensor(2j), "is torch.complex64"),
    "text": ("2", "is str, and a whole number from 0"),
    "negated": (torch._neg_view(torch.tensor(2.0)), "is -2.0; it must be a whole number from 0"),
    "list": ([2], "is list, and a whole number from 0"),
    "bool": (True, "is bool, and a whole number from 0"),
}


@each_backend
@pytest.mark.parametrize("value, words", REFUSED.values(), ids=REFUSED)
def test_what_is_no_count_of_steps(value: Any, words: str, backend: str) -> None:
    """In a checkpoint and by hand: it names the parameter, and nothing is written."""
    optimizer, _, params, _ = pair("adamw", backend)
    saved = copy.deepcopy(optimizer.state_dict())
    saved["state"][1]["step"] = value
    called = rf"state 'step' of parameter 1 of param group 0, of shape \(17,\) {words}"
    with pytest.raises((TypeError, ValueError), match=called):
        optimizer.load_state_dict(saved)
    optimizer.state[params[1]]["step"] = value
    before = [param.detach().clone() for param in params]
    with pytest.raises((TypeError, ValueError), match=called):
        optimizer.step()
    assert_same_params(params, before)


def test_a_count_that_float32_does_not_hold() -> None:
    """It is kept in float64."""
    for value in (2**24 + 1, torch.tensor(2**24 + 1)):
        number = exact_number("it", value, COUNT, torch.float32)
        assert number.dtype is torch.float64 and number.item() == 16_777_217
    assert exact_number("it", 2**24, COUNT, torch.float32).dtype is torch.float32


@each_backend
@pytest.mark.parametrize("held", [[1], "text", (), torch.ones(2)], ids=["list", "text", "tuple", "tensor"])
def test_state_that_is_no_dict(held: Any, backend: str) -> None:
    optimizer, _, params, _ = pair("adamw", backend)
    saved = copy.deepcopy(optimizer.state_dict())
    saved["state"][1] = held
    with pytest.raises(
        TypeError, match="the checkpoint's state of parameter 1 of param group 0.* and a dict is wanted"
    ):
        optimizer.load_state_dict(saved)
    optimizer.step()
    optimizer.state[params[1]] = held
    before = [param.detach().clone() for param in params]
    for _ in range(2):
        with pytest.raises(TypeError, match="state of parameter 1 .*and a dict is wanted"):
            optimizer.step()
    assert_same_params(params, before)
    optimizer.state[params[1]] = {}
    optimizer.step()


def test_sgd_keeps_a_step_that_is_not_its_own(backend: str) -> None:
    params = leaves()
    optimizer = torchclip.SGD(params, lr=0.1, momentum=0.9, backend=backend)
    optimizer.step()
    optimizer.state[params[0]]["step"] = "mine"
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.step()
    assert optimizer.state[params[0]]["step"] == "mine"


@each_backend
@pytest.mark.parametrize("scope", ["tensor", "row"])
def test_sums_of_ada_grad_norm(scope: str, backend: str) -> None:
    """One that is negative is refused. One that is not finite spoils its tensor or row alone, and loads."""
    params = leaves()
    optimizer = torchclip.AdaGradNorm(params, lr=0.1, scope=scope, backend=backend)
    draw_gradients(0, params)
    assert params[0].grad is not None
    params[0].grad.view(-1)[0] = math.inf
    optimizer.step()
    sums = [optimizer.state[param]["sum"].clone() for param in params]
    assert sums[0].isinf().any() and sums[1].isfinite().all()
    saved = copy.deepcopy(optimizer.state_dict())
    saved["state"][1]["sum"].neg_()
    with pytest.raises(ValueError, match="^state 'sum' of parameter 1 .* is negative in the checkpoint"):
        optimizer.load_state_dict(saved)
    saved["state"][1]["sum"].neg_()
    saved["state"][2]["sum"].fill_(math.nan)
    optimizer.load_state_dict(saved)
    for param, before in zip(params[:2], sums):
        assert torch.equal(optimizer.state[param]["sum"], before)
    assert optimizer.state[params[2]]["sum"].isnan().all()


@each_backend
@pytest.mark.parametrize("name", ["step", "l1"])
def test_a_number_without_a_value_is_refused_before_anything_is_written(name: str, backend: str) -> None:
    params = leaves()
    optimizer = torchclip.GRDA(params, lr=0.1, c=0.1, backend=backend)
    optimizer.step()
    draw_gradients(0, params)
    before = [param.detach().clone() for param in params]
    held = optimizer.state[params[1]]
    kept, held[name] = held[name], held[name].to("meta")
    with pytest.raises(TypeError, match=f"^state '{name}' of parameter 1 .* is on the meta device, and a "):
        optimizer.step()
    assert all(map(torch.equal, params, before)) and optimizer.state[params[0]]["step"] == 1
    held[name] = kept
    optimizer.step()


@each_backend
@pytest.mark.parametrize("scope", ["tensor", "row"])
def test_sums_of_another_shape_are_refused(scope: str, backend: str) -> None:
    params = leaves()
    optimizer = torchclip.AdaGradNorm(params, lr=0.1, scope=scope, backend=backend)
    optimizer.step()
    held = optimizer.state[params[0]]
    kept = held["sum"]
    for shape in ([1], [1, 1]) if scope == "tensor" else ([4], [1, 4], [4, 1, 1]):
        held["sum"] = kept.reshape(shape)
        with pytest.raises(RuntimeError, match=r"^state 'sum' of parameter 0 .* is of shape .* where \(.*\) is wanted"):
            optimizer.step()
    held["sum"] = kept
    optimizer.step()
