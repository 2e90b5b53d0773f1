"""The inputs by which torch tests its own optimizers (``torch.testing._internal.common_optimizers``), given to ours."""

from __future__ import annotations

import copy
import io
import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.testing._internal.common_optimizers import OptimizerErrorEnum, OptimizerInfo, optim_db

import torchclip
from of_every_type import LR, starts, write_gradients
from records import DTYPES, dtype_name

NAMES = ("SGD", "Adam", "AdamW", "NAdam", "RAdam", "RMSprop", "Adagrad")
INFOS: dict[str, OptimizerInfo] = {
    info.optim_cls.__name__: info for info in optim_db if info.optim_cls.__name__ in NAMES
}
CPU = torch.device("cpu")

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


def inputs() -> Iterator[Any]:
    for name, info in INFOS.items():
        for index, given in enumerate(info.optim_inputs_func(device=CPU)):
            yield pytest.param(name, given.kwargs, id=f"{name}-{index}-{given.desc.replace(' ', '_')}")


def error_inputs() -> Iterator[Any]:
    for name, info in INFOS.items():
        for index, given in enumerate(info.optim_error_inputs_func(device=CPU, dtype=torch.float32)):
            description = given.optimizer_error_input.desc
            reason = NOT_OURS.get(description)
            marks = [pytest.mark.skip(reason=reason)] if reason else []
            yield pytest.param(name, given, id=f"{name}-{index}-{description.replace(' ', '_')}", marks=marks)


def test_every_namesake_is_here() -> None:
    assert INFOS.keys() == set(NAMES)


@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
@pytest.mark.parametrize("name, kwargs", [*inputs()])
def test_agrees_with_torchs_loop(name: str, kwargs: dict[str, Any], dtype: torch.dtype, backend: str) -> None:
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


@pytest.mark.parametrize("name, given", [*error_inputs()])
def test_errors_are_torchs(name: str, given: Any) -> None:
    wrong = given.optimizer_error_input
    cls = getattr(torchclip, name)
    if given.error_on == OptimizerErrorEnum.STEP_ERROR:
        optimizer = cls(wrong.params, **wrong.kwargs)
        with pytest.raises(given.error_type, match=given.error_regex):
            optimizer.step()
    else:
        with pytest.raises(given.error_type, match=given.error_regex):
            cls(wrong.params, **wrong.kwargs)


def test_what_is_skipped_is_torchs_still() -> None:
    """A reason that no longer applies is found."""
    described = {
        given.optimizer_error_input.desc
        for info in INFOS.values()
        for given in info.optim_error_inputs_func(device=CPU, dtype=torch.float32)
    }
    assert NOT_OURS.keys() <= described
    assert all(re.search(r"\w", reason) for reason in NOT_OURS.values())


@pytest.mark.parametrize("name, kwargs", [*inputs()])
def test_state_dict_goes_through_a_file(name: str, kwargs: dict[str, Any], backend: str) -> None:
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
