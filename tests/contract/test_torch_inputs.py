"""The inputs by which torch tests its own optimizers (``torch.testing._internal.common_optimizers``), given to ours."""

from __future__ import annotations

import copy
import io
import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import torchclip
from of_every_type import LR, starts, write_gradients
from records import DTYPES, dtype_name
from torchs_optimizers import info_of

NAMES = ("SGD", "Adam", "AdamW", "NAdam", "RAdam", "RMSprop", "Adagrad")
CPU = torch.device("cpu")

pytestmark = pytest.mark.xdist_group("torchs_optimizers")  # which take seconds to import

each_name = pytest.mark.parametrize("name", NAMES)

NOT_OURS = {
    "a param group cannot have duplicate parameters": "torch warns that it will be an error; here it is one",
    "lr as Tensor doesn't work with foreach & not capturable": "a tensor lr works on the reference path",
    "betas must be either both floats or both Tensors": "no parameters are given, and betas are read as numbers",
    r"betas\[0\] as a Tensor is not supported for capturable=False and foreach=True": "they are read as numbers",
}
"""Errors of torch's that are none here, or others, by what torch calls them."""


def options_of(kwargs: dict[str, Any]) -> dict[str, Any]:
    """An input's arguments with a rate that moves every parameter."""
    lr = torch.tensor(LR) if isinstance(kwargs.get("lr"), torch.Tensor) else LR
    return {**copy.deepcopy(kwargs), "lr": lr}


def inputs(name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """What each input is called, and its arguments."""
    for index, given in enumerate(info_of(name).optim_inputs_func(device=CPU)):
        yield f"{index} {given.desc}", given.kwargs


def error_inputs(name: str) -> list[Any]:
    return list(info_of(name).optim_error_inputs_func(device=CPU, dtype=torch.float32))


@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
@each_name
def test_agrees_with_torchs_loop(name: str, dtype: torch.dtype, backend: str, subtests: pytest.Subtests) -> None:
    for called, kwargs in inputs(name):
        with subtests.test(called):
            assert_agrees_with_torchs_loop(name, kwargs, dtype, backend)


def assert_agrees_with_torchs_loop(name: str, kwargs: dict[str, Any], dtype: torch.dtype, backend: str) -> None:
    params, copies = starts(dtype), starts(dtype)
    ours = getattr(torchclip, name)(params, **options_of(kwargs), backend=backend)
    theirs = getattr(torch.optim, name)(copies, **{**options_of(kwargs), "foreach": False})
    before = [param.detach().clone() for param in params]
    for step in range(2):
        write_gradients(step, params, copies)
        ours.step()
        theirs.step()
    # In half precision the loop rounds every temporary; and NAdam's product of momenta is a float32 number.
    eps = max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps if name == "NAdam" else 0.0)
    for param, other, start in zip(params, copies, before):
        scale = float(other.detach().double().abs().max())
        torch.testing.assert_close(param, other, rtol=16 * eps, atol=32 * eps * scale)
        assert not torch.equal(param, start)


@each_name
def test_errors_are_torchs(name: str, subtests: pytest.Subtests) -> None:
    cls = getattr(torchclip, name)
    for given in error_inputs(name):
        wrong = given.optimizer_error_input
        if wrong.desc in NOT_OURS:
            continue
        with subtests.test(wrong.desc), pytest.raises(given.error_type, match=given.error_regex):
            optimizer = cls(wrong.params, **wrong.kwargs)
            assert given.error_on.name == "STEP_ERROR"
            optimizer.step()


def test_what_is_skipped_is_torchs_still() -> None:
    """A reason that no longer applies is found."""
    described = {given.optimizer_error_input.desc for name in NAMES for given in error_inputs(name)}
    assert NOT_OURS.keys() <= described
    assert all(re.search(r"\w", reason) for reason in NOT_OURS.values())


@each_name
def test_state_dict_goes_through_a_file(name: str, backend: str, subtests: pytest.Subtests) -> None:
    for called, kwargs in inputs(name):
        with subtests.test(called):
            assert_state_dict_goes_through_a_file(name, kwargs, backend)


def assert_state_dict_goes_through_a_file(name: str, kwargs: dict[str, Any], backend: str) -> None:
    params, copies = starts(torch.float32), starts(torch.float32)
    cls = getattr(torchclip, name)
    first = cls(params, **options_of(kwargs), backend=backend)
    for step in range(2):
        write_gradients(step, params)
        first.step()
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = cls(copies, **options_of(kwargs), backend=backend)
    second.load_state_dict(torch.load(file, weights_only=True))
    duplicate = copy.deepcopy(second)
    for param, other, third in zip(params, copies, duplicate.param_groups[0]["params"]):
        other.data.copy_(param.detach())
        third.data.copy_(param.detach())
    thirds = duplicate.param_groups[0]["params"]
    for step in range(2, 4):
        write_gradients(step, params, copies, thirds)
        for optimizer in (first, second, duplicate):
            optimizer.step()
    for param, other, third in zip(params, copies, thirds):
        assert torch.equal(param, other)
        assert torch.equal(param, third)
