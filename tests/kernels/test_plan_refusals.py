"""What a plan must not be handed: other tensors and numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import torchclip
from recorded_plans import Reader, Recorder, assert_as_torch_says, build, settled
from torchclip.backends.triton import columns


class Wrapper(Tensor):
    """A tensor around another, as DTensor is."""

    @staticmethod
    def __new__(cls, inner: Tensor) -> Wrapper:
        return Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, device=inner.device)

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten.detach.default:
            return args[0]
        raise NotImplementedError(function)


def negated(shape: torch.Size) -> Tensor:
    view = torch._neg_view(torch.zeros(shape))  # as the imaginary part of a conjugate is, but of the same strides
    assert view.is_neg()
    return view


def set_gradient(value: Callable[[Tensor], Tensor]) -> Callable[[Tensor, dict[str, Any]], None]:
    def spoil(p: Tensor, state: dict[str, Any]) -> None:
        p.grad = value(p)

    return spoil


def set_data(value: Callable[[Tensor], Tensor]) -> Callable[[Tensor, dict[str, Any]], None]:
    def spoil(p: Tensor, state: dict[str, Any]) -> None:
        p.data = value(p.data)

    return spoil


def set_state(name: str, value: Callable[[Tensor], Any]) -> Callable[[Tensor, dict[str, Any]], None]:
    def spoil(p: Tensor, state: dict[str, Any]) -> None:
        state[name] = value(state[name])

    return spoil


REFUSED = {
    "sparse_gradient": set_gradient(lambda p: torch.ones(p.shape).to_sparse()),
    "wrapped_gradient": set_gradient(lambda p: Wrapper(torch.ones(p.shape))),
    "negated_gradient": set_gradient(lambda p: negated(p.shape)),
    "parameter_of_another_dtype": set_data(Tensor.bfloat16),
    "parameter_of_another_shape": set_data(lambda data: data[:3].clone()),
    "complex_parameter": set_data(lambda data: data.to(torch.complex64)),
    "overlapping_parameter": set_data(lambda data: data[:1].clone().expand(data.shape)),
    "negated_parameter": set_data(lambda data: negated(data.shape)),
    "state_of_another_dtype": set_state("exp_avg", Tensor.double),
    "slots_of_another_dtype": lambda p, state: state.update({k: state[k].double() for k in ("exp_avg", "exp_avg_sq")}),
    "state_of_another_shape": set_state("exp_avg_sq", lambda value: value[:3].clone()),
    "overlapping_state": set_state("exp_avg_sq", lambda value: value[:1].clone().expand(value.shape)),
    "state_on_another_device": set_state("exp_avg", lambda value: value.to("meta")),
    "sparse_state": set_state("exp_avg", Tensor.to_sparse),
    "wrapped_state": set_state("exp_avg", Wrapper),
    "no_tensor": set_state("exp_avg", Tensor.tolist),
    "missing_state": lambda p, state: state.pop("exp_avg"),
    "missing_step": lambda p, state: state.pop("step"),
    "two_steps": set_state("step", lambda value: torch.zeros(2)),
    "integer_step": set_state("step", Tensor.long),
    "step_on_another_device": set_state("step", lambda value: value.to("meta")),
    "slow_of_another_dtype": set_state("slow", Tensor.double),
    "slow_of_another_shape": set_state("slow", Tensor.flatten),
    "overlapping_slow": set_state("slow", lambda value: value[:1].clone().expand(value.shape)),
    "missing_slow": lambda p, state: state.pop("slow"),
}


@pytest.mark.parametrize("spoil", REFUSED.values(), ids=REFUSED)
def test_refuses(spoil: Callable[[Tensor, dict[str, Any]], None]) -> None:
    params = [torch.nn.Parameter(torch.ones(4, 5)) for _ in range(4)]
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer = build("adamw", params, extensions=(torchclip.Lookahead(k=2),))
    reader = Reader(optimizer)
    settled(reader, optimizer)
    bad = optimizer.param_groups[1]["params"][0]
    data, gradient, state = bad.data, bad.grad, dict(optimizer.state[bad])
    spoil(bad, optimizer.state[bad])
    for _ in range(2):
        assert reader.refresh() == [2]
    bad.grad = None
    assert reader.refresh() == []
    read = reader.read()
    assert read.changed and read.positions == [0, 1, 3]
    bad.data = data
    bad.grad = gradient
    optimizer.state[bad].update(state)
    assert_as_torch_says(settled(reader, optimizer), optimizer)


SUMS = {
    "missing": lambda state: state.pop("sum"),
    "too_few": lambda state: state.update(sum=state["sum"][:3].clone()),
    "with_gaps": lambda state: state.update(sum=torch.ones(4, 2)[:, :1]),
    "half": lambda state: state.update(sum=state["sum"].bfloat16()),
    "on_another_device": lambda state: state.update(sum=state["sum"].to("meta")),
}


@pytest.mark.parametrize("spoil", SUMS.values(), ids=SUMS)
def test_refuses_sums(spoil: Callable[[dict[str, Any]], None]) -> None:
    p = torch.nn.Parameter(torch.ones(4, 5))
    p.grad = torch.ones_like(p)
    optimizer = build("ada_grad_norm_row", [p])
    reader = Reader(optimizer)
    settled(reader, optimizer)
    spoil(optimizer.state[p])
    assert reader.refresh() == [0]


def test_serves_a_subclass_that_is_no_wrapper() -> None:
    class Named(Tensor):
        pass

    p = torch.nn.Parameter(torch.ones(4, 5))
    p.grad = torch.ones(4, 5).as_subclass(Named)
    optimizer = build("adamw", [p])
    assert_as_torch_says(settled(Reader(optimizer), optimizer), optimizer)


def test_refuses_a_dtensor() -> None:
    distributed = pytest.importorskip("torch.distributed")
    if not distributed.is_available() or distributed.is_initialized():
        pytest.skip("a process group of one cannot be made here")
    from torch.distributed.tensor import DTensor, Replicate, init_device_mesh

    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        p = torch.nn.Parameter(DTensor.from_local(torch.ones(4, 5), mesh, [Replicate()]))
        p.grad = DTensor.from_local(torch.ones(4, 5), mesh, [Replicate()])
        optimizer = torchclip.SGD([p], lr=0.1)  # without state that could be missing
        reader = Reader(optimizer)
        assert reader.refresh() == [0]
    finally:
        distributed.destroy_process_group()


NUMBERS = {
    "lr_of_two": (
        "lr",
        torch.ones(2),
        RuntimeError,
        r"lr is a tensor of torch.float32 of shape \[2\] on",
    ),
    "integer_lr": (
        "lr",
        torch.tensor(1),
        RuntimeError,
        r"lr is a tensor of torch.int64 of shape \[\] on",
    ),
    "half_lr": (
        "lr",
        torch.ones((), dtype=torch.float16),
        RuntimeError,
        r"lr is a tensor of torch.float16 of",
    ),
    "lr_elsewhere": ("lr", torch.ones((), device="meta"), RuntimeError, "lr is a tensor .* on meta, and of"),
    "eps": (
        "eps",
        torch.ones((), device="meta"),
        RuntimeError,
        "eps is a tensor .* on meta, .* only lr may be one:",
    ),
    "decay": (
        "weight_decay",
        torch.ones((), device="meta"),
        RuntimeError,
        "weight_decay is a tensor .* on meta",
    ),
    "words": ("eps", "0.1", ValueError, "^param group 0 has no usable 'eps'"),
    "missing": ("eps", None, ValueError, "^param group 0 has no usable 'eps'"),
    "negative": ("eps", -0.1, ValueError, "^param group 0 has no usable 'eps'"),
    "several": ("eps", [0.1, 0.2], ValueError, "^param group 0 has no usable 'eps'"),
    "one_beta": ("betas", (0.9,), ValueError, "^param group 0 has no usable 'betas'"),
    "three_betas": ("betas", torch.ones(3), ValueError, "^param group 0 has no usable 'betas'"),
    "complex": ("eps", torch.ones((), dtype=torch.complex64), ValueError, "^param group 0 has no usable 'eps'"),
    "flag": ("amsgrad", 0.5, ValueError, "^param group 0 has no usable 'amsgrad'"),
    "unused": ("foreach", "no", ValueError, "^param group 0 has no usable 'foreach'"),
}


@pytest.mark.parametrize("key, value, error, message", NUMBERS.values(), ids=NUMBERS)
def test_refuses_numbers(key: str, value: Any, error: type[Exception], message: str) -> None:
    optimizer = build("adamw", [torch.nn.Parameter(torch.ones(3))])
    reader = Reader(optimizer)
    settled(reader, optimizer)
    kept = optimizer.param_groups[0].pop(key)
    if value is not None:
        optimizer.param_groups[0][key] = value
    with pytest.raises(error, match=message):
        reader.refresh()
    optimizer.param_groups[0][key] = kept
    settled(reader, optimizer)


def test_numbers_in_tensors_on_the_host() -> None:
    optimizer = build("adamw", [torch.nn.Parameter(torch.ones(3))], weight_decay=0.25)
    lr = torch.tensor([0.5])
    optimizer.param_groups[0].update(lr=lr, eps=torch.tensor(0.125), betas=(torch.tensor(0.75), 0.5), maximize=True)
    read = settled(Reader(optimizer), optimizer)
    assert math.isnan(read.groups[0, 0])
    assert read.groups[0, 1:11].tolist() == [0.75, 0.5, 0.125, 0, 0, 0, 0, 0.25, 1, 1]
    assert int(read.groups.view(torch.int64)[0, columns.GROUP_LR]) == lr.data_ptr()


def test_refuses_an_unknown_rule_and_device() -> None:
    with pytest.raises(KeyError, match="lists no rule called adamax"):
        torchclip._C.TritonPlan("adamax", [], [], [], 0, "cpu", Recorder)
    with pytest.raises(RuntimeError, match="gpu"):
        torchclip._C.TritonPlan("sgd", [], [], [], 0, "gpu", Recorder)
