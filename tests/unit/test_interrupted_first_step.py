"""A first step that an exception stops, at every line of torchclip: what was made and used stays, the rest goes."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch

import torchclip
from builders import assert_state_is_new
from records import BACKENDS
from torchclip.state.parameter_state import Ledger, Made

PACKAGE = Path(torchclip.__file__).parent
BETWEEN_LAUNCHES = ("launcher.py", "launches.py")
"""A step of Triton's kernels that is stopped there stays half taken."""

ONCE, TWICE = -1.0, -2.3
"""The parameter after one step and after two: with gradients of 1 the buffer is 1, then .8 + .5."""


@functools.cache
def is_traced(file: str) -> bool:
    """Whether the lines of a file count."""
    path = Path(file)
    return PACKAGE in path.parents and path.name not in BETWEEN_LAUNCHES and path.parent.name != "kernels"


class Stopped:
    """Raises at the line numbered ``at``, of those of torchclip that run within the block."""

    def __init__(self, at: int, error: type[BaseException]) -> None:
        self.left = at
        self.error = error
        self.has_raised = False

    def __enter__(self) -> Stopped:
        sys.settrace(self.trace)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        sys.settrace(None)
        torch.set_grad_enabled(True)  # a block that is stopped at the end of its `with` does not leave it
        return kind is self.error and self.has_raised

    def trace(self, frame: FrameType, event: str, _: Any) -> Callable[..., Any] | None:
        return self.line if is_traced(frame.f_code.co_filename) else None

    def line(self, frame: FrameType, event: str, _: Any) -> Callable[..., Any] | None:
        if event == "line":
            self.left -= 1
            if self.left < 0:
                self.has_raised = True
                raise self.error
        return self.line


def check_stopped(backend: str, error: type[BaseException], at: int) -> bool:
    """One first step, stopped, and another. Returns whether there was such a line."""
    params = [torch.nn.Parameter(torch.zeros(3)) for _ in range(2)]
    optimizer = torchclip.SGD(params, lr=1.0, momentum=0.8, dampening=0.5, backend=backend)
    for param in params:
        param.grad = torch.ones_like(param)
    with Stopped(at, error) as stopped:
        optimizer.step()
    saved = optimizer.state_dict()["state"]
    moved = [bool((param != 0).all()) for param in params]
    for position, (param, has_moved) in enumerate(zip(params, moved)):
        assert bool((param == 0).all()) != has_moved, "half of a parameter"
        if has_moved:
            assert torch.equal(saved[position]["momentum_buffer"], torch.ones(3))
        else:
            assert position not in saved, saved
            assert_state_is_new(optimizer, param, optimizer.param_groups[0])
    if backend != "reference":
        assert len(set(moved)) == 1
    optimizer.step()
    for param, has_moved in zip(params, moved):
        torch.testing.assert_close(param.detach(), torch.full((3,), TWICE if has_moved else ONCE))
    return stopped.has_raised


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_wherever_it_comes(error: type[BaseException], backend: str) -> None:
    every = {"triton": 61, "reference": 3}.get(backend, 1)  # interpreted, a step takes a tenth of a second
    at = 0 if error is MemoryError else every // 2
    while check_stopped(backend, error, at):
        at += every
    assert at > 60, "the step has few lines: nothing was traced"


def check_stopped_while_moved(backend: str, at: int) -> bool:
    """A step that puts codes in another order, stopped. Returns whether there was such a line."""
    weight = torch.nn.Parameter(torch.zeros(4, 8, 5, 6))
    precision = torchclip.Blockwise8bit(min_elements=0)
    optimizer = torchclip.SGD([weight], lr=1.0, momentum=1.0, precision=precision, backend=backend)
    weight.grad = torch.arange(weight.numel()).view(weight.shape) / 7
    optimizer.step()
    before = optimizer.float32_state_dict()["state"][0]["momentum_buffer"]
    old, start = optimizer.state[weight]["momentum_buffer"], weight.detach().clone()
    weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    weight.grad = torch.zeros_like(weight)
    with Stopped(at, KeyboardInterrupt) as stopped:
        optimizer.step()
    is_taken = not torch.equal(weight, start)
    after = optimizer.float32_state_dict()["state"][0]["momentum_buffer"]
    assert is_taken or (torch.equal(after, before) and optimizer.state[weight]["momentum_buffer"] is old)
    assert ((after - before).abs() <= 0.02 * before.abs().max()).all(), "codes and absmax of two orders"
    return stopped.has_raised


@pytest.mark.parametrize("backend", ["cpu", "reference"], indirect=True)
def test_codes_are_moved_with_their_absmax(backend: str) -> None:
    """Or not at all, wherever Ctrl-C comes."""
    at = 0
    while check_stopped_while_moved(backend, at):
        at += 1
    assert at > 60, "the step has few lines: nothing was traced"


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_state_that_cannot_be_made(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where memory runs out at the second parameter, the first has no buffer that counts as begun."""
    params = [torch.nn.Parameter(torch.zeros(3)) for _ in range(2)]
    optimizer = torchclip.SGD(params, lr=1.0, momentum=0.8, dampening=0.5, backend=backend)
    for param in params:
        param.grad = torch.ones_like(param)
    make, calls = torch.full_like, []

    def fail_once(*arguments: Any, **options: Any) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 2:
            raise MemoryError
        return make(*arguments, **options)

    monkeypatch.setattr(torch, "full_like", fail_once)
    with pytest.raises(MemoryError):
        optimizer.step()
    optimizer.step()
    optimizer.step()
    steps = 3 if backend == "reference" else 2  # its first parameter had taken the first
    first = -1.0 - 1.3 - (0.8 * 1.3 + 0.5) if steps == 3 else TWICE
    torch.testing.assert_close(params[0].detach(), torch.full((3,), first))
    torch.testing.assert_close(params[1].detach(), torch.full((3,), TWICE))


def test_state_that_the_user_has_replaced_is_not_dropped() -> None:
    """Between a step that was not taken and the next, which drops what was made for it."""
    param = torch.nn.Parameter(torch.zeros(3))
    state: dict[torch.Tensor, dict[str, Any]] = {}
    ledger = Ledger()
    made = {"exp_avg": torch.zeros(3), "exp_avg_sq": torch.zeros(3)}
    ledger.give(state, Made(0, param, made, param._version))
    theirs = state[param]["exp_avg"] = torch.ones(3)
    ledger.drop(state)
    assert state[param].keys() == {"exp_avg"} and state[param]["exp_avg"] is theirs
