"""What may happen to state, param groups and hyperparameters between two steps."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import torchclip
from builders import (
    Pair,
    each_kernel,
    tensors,
)
from memory_guard import same_bits


@each_kernel
def test_param_group_added_in_mid_run(name: str, backend: str) -> None:
    pair = Pair(name, backend, tensors())
    pair.step()
    for _ in range(2):
        value = torch.randn(6, 3)
        pair.params.append(torch.nn.Parameter(value))
        pair.copies.append(torch.nn.Parameter(value.clone()))
        pair.tested.add_param_group({"params": [pair.params[-1]], "lr": 0.3})
        pair.expected.add_param_group({"params": [pair.copies[-1]], "lr": 0.3})
        pair.step()
        pair.step()


def transposed(tensor: Tensor) -> Tensor:
    """The same values in another layout, where there is one."""
    return tensor.t().contiguous().t() if tensor.dim() == 2 else tensor.clone()


# Tools that shard, offload or average optimizers write to ``optimizer.state[p]``. Numbers of state keep their value.
STATE_CHANGES: dict[str, Callable[[dict[str, Tensor]], dict[str, Tensor]]] = {
    "new_tensors": lambda state: _put(state, {k: t * 0.5 for k, t in state.items()}),
    "another_layout": lambda state: _put(state, {k: transposed(t) for k, t in state.items()}),
    "new_dict": lambda state: {k: t * 0.25 for k, t in state.items()},
    "new_dict_another_layout": lambda state: {k: transposed(t) for k, t in state.items()},
    "data_swapped": lambda state: _swap_data(state, lambda t: t * 0.5),
    "data_swapped_another_layout": lambda state: _swap_data(state, transposed),
    "forgotten": lambda state: {},
}


def _put(state: dict[str, Tensor], values: dict[str, Tensor]) -> dict[str, Tensor]:
    state.update(values)
    return state


def _swap_data(state: dict[str, Tensor], change: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    for value in state.values():
        value.data = change(value.data)
    return state


@each_kernel
@pytest.mark.parametrize("change", STATE_CHANGES.values(), ids=STATE_CHANGES)
def test_state_changed_by_the_user(
    name: str, change: Callable[[dict[str, Tensor]], dict[str, Tensor]], backend: str
) -> None:
    pair = Pair(name, backend, tensors())
    pair.step()
    pair.step()
    for _ in range(2):
        for optimizer, params in ((pair.tested, pair.params), (pair.expected, pair.copies)):
            for p in params:
                state = optimizer.state[p]
                slots = {key: value for key, value in state.items() if key not in ("step", "l1")}
                numbers = {key: value for key, value in state.items() if key in ("step", "l1")}
                changed = change(slots)
                if changed is slots:
                    state.update(slots)
                else:
                    optimizer.state[p] = {**changed, **numbers} if changed else {}
        pair.step()
        pair.step()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_sums_of_rows_may_lie_anywhere_and_be_of_either_type(dtype: torch.dtype, backend: str) -> None:
    pair = Pair("ada_grad_norm", backend, [torch.randn(5, 7), torch.randn(3, 2, 4)])
    pair.step()
    for optimizer, params in ((pair.tested, pair.params), (pair.expected, pair.copies)):
        for p in params:
            sums = optimizer.state[p]["sum"].to(dtype)
            optimizer.state[p]["sum"] = sums.repeat_interleave(2, dim=0)[::2]
            assert not optimizer.state[p]["sum"].is_contiguous()
    pair.step()
    pair.step()


def test_sums_of_rows_in_half_precision_are_refused(backend: str) -> None:
    """They would soon stand still."""
    pair = Pair("ada_grad_norm", backend, [torch.randn(5, 7).bfloat16()])
    pair.step()
    state = pair.tested.state[pair.params[0]]
    state["sum"] = state["sum"].bfloat16()
    with pytest.raises(RuntimeError, match="state 'sum' of parameter 0 of param group 0"):
        pair.tested.step()


@each_kernel
def test_all_state_forgotten(name: str, backend: str) -> None:
    pair = Pair(name, backend, tensors())
    pair.step()
    for optimizer in (pair.tested, pair.expected):
        optimizer.state.clear()
    pair.step()


@each_kernel
def test_written_state_numbers_count(name: str, backend: str) -> None:
    pair = Pair(name, backend, tensors())
    pair.step()
    for optimizer, params in ((pair.tested, pair.params), (pair.expected, pair.copies)):
        for p in params:
            for key in ("step", "l1"):
                if key in optimizer.state[p]:
                    optimizer.state[p][key].add_(2)
    pair.step()


# The rules with a momentum that can be switched on: Adam's betas and gRDA always have state.
@pytest.mark.parametrize("name", ["sgd", "normalized_sgd", "mix_clip"])
def test_momentum_switched_in_mid_run(name: str, backend: str) -> None:
    pair = Pair(name, backend, tensors())

    def set_momentum(value: float) -> None:
        for optimizer in (pair.tested, pair.expected):
            optimizer.param_groups[0]["momentum"] = value

    set_momentum(0.0)
    pair.step()
    assert not any(pair.tested.state.values())
    set_momentum(0.9)
    pair.step()
    pair.step(without=(2,))
    set_momentum(0.0)
    pair.step()
    set_momentum(0.5)
    pair.step()


def test_amsgrad_switched_on_in_mid_run(backend: str) -> None:
    pair = Pair("adamw", backend, tensors())
    for amsgrad in (False, True, False, True):
        for optimizer in (pair.tested, pair.expected):
            optimizer.param_groups[0]["amsgrad"] = amsgrad
        pair.step()


@each_kernel
def test_hyperparameters_are_read_at_every_step(name: str, backend: str) -> None:
    pair = Pair(name, backend, tensors())
    changes = {
        "lr": 0.3,
        "momentum": 0.5,
        "weight_decay": 0.2,
        "betas": (0.5, 0.8),
        "eps": 0.1,
        "gamma": 0.7,
        "nu": 0.2,
        "smooth": False,
        "dampening": 0.3,
        "maximize": True,
        "c": 1.0,
        "mu": 0.6,
    }
    pair.step()
    for key, value in changes.items():
        if key in pair.tested.param_groups[0]:
            for optimizer in (pair.tested, pair.expected):
                optimizer.param_groups[0][key] = value
            pair.step()


@each_kernel
def test_mixed_dtypes_in_one_optimizer(name: str, backend: str) -> None:
    dtypes = (torch.float32, torch.bfloat16, torch.float64, torch.float16)
    pair = Pair(name, backend, [torch.randn(9, 5).to(dtype) for dtype in dtypes])
    for _ in range(3):
        pair.step()


@each_kernel
def test_model_moved_to_another_dtype(name: str, backend: str) -> None:
    """``model.double()`` and ``model.bfloat16()`` after the first step, with the state cast likewise."""
    pair = Pair(name, backend, [torch.randn(40, 3)])
    pair.step()
    for optimizer, params in ((pair.tested, pair.params), (pair.expected, pair.copies)):
        for p in params:
            p.data = p.data.double()
            for key, value in optimizer.state[p].items():
                if value.dim():
                    optimizer.state[p][key] = value.double()
    pair.step()


@each_kernel
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_model_cast_and_state_left_behind(name: str, dtype: torch.dtype, backend: str) -> None:
    """State of another dtype than the parameter's either steps on as in the reference path, or is refused by name."""
    pair = Pair(name, backend, [torch.randn(40, 3)])
    pair.step()
    for p in (*pair.params, *pair.copies):
        p.grad = None
        p.data = p.data.to(dtype)
    before = pair.params[0].detach().clone()
    try:
        pair.step()
    except RuntimeError as error:
        assert "parameter 0 of param group 0" in str(error) and "state" in str(error)
        assert same_bits(pair.params[0], before)


def test_state_given_after_a_skipped_first_step(backend: str) -> None:
    """The skipped step made no buffer, so the one given then is not "new"."""
    param = torch.nn.Parameter(torch.zeros(20))
    clip = torchclip.ClipByGlobalNorm(1e9, nonfinite="skip")
    optimizer = torchclip.SGD([param], lr=1.0, momentum=0.5, clip=clip, backend=backend)
    param.grad = torch.full_like(param, float("nan"))
    optimizer.step()
    optimizer.state[param]["momentum_buffer"] = torch.full_like(param, 4.0)
    param.grad = torch.zeros_like(param)
    optimizer.step()
    assert torch.equal(param.detach(), torch.full_like(param, -2.0))
