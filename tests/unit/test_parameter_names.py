"""Every error about a parameter calls it by the name that the optimizer was given for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import torchclip
from builders import LOSS, REQUIRED, each_class, fresh, unchanged

NAME = "net.weight"


def leaf() -> Tensor:
    return torch.zeros(3, requires_grad=True)


# What the constructor refuses: the second of two named parameters, the error's type, and torch's words for it.
REFUSED: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "result": (lambda: leaf() * 2, ValueError, "^can't optimize a non-leaf Tensor: "),
    "string": (lambda: "weight", TypeError, "^optimizer can only optimize Tensors, "),
    "expanded": (lambda: torch.zeros(1, 5).expand(3, 5).requires_grad_(), ValueError, "clone"),
}


@pytest.mark.parametrize("make, exception, message", REFUSED.values(), ids=REFUSED)
@each_class
def test_constructor(
    cls: type[torch.optim.Optimizer], make: Callable[[], Any], exception: type[Exception], message: str
) -> None:
    for named, expected in ((True, f"parameter '{NAME}'"), (False, "parameter 1 of param group 0")):
        params = [leaf(), make()]
        given = list(zip(("net.bias", NAME), params)) if named else params
        with pytest.raises(exception, match=message) as error:
            cls(given, **REQUIRED[cls])
        assert expected in str(error.value)


@each_class
def test_a_parameter_of_two_groups(cls: type[torch.optim.Optimizer]) -> None:
    """Both names, since a tied weight has two."""
    first, second = leaf(), leaf()
    groups = [{"params": [("decoder.weight", first)]}, {"params": [("bias", second), (NAME, first)]}]
    message = rf"^some parameters appear in more than one parameter group: parameter '{NAME}' .* 'decoder\.weight'"
    with pytest.raises(ValueError, match=message):
        cls(groups, **REQUIRED[cls])
    optimizer = cls(groups[:1], **REQUIRED[cls])
    with pytest.raises(ValueError, match=message):
        optimizer.add_param_group(groups[1])
    assert len(optimizer.param_groups) == 1


@each_class
def test_names_for_some_parameters_only(cls: type[torch.optim.Optimizer]) -> None:
    with pytest.raises(ValueError, match="with/without names"):
        cls([(NAME, leaf()), leaf()], **REQUIRED[cls])
    optimizer = cls([(NAME, leaf())], **REQUIRED[cls])
    with pytest.raises(ValueError, match=r"all optimizer param groups should be with/without names"):
        optimizer.add_param_group({"params": [leaf()]})


@each_class
def test_what_is_no_param_group(cls: type[torch.optim.Optimizer]) -> None:
    """torch's own refusals."""
    optimizer = cls([leaf()], **REQUIRED[cls])
    with pytest.raises(TypeError, match="^param_group must be a dict, but got"):
        optimizer.add_param_group([leaf()])
    with pytest.raises(TypeError, match="ordered collections"):
        optimizer.add_param_group({"params": {leaf()}})
    with pytest.raises(KeyError, match="params"):
        optimizer.add_param_group({"parameters": [leaf()]})
    assert len(optimizer.param_groups) == 1
    optimizer.step(loss=LOSS)


@each_class
def test_a_backend_that_does_not_reach_it(cls: type[torch.optim.Optimizer], backend: str) -> None:
    if backend == "reference":
        pytest.skip("it runs wherever torch does")
    there = torch.zeros(3, requires_grad=True, device="meta")
    with pytest.raises(RuntimeError, match=f"parameter '{NAME}' of shape .* is on meta, which the {backend} backend"):
        cls([("bias", leaf()), (NAME, there)], **REQUIRED[cls], backend=backend)
    params = [leaf(), leaf()]
    optimizer = cls(list(zip(("bias", NAME), params)), **REQUIRED[cls], backend=backend)
    torch.utils.swap_tensors(params[1], there)
    params[1].grad = torch.zeros_like(params[1])
    with pytest.raises(RuntimeError, match=f"parameter '{NAME}' of shape .* is on meta, which the {backend} backend"):
        optimizer.step(loss=LOSS)


def test_a_fused_step_that_cannot_be_had() -> None:
    there = torch.zeros(3, requires_grad=True, device="meta")
    with pytest.raises(RuntimeError, match=f"^fused=True demands .*cpu: parameter '{NAME}' of shape .* is on meta"):
        torchclip.SGD([(NAME, there)], fused=True)


# What someone has written over the state of a parameter, from its first tensor of more than one number.
SPOILT: dict[str, tuple[Callable[[Tensor], Any], type[Exception], str]] = {
    "shape": (lambda value: value[:2].clone(), RuntimeError, r"shape \(2, "),
    "dtype": (lambda value: value.to(torch.int32), RuntimeError, "torch.int32"),
    "list": (lambda value: value.tolist(), TypeError, "is list, and a tensor is wanted"),
    "expanded": (lambda value: torch.zeros(()).expand(value.shape), RuntimeError, "cannot be written to"),
    "device": (lambda value: value.to("meta"), RuntimeError, "on meta"),
}


@pytest.mark.parametrize("spoil, exception, message", SPOILT.values(), ids=SPOILT)
@each_class
def test_state_that_does_not_fit(
    cls: type[torch.optim.Optimizer],
    spoil: Callable[[Tensor], Any],
    exception: type[Exception],
    message: str,
    backend: str,
) -> None:
    params = fresh()
    options = {"momentum": 0.9} if cls is torchclip.SGDClip else {}
    optimizer = cls(list(zip(("a", "b", NAME), params)), **REQUIRED[cls], **options, backend=backend)
    optimizer.step(loss=LOSS)
    state = optimizer.state[params[2]]
    key = next(key for key, value in state.items() if value.numel() > 1)
    good = state[key]
    state[key] = spoil(good)
    before = [param.detach().clone() for param in params]
    with pytest.raises(exception, match=message) as error:
        optimizer.step(loss=LOSS)
    assert f"state '{key}' of parameter '{NAME}'" in str(error.value)
    assert all(map(torch.equal, params, before))
    state[key] = good
    optimizer.step(loss=LOSS)
    assert not any(map(torch.equal, params, before))


def test_state_of_several_types(backend: str) -> None:
    params = [torch.nn.Parameter(param.detach().bfloat16()) for param in fresh()]
    for param in params:
        param.grad = torch.randn_like(param)
    optimizer = torchclip.AdamW(list(zip(("a", "b", NAME), params)), lr=0.5, backend=backend)
    optimizer.step()
    optimizer.state[params[2]]["exp_avg"] = optimizer.state[params[2]]["exp_avg"].float()
    with unchanged(optimizer), pytest.raises(RuntimeError, match=f"the state of parameter '{NAME}' .* several types"):
        optimizer.step()
