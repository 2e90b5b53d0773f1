"""numpy's numbers in the place of Python's: taken alike by every policy and argument, and kept as Python's own.

And what is no number, or an integer that only Python has.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import torchclip
from builders import fresh
from records import BACKENDS
from torchclip.policies.clip import POLICIES
from torchclip.policies.extensions import EXTENSIONS
from torchclip.rules.state_numbers import COUNT, exact_number
from torchclip.state.group_state import checked_shared

OTHERS = (
    torchclip.AdaLossStep,
    torchclip.SqrtDecay,
    torchclip.PolyakStep,
    torchclip.SkipSpikes,
    torchclip.Blockwise8bit,
    torchclip.StateDtype,
)
CHOSEN: dict[type, dict[str, Any]] = {
    torchclip.ClipByGlobalNorm: {"max_norm": 2.0},
    torchclip.ClipByTensorNorm: {"max_norm": 2.0},
    torchclip.ClipByValue: {"max_value": 2.0},
    torchclip.PolyakStep: {"growth": 2.0},
    torchclip.StateDtype: {"dtype": "bfloat16", "stochastic": True},
}
"""Fields without a default that is a number."""


TIMES = [np.timedelta64(5, "ns"), np.datetime64(5, "ns"), np.array(5, "m8[ns]")]


def numpys(value: Any) -> list[Any]:
    """The number in numpy's types that hold it; none for other values."""
    if isinstance(value, bool):
        return [np.bool_(value), np.array(value)]
    if isinstance(value, int):
        return [np.int64(value), np.uint16(value), np.array(value)]
    return [np.float64(value), np.float32(value), np.array(value)] if isinstance(value, float) else []


def fields_of(cls: type) -> list[tuple[type, str, Any]]:
    values = {each.name: each.default for each in dataclasses.fields(cls)} | CHOSEN.get(cls, {})
    return [(cls, name, value) for name, value in values.items() if numpys(value)]


FIELDS = [each for cls in (*POLICIES, *EXTENSIONS, *OTHERS) for each in fields_of(cls)]


@pytest.mark.parametrize("cls, name, value", FIELDS, ids=[f"{cls.__name__}-{name}" for cls, name, _ in FIELDS])
def test_a_field_of_a_policy(cls: type, name: str, value: Any) -> None:
    for given in numpys(value):
        policy = cls(**{**CHOSEN.get(cls, {}), name: given})
        held = getattr(policy, name)
        assert type(held) in (bool, int, float) and held == given
    if not isinstance(value, bool):
        with pytest.raises(TypeError, match=f"^{name}=np.True_ must be an? (integer|number)"):
            cls(**{**CHOSEN.get(cls, {}), name: np.True_})
    else:
        with pytest.raises(TypeError, match=f"^{name}=np.int64.1. must be True or False"):
            cls(**{**CHOSEN.get(cls, {}), name: np.int64(1)})
    if isinstance(value, int) and not isinstance(value, bool):
        with pytest.raises(TypeError, match=f"^{name}=np.float32.* must be an integer"):
            cls(**{name: np.float32(value)})


def test_what_is_no_scalar_is_told_the_remedy() -> None:
    for value in (torch.tensor(0.5), np.array([0.5])):
        with pytest.raises(TypeError, match=r"^p=.* must be a number, got \w+: hand over its \.item\(\)"):
            torchclip.LRDropout(value)
    flags = (np.True_, np.array([True]), torch.tensor(True))
    for value in (*flags, *TIMES, np.array([5], "m8[ns]"), np.ones(2), torch.ones(2), torch.tensor(1j), np.array([1j])):
        with pytest.raises(TypeError, match=r"^p=[\s\S]* must be a number, got \w+$"):  # whose item() is refused too
            torchclip.LRDropout(value)


def test_arguments_of_an_optimizer(backend: str) -> None:
    expected = torchclip.ClipByGlobalNorm(0.5)
    groups = [{"params": fresh(), "clip": np.float32(0.5)}, {"params": fresh()}]
    optimizer = torchclip.SGD(groups, clip=np.float32(0.5), seed=np.int64(7), backend=backend)
    assert optimizer.clip == expected and type(optimizer.clip.max_norm) is float
    optimizer.step()
    optimizer.clip = optimizer.param_groups[0]["clip"] = np.int32(2)
    assert optimizer.clip == torchclip.ClipByGlobalNorm(2.0)
    optimizer.step()
    with pytest.raises(TypeError, match="^clip=np.True_ must be None, a number"):
        torchclip.SGD(fresh(), clip=np.True_)
    with pytest.raises(TypeError, match="^seed=np.float64.* must be an integer"):
        torchclip.SGD(fresh(), seed=np.float64(7))


@pytest.mark.parametrize("loss", [np.float32(2.0), np.float64(2.0), np.int64(2), np.array(2.0)], ids=repr)
def test_the_loss_of_a_step(loss: Any, backend: str) -> None:
    optimizer = torchclip.SGD(fresh(), lr=0.1, step_size=torchclip.AdaLossStep(), backend=backend)
    optimizer.step(loss=loss)
    optimizer.step(lambda: loss)
    optimizer.loss = loss
    optimizer.step()
    assert float(optimizer.param_groups[0]["shared"]["b_squared"]) == 7.0


def test_a_checkpoint_needs_no_numpy(backend: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"step_size": torchclip.AdaLossStep(b0=np.float64(2.0)), "seed": np.uint32(3)}
    dropout = torchclip.GradientDropout(np.float32(0.5))
    optimizer = torchclip.SGD(fresh(), lr=np.float64(0.5), extensions=(dropout,), **options, backend=backend)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: np.float64(0.5) ** step)
    optimizer.step(loss=np.float64(1.0))
    scheduler.step()
    torch.save(optimizer.state_dict(), tmp_path / "saved.pt")
    (group,) = torch.load(tmp_path / "saved.pt", weights_only=True)["param_groups"]
    assert (group["lr"], group["initial_lr"]) == (0.25, 0.5)
    optimizer.load_state_dict(torch.load(tmp_path / "saved.pt", weights_only=True))


def test_own_values_of_groups_in_a_checkpoint(backend: str) -> None:
    own: dict[str, Any] = {"array": np.array(3.0), "date": np.datetime64(5, "ns"), "duration": np.timedelta64(5, "ns")}
    own |= {"list": [np.float64(3.0)], "dict": {"a": np.int64(1)}}
    numbers = {"wide": np.longdouble(0.5), "real": np.float32(0.5), "whole": np.uint8(5), "flag": np.True_}
    numbers |= {"complex": np.complex64(1j), "wide_complex": np.clongdouble(1j)}
    optimizer = torchclip.SGD([{"params": fresh(), **own, **numbers}], lr=0.1, backend=backend)
    (group,) = optimizer.state_dict()["param_groups"]
    assert all(group[name] is value for name, value in own.items())
    wanted = {"wide": float, "real": float, "whole": int, "flag": bool, "complex": complex, "wide_complex": complex}
    assert {name: type(group[name]) for name in numbers} == wanted
    assert all(group[name] == value for name, value in numbers.items())


def with_adaloss() -> torchclip.SGD:
    return torchclip.SGD(fresh(), step_size=torchclip.AdaLossStep())


@pytest.mark.parametrize("value", TIMES, ids=repr)
def test_dates_and_durations_are_no_numbers(value: Any) -> None:
    for call in (
        lambda: torchclip.SGD(fresh(), clip=value),
        lambda: torchclip.SGD(fresh(), seed=value),
        lambda: torchclip.ClipByGlobalNorm(value),
        lambda: torchclip.AutoClip(window=value),
    ):
        with pytest.raises(TypeError, match=r"^(clip|seed|max_norm|window)=.* must be (an?|None, a) (number|integer)"):
            call()
    with pytest.raises(ValueError, match="Invalid learning rate: .*; it must be a finite number"):
        torchclip.SGD(fresh(), lr=value)
    with pytest.raises(ValueError, match="Invalid beta parameter at index 0: .*; it must be at least 0"):
        torchclip.Adam(fresh(), betas=(value, 0.5))
    with pytest.raises(TypeError, match="the loss of SGD.step.. must be"):
        with_adaloss().step(loss=value)


class Text(str):
    """Text that says to be a number."""

    def __float__(self) -> float:
        return 0.5


NO_NUMBERS = {
    **{str(value.dtype): value for value in TIMES},
    "text": Text("0.5"),
    "array_of_text": np.array("0.5"),
    "object_of_text": np.array("0.5", dtype=object),
    "complex": np.complex64(0.5),
    "array_of_complex": np.array(0.5 + 0j),
}


COMPILED = ("text", "array_of_complex")
"""Those that stand for all where the step is compiled, which takes a second of each."""


@pytest.mark.parametrize(
    "value, compiled",
    [
        pytest.param(
            value,
            compiled,
            id=f"{name}-{'compiled' if compiled else 'eager'}",
            marks=[pytest.mark.thorough] if compiled and name not in COMPILED else [],
        )
        for name, value in NO_NUMBERS.items()
        for compiled in (False, True)
    ],
)
@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
@pytest.mark.usefixtures("forget_graphs")
def test_what_the_constructor_refuses_every_step_does(value: Any, compiled: bool, backend: str) -> None:
    if compiled and backend != "cpu":
        pytest.skip("the others read their groups by the same function there, or by what torch's compiler has traced")
    for key, given in (("lr", value), ("eps", value), ("amsgrad", value), ("betas", [0.5, value]), ("betas", b"\0\0")):
        with pytest.raises(ValueError) as first:
            torchclip.Adam(fresh(), **{key: given})
        optimizer = torchclip.Adam(fresh(1), backend=backend)
        step = torch.compile(optimizer.step, backend="eager") if compiled else optimizer.step
        step()
        (parameter,) = optimizer.param_groups[0]["params"]
        before = parameter.detach().clone()
        optimizer.param_groups[0][key] = given
        for _ in range(2):
            with pytest.raises(ValueError) as later:
                step()
            assert str(later.value) == str(first.value).replace("(Adam,", "(param group 0,")
        assert torch.equal(parameter, before) and optimizer.state[parameter]["step"] == 1


TOO_LARGE: dict[str, Callable[[int], object]] = {
    "max_norm": lambda number: torchclip.SGD(fresh(), clip=number),
    "max_value": torchclip.ClipByValue,
    "window": lambda number: torchclip.AutoClip(window=number),
    "percentile": lambda number: torchclip.AutoClip(percentile=-number),
    "the loss of SGD.step()": lambda number: with_adaloss().step(loss=number),
    "state 'step'": lambda number: exact_number("state 'step'", number, COUNT, torch.float32),
    "the number 'seed' of param group 0's \"shared\"": lambda number: checked_shared(0, {"shared": {"seed": number}}),
}


@pytest.mark.parametrize("name, call", TOO_LARGE.items(), ids=TOO_LARGE)
def test_an_integer_beyond_all_floats_is_named(name: str, call: Callable[[int], object]) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(name)} is an integer of 1329 bits, which is beyond all floats"):
        call(10**400)


LARGE: list[tuple[str, dict[str, Any]]] = [
    ("clip", {"clip": torchclip.ZClip(z_threshold=10**30)}),
    ("step_size", {"step_size": torchclip.AdaLossStep(b0=10**30)}),
    ("rows", {"clip": torchclip.AdaptiveGradientClip(eps=10**30)}),
]


@pytest.mark.parametrize("name, options", LARGE, ids=[name for name, _ in LARGE])
def test_an_integer_beyond_64_bits_is_a_float(name: str, options: dict[str, Any], backend: str) -> None:
    param = torch.nn.Parameter(torch.ones(3))
    optimizer = torchclip.SGD([param], lr=0.5, **options, backend=backend)
    for _ in range(2):
        param.grad = torch.ones(3)
        optimizer.step(loss=1.0)
    assert param.isfinite().all()


def test_numbers_of_state_in_a_checkpoint(backend: str) -> None:
    optimizer = torchclip.Adam(fresh(), lr=0.5, extensions=(torchclip.GradientDropout(),), backend=backend)
    optimizer.step()
    saved = optimizer.state_dict()
    for held in saved["state"].values():
        held["step"] = np.float32(4.0)
    saved["param_groups"][0]["shared"] = {"step": np.int64(4), "seed": np.int64(5)}
    optimizer.load_state_dict(saved)
    optimizer.step()
    assert {float(held["step"]) for held in optimizer.state.values()} == {5.0}
    shared = optimizer.param_groups[0]["shared"]
    assert (float(shared["step"]), int(shared["seed"])) == (5.0, 5)
