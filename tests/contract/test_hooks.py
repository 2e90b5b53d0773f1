"""Hooks around steps and checkpoints, for every optimizer."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
import torch

import torchclip
from builders import LOSS, build, each_optimizer, leaves


@pytest.mark.parametrize("base_first", [True, False])
@each_optimizer
def test_step_hooks_fire_once_in_classes_that_derive_from_one_another(name: str, base_first: bool) -> None:
    """torch wraps the ``step`` of a class when it is first made: a base may be wrapped already, or be wrapped later."""
    base: Any = type("Base", (type(build(name, leaves())),), {})
    derived: Any = type("Derived", (base,), {})
    options = {key: value for key, value in build(name, leaves()).defaults.items() if key in ("lr", "gamma", "lam")}
    order = (base, derived, base) if base_first else (derived, base, derived)
    for cls in order:
        fired: list[str] = []
        optimizer = cls(leaves(), **options)
        optimizer.register_step_pre_hook(lambda *_, fired=fired: fired.append("pre"))
        optimizer.register_step_post_hook(lambda *_, fired=fired: fired.append("post"))
        optimizer.step(loss=LOSS)
        optimizer.step(loss=LOSS)
        assert fired == ["pre", "post", "pre", "post"]


def test_a_pre_hook_may_change_the_arguments(backend: str) -> None:
    optimizer = torchclip.AdaLoss(leaves(), lr=0.5, backend=backend)
    seen: list[tuple[Any, Any]] = []
    optimizer.register_step_pre_hook(lambda _, args, kwargs: (args, {"loss": 3.0}))
    optimizer.register_step_post_hook(lambda _, args, kwargs: seen.append((args[1:], kwargs)))
    optimizer.step(loss=1.0)
    assert float(optimizer.param_groups[0]["shared"]["b_squared"]) == 4.0
    assert seen == [((), {"loss": 3.0})]
    bad = optimizer.register_step_pre_hook(lambda *_: 3)
    with pytest.raises(RuntimeError, match="must return None or a tuple"):
        optimizer.step(loss=1.0)
    bad.remove()
    optimizer.step(loss=1.0)


@each_optimizer
def test_state_dict_hooks(name: str, backend: str) -> None:
    optimizer = build(name, leaves(), backend=backend)
    optimizer.step(loss=LOSS)
    order: list[str] = []

    def scale(opt: torch.optim.Optimizer) -> None:
        opt.param_groups[0]["lr"] = 0.125
        order.append("pre")

    def replace(opt: torch.optim.Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
        order.append("post")
        return {**state_dict, "note": 1}

    def mark(opt: torch.optim.Optimizer, state_dict: dict[str, Any]) -> None:
        order.append("first post")
        state_dict["mark"] = 2

    handles = [
        optimizer.register_state_dict_pre_hook(scale),
        optimizer.register_state_dict_post_hook(replace),
        optimizer.register_state_dict_post_hook(mark, prepend=True),
    ]
    saved = optimizer.state_dict()
    assert order == ["pre", "first post", "post"]
    assert saved["param_groups"][0]["lr"] == 0.125 and saved["note"] == 1 and saved["mark"] == 2
    for handle in handles:
        handle.remove()
    assert optimizer.state_dict().keys() == {"state", "param_groups"} and len(order) == 3


@each_optimizer
def test_load_state_dict_hooks(name: str, backend: str) -> None:
    """A pre hook sees the caller's dict before anything is taken from it; a post hook, the optimizer ready to step."""
    params = leaves()
    optimizer = build(name, params, backend=backend)
    optimizer.step(loss=LOSS)
    saved = copy.deepcopy(optimizer.state_dict())
    order: list[str] = []

    def change(opt: torch.optim.Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
        order.append("pre")
        groups = [{**group, "lr": 0.125} for group in state_dict["param_groups"]]
        return {**state_dict, "param_groups": groups}

    def finish(opt: torch.optim.Optimizer) -> None:
        order.append("post")
        assert opt.param_groups[0]["lr"] == 0.125
        opt.param_groups[0]["lr"] = 0.25

    optimizer.register_load_state_dict_pre_hook(change)
    optimizer.register_load_state_dict_pre_hook(lambda *_: order.append("first pre"), prepend=True)
    optimizer.register_load_state_dict_post_hook(finish)
    optimizer.load_state_dict(saved)
    assert order == ["first pre", "pre", "post"]
    assert optimizer.param_groups[0]["lr"] == 0.25 and saved["param_groups"][0]["lr"] != 0.125
    optimizer.step(loss=LOSS)
    optimizer.load_state_dict(saved)
    assert len(order) == 6, "hooks were lost or doubled by loading"


class Dropped(Exception):
    """Raised by a hook."""


@each_optimizer
def test_a_hook_that_raises_leaves_no_step_and_no_hook_behind(name: str, backend: str) -> None:
    params = leaves()
    optimizer = build(name, params, backend=backend)

    def refuse(*_: Any) -> None:
        raise Dropped

    before = [param.detach().clone() for param in params]
    step_hook = optimizer.register_step_pre_hook(refuse)
    with pytest.raises(Dropped):
        optimizer.step(loss=LOSS)
    assert all(map(torch.equal, params, before))
    step_hook.remove()
    load_hook = optimizer.register_load_state_dict_pre_hook(refuse)
    count = len(optimizer._optimizer_load_state_dict_pre_hooks)
    with pytest.raises(Dropped):
        optimizer.load_state_dict(optimizer.state_dict())
    assert len(optimizer._optimizer_load_state_dict_pre_hooks) == count
    load_hook.remove()
    optimizer.step(loss=LOSS)
    assert not any(map(torch.equal, params, before))


def test_a_step_of_a_subclass_is_not_passed_by() -> None:
    taken: list[str] = []

    class Own(torchclip.SGD):
        def step(self, closure: Any = None, *, loss: Any = None) -> Any:
            taken.append("own")
            return super().step(closure, loss=loss)

    parameters = leaves()
    before = [parameter.detach().clone() for parameter in parameters]
    Own(parameters, lr=0.5).step()
    assert taken == ["own"]
    assert not any(torch.equal(*pair) for pair in zip(before, parameters, strict=True))


def frames_of(step: Callable[[], object]) -> list[str]:
    """The functions of torchclip in Python that a step calls."""
    frames: list[str] = []

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and str(frame.f_globals.get("__name__")).startswith("torchclip."):
            frames.append(frame.f_code.co_name)

    sys.setprofile(note)
    try:
        step()
    finally:
        sys.setprofile(None)
    return frames


def test_a_plain_step_is_three_frames_of_python() -> None:
    """Between its caller and the compiled plan: each costs a tenth of a microsecond, and more in a swept cache."""
    optimizer = torchclip.SGD(leaves(), lr=0.5, clip=1.0, backend="cpu")
    optimizer.step()
    assert frames_of(optimizer.step) == ["wrapper", "_step", "_run"]


@pytest.mark.parametrize("count, most", [(1, 120), (4, 200)])
def test_a_step_of_the_reference_path_calls_little_python(count: int, most: int) -> None:
    """Beside torch's operators: about 90 functions for a step and 27 for each parameter. A fixed bound, as what is
    called once more for each parameter or state tensor is over it."""
    parameters = [torch.nn.Parameter(torch.randn(4, 3)) for _ in range(count)]
    for parameter in parameters:
        parameter.grad = torch.randn(4, 3)
    optimizer = torchclip.AdamW(parameters, clip=1.0, backend="reference")
    optimizer.step()
    assert len(frames_of(optimizer.step)) <= most
