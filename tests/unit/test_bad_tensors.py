"""Parameters, gradients and backends that cannot be served: the error names the tensor; nothing has been written."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

import torchclip
from builders import (
    LOSS,
    REQUIRED,
    SGDS,
    each_class,
    fresh,
    unchanged,
)
from torchclip.state import tensor_checks as checks


@each_class
def test_empty_parameter_list(cls: type[torch.optim.Optimizer]) -> None:
    with pytest.raises(ValueError, match="^optimizer got an empty parameter list"):
        cls([], **REQUIRED[cls])


UNSUPPORTED = (torch.float8_e4m3fn, torch.float8_e5m2, torch.complex32)
"""Of those that can ask for a gradient; others never step, and are left alone: see test_frozen_parameters."""


@pytest.mark.parametrize("dtype", UNSUPPORTED, ids=str)
@each_class
def test_parameter_of_an_unsupported_dtype(cls: type[torch.optim.Optimizer], dtype: torch.dtype) -> None:
    good, bad = torch.zeros(3, requires_grad=True), torch.zeros(3, dtype=dtype).requires_grad_()
    with pytest.raises(TypeError, match=f"'head.bias'.*{dtype}"):
        cls([("head.weight", good), ("head.bias", bad)], **REQUIRED[cls])
    with pytest.raises(TypeError, match=f"parameter 1 of param group 0.*{dtype}"):
        cls([good, bad], **REQUIRED[cls])
    optimizer = cls([good], **REQUIRED[cls])
    with pytest.raises(TypeError, match=str(dtype)):
        optimizer.add_param_group({"params": [bad]})
    assert len(optimizer.param_groups) == 1


@each_class
def test_duplicate_parameter(cls: type[torch.optim.Optimizer]) -> None:
    p, q = fresh(2)
    with pytest.raises(ValueError, match="parameter 2 of param group 0.*duplicate"):  # torch only warns
        cls([p, q, p], **REQUIRED[cls])
    with pytest.raises(ValueError, match="'body.tied'.*duplicate"):
        cls([("body.weight", p), ("head", q), ("body.tied", p)], **REQUIRED[cls])
    with pytest.raises(ValueError, match="some parameters appear in more than one parameter group"):
        cls([{"params": [p]}, {"params": [q, p]}], **REQUIRED[cls])
    optimizer = cls([p], **REQUIRED[cls])
    with pytest.raises(ValueError, match="some parameters appear in more than one parameter group"):
        optimizer.add_param_group({"params": [p]})
    assert len(optimizer.param_groups) == 1
    optimizer.step(loss=LOSS)


@each_class
def test_what_is_no_parameter(cls: type[torch.optim.Optimizer]) -> None:
    with pytest.raises(TypeError, match="^params argument given to the optimizer should be an iterable of Tensors"):
        cls(torch.zeros(3, requires_grad=True), **REQUIRED[cls])
    with pytest.raises(TypeError, match="^optimizer can only optimize Tensors"):
        cls([torch.zeros(3, requires_grad=True), "weight"], **REQUIRED[cls])
    with pytest.raises(ValueError, match="^can't optimize a non-leaf Tensor"):
        cls([torch.zeros(3, requires_grad=True) * 2], **REQUIRED[cls])


@each_class
def test_a_parameter_whose_elements_share_memory(cls: type[torch.optim.Optimizer]) -> None:
    bad = torch.zeros(1, 5).expand(3, 5).requires_grad_()
    with pytest.raises(ValueError, match="'tied'.*clone"):
        cls([("tied", bad)], **REQUIRED[cls])


# --- backends -----------------------------------------------------------------------------------------------------


@each_class
def test_unknown_backend(cls: type[torch.optim.Optimizer]) -> None:
    with pytest.raises(ValueError, match="'metal'.*'cpu'.*'reference'"):
        cls(fresh(), **REQUIRED[cls], backend="metal")


@each_class
def test_unavailable_backend_says_why(cls: type[torch.optim.Optimizer], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchclip.backends.choice.unavailable_reason", lambda name: "it was left out of this build")
    with pytest.raises(RuntimeError, match="'cpu'.*it was left out of this build"):
        cls(fresh(), **REQUIRED[cls], backend="cpu")


# The classes whose namesake in torch has `fused`.
@pytest.mark.parametrize(
    "cls", (*SGDS, torchclip.Adam, torchclip.AdamW, torchclip.Adagrad), ids=lambda cls: cls.__name__
)
def test_contradicting_implementations(cls: type[torch.optim.Optimizer]) -> None:
    for options, message in (
        ({"fused": True, "foreach": True}, "`fused` and `foreach` cannot be `True` together."),
        ({"fused": True, "differentiable": True}, "`fused` does not support `differentiable`"),
    ):
        with pytest.raises(RuntimeError, match="^" + re.escape(message)):
            cls(fresh(), **REQUIRED[cls], **options)
    for options in (
        {"backend": "cpu", "fused": False},
        {"backend": "cpu", "differentiable": True},
        {"backend": "reference", "fused": True},
    ):
        with pytest.raises(ValueError, match="contradicts") as error:
            cls(fresh(), **REQUIRED[cls], **options)
        assert all(name in str(error.value) for name in options), error.value


# --- gradients ----------------------------------------------------------------------------------------------------


def make_sparse(p: torch.nn.Parameter) -> None:
    p.grad = torch.randn_like(p).to_sparse()


def make_another_shape(p: torch.nn.Parameter) -> None:
    """A pruned parameter whose gradient is from before."""
    p.data = p.data[:3].clone()


def make_another_dtype(p: torch.nn.Parameter) -> None:
    """A model moved to another dtype between backward and step."""
    p.data = p.data.to(torch.bfloat16)


def make_complex(p: torch.nn.Parameter) -> None:
    p.grad_dtype = None
    p.grad = torch.zeros(p.shape, dtype=torch.complex64)


BAD_GRADIENTS = {
    "sparse": (make_sparse, "sparse"),
    "shape": (make_another_shape, r"\(4, 5\).*\(3, 5\)|\(3, 5\).*\(4, 5\)|\[4, 5\].*\[3, 5\]|\[3, 5\].*\[4, 5\]"),
    "dtype": (make_another_dtype, "torch.float32.*torch.bfloat16|torch.bfloat16.*torch.float32"),
    "complex": (make_complex, "torch.complex64"),
}


@pytest.mark.parametrize("spoil, message", BAD_GRADIENTS.values(), ids=BAD_GRADIENTS)
@each_class
def test_gradient_that_does_not_fit(
    cls: type[torch.optim.Optimizer], spoil: Callable[[torch.nn.Parameter], None], message: str, backend: str
) -> None:
    """The faulty one comes last: by then a step that checks as it goes would have written the others."""
    for names, expected in ((("a", "b", "net.weight"), "'net.weight'"), (None, "parameter 2 of param group 0")):
        params = fresh()
        named = params if names is None else list(zip(names, params))
        optimizer = cls(named, **REQUIRED[cls], backend=backend)
        optimizer.step(loss=LOSS)
        for p in params:
            p.grad = torch.randn_like(p)
        spoil(params[-1])
        with unchanged(optimizer), pytest.raises(RuntimeError, match=message) as error:
            optimizer.step(loss=LOSS)
        assert expected in str(error.value)


def test_gradient_on_another_device() -> None:
    """torch lets no gradient onto another device when there is only the CPU: a stand-in has one on "meta"."""
    parameter = SimpleNamespace(
        grad=torch.zeros(3, device="meta"),
        layout=torch.strided,
        shape=torch.Size([3]),
        device=torch.device("cpu"),
        dtype=torch.float32,
    )
    with pytest.raises(RuntimeError, match="'net.weight'.*meta.*cpu|'net.weight'.*cpu.*meta"):
        checks.check_gradient("'net.weight'", parameter)


POLICIES_THAT_RAISE = {
    "global": torchclip.ClipByGlobalNorm(1.0, nonfinite="error"),
    "global_smooth": torchclip.ClipByGlobalNorm(1.0, smooth=True, nonfinite="error"),
    "group": torchclip.ClipByGlobalNorm(1.0, nonfinite="error", scope="group"),
    "tensor": torchclip.ClipByTensorNorm(1.0, nonfinite="error"),
    "adaptive": torchclip.AdaptiveGradientClip(nonfinite="error"),
    "auto": torchclip.AutoClip(nonfinite="error"),
    "z": torchclip.ZClip(nonfinite="error"),
}


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("policy", POLICIES_THAT_RAISE.values(), ids=POLICIES_THAT_RAISE)
@each_class
def test_nonfinite_error_names_the_parameters(
    cls: type[torch.optim.Optimizer], policy: torchclip.ClipByGlobalNorm, value: float, backend: str
) -> None:
    for already_stepped in (False, True):
        params = fresh()
        named = list(zip(("first", "second", "third"), params))
        groups = [{"params": named[:1]}, {"params": named[1:]}]
        optimizer = cls(groups, **REQUIRED[cls], clip=policy, backend=backend)
        if already_stepped:
            optimizer.step(loss=LOSS)
        params[1].grad[2, 3] = value
        with unchanged(optimizer), pytest.raises(RuntimeError, match="'second'") as error:
            optimizer.step(loss=LOSS)
        assert "'first'" not in str(error.value) and "'third'" not in str(error.value)
        params[1].grad[2, 3] = 0.0
        optimizer.step(loss=LOSS)  # and the next step goes on


@pytest.mark.parametrize("value", [math.inf, math.nan])
@each_class
def test_nonfinite_skip_writes_nothing(cls: type[torch.optim.Optimizer], value: float, backend: str) -> None:
    for policy in (
        torchclip.ClipByGlobalNorm(1.0, nonfinite="skip"),
        torchclip.ClipByGlobalNorm(1.0, nonfinite="skip", scope="group"),
        torchclip.ClipByTensorNorm(1.0, nonfinite="skip"),
        torchclip.AdaptiveGradientClip(nonfinite="skip"),
        torchclip.AutoClip(nonfinite="skip"),
        torchclip.ZClip(nonfinite="skip"),
    ):
        for already_stepped in (False, True):
            params = fresh()
            optimizer = cls(
                [{"params": params[:1]}, {"params": params[1:]}], **REQUIRED[cls], clip=policy, backend=backend
            )
            if already_stepped:
                optimizer.step(loss=LOSS)
            params[1].grad[0, 0] = value
            with unchanged(optimizer):
                optimizer.step(loss=LOSS)
            assert not bool(optimizer.grad_norm.isfinite().all())


@each_class
def test_without_gradients_nothing_happens(cls: type[torch.optim.Optimizer], backend: str) -> None:
    for clip in (None, 1.0, torchclip.ClipByGlobalNorm(1.0, nonfinite="error"), torchclip.ClipByValue(1.0)):
        params = fresh()
        for p in params:
            p.grad = None
        optimizer = cls(params, **REQUIRED[cls], clip=clip, backend=backend)
        with unchanged(optimizer):
            optimizer.step(loss=LOSS)
        assert not any(optimizer.state.values())
        params[1].grad = torch.randn_like(params[1])
        optimizer.step(loss=LOSS)
        assert list(optimizer.state) in ([], [params[1]])


# --- reading what was never measured ------------------------------------------------------------------------------


def test_measurements_that_are_not_there(backend: str) -> None:
    plain = torchclip.SGD(fresh(), lr=0.1, backend=backend)
    plain.step()
    by_value = torchclip.SGD(fresh(), lr=0.1, clip=torchclip.ClipByValue(1.0), backend=backend)
    by_value.step()
    before_any_step = torchclip.SGD(fresh(), lr=0.1, clip=1.0, backend=backend)
    for optimizer, remedy in ((plain, "clip="), (by_value, "clip="), (before_any_step, r"step\(\)")):
        for name in ("grad_norm", "clip_factor"):
            with pytest.raises(RuntimeError, match=remedy):
                getattr(optimizer, name)
