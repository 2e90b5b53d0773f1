"""What is loaded belongs to the optimizer that loads it, and loading leaves nothing behind."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch
from torch import Tensor

from builders import LOSS, SPARSE, assert_same_params, build, draw_gradients, each_optimizer, leaves
from torchclip import Lookahead, ZClip
from torchclip.step import torch_compile as compiled

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def tensors_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """The state of parameters and groups."""
    shared = [group.get("shared", {}) for group in optimizer.param_groups]
    return [value for held in (*optimizer.state.values(), *shared) for value in held.values()]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@each_optimizer
def test_a_step_of_the_one_leaves_the_others_state(name: str, dtype: torch.dtype, backend: str) -> None:
    def made() -> tuple[torch.optim.Optimizer, list[torch.nn.Parameter]]:
        params = [torch.nn.Parameter(param.detach().to(dtype)) for param in leaves()]
        extras = {"extensions": (Lookahead(k=2),)} if name not in SPARSE else {}
        return build(name, params, **extras, clip=ZClip(warmup_steps=2), backend=backend), params

    first, first_params = made()
    second, second_params = made()
    draw_gradients(0, first_params, second_params)
    first.step(loss=LOSS)
    saved = first.state_dict()
    second.load_state_dict(saved)
    for mine in tensors_of(second):
        assert not any(mine.data_ptr() == its.data_ptr() for its in tensors_of(first) if its.numel())
    before = [value.clone() for value in tensors_of(first)]
    draw_gradients(1, second_params)
    second.step(loss=LOSS)
    second.step(loss=LOSS)
    assert all(map(torch.equal, tensors_of(first), before))


def test_state_that_is_expanded_or_conjugated_becomes_plain(backend: str) -> None:
    params = [torch.nn.Parameter(torch.zeros(3, 4)), torch.nn.Parameter(torch.zeros(3, dtype=torch.complex64))]
    optimizer = build("sgd", params, backend=backend)
    value = torch.tensor([1 + 2j, 3 - 1j, 0.5j])
    saved = copy.deepcopy(optimizer.state_dict())
    saved["state"] = {
        0: {"momentum_buffer": torch.ones(4).expand(3, 4)},
        1: {"momentum_buffer": value.conj()},
    }
    optimizer.load_state_dict(saved)
    first, second = (optimizer.state[param]["momentum_buffer"] for param in params)
    assert first.is_contiguous() and torch.equal(first, torch.ones(3, 4))
    assert not second.is_conj() and torch.equal(second, torch.tensor([1 - 2j, 3 + 1j, -0.5j]))
    for param in params:
        param.grad = torch.zeros_like(param)
    optimizer.step()


def test_loading_leaves_nothing_behind(backend: str) -> None:
    params = leaves()
    optimizer = build("adamw", params, backend=backend)
    optimizer.step()
    saved = optimizer.state_dict()
    optimizer.load_state_dict(saved)
    gc.collect()
    count, registered = weakref.getweakrefcount(optimizer), len(compiled._OPTIMIZERS)
    hooks = len(optimizer._optimizer_load_state_dict_pre_hooks)
    for _ in range(5):
        optimizer.load_state_dict(saved)
        with pytest.raises(ValueError):
            optimizer.load_state_dict({"state": {}, "param_groups": []})
    gc.collect()
    assert (weakref.getweakrefcount(optimizer), len(compiled._OPTIMIZERS)) == (count, registered)
    assert len(optimizer._optimizer_load_state_dict_pre_hooks) == hooks


def test_a_hook_after_loading_has_the_last_word(backend: str) -> None:
    """It sees the state as it is to be, and what it writes stays."""
    params = leaves()
    optimizer = build("sgd", params, backend=backend)
    optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    seen: list[Tensor] = []

    def halve(loaded: torch.optim.Optimizer) -> None:
        for param in params:
            seen.append(loaded.state[param]["momentum_buffer"].clone())
            loaded.state[param]["momentum_buffer"] = loaded.state[param]["momentum_buffer"] / 2

    optimizer.register_load_state_dict_post_hook(halve)
    optimizer.load_state_dict(saved)
    for position, param in enumerate(params):
        buffer = saved["state"][position]["momentum_buffer"]
        assert torch.equal(seen[position], buffer)
        assert torch.equal(optimizer.state[param]["momentum_buffer"], buffer / 2)


def test_a_hook_that_replaces_the_dict_is_followed(backend: str) -> None:
    """With the names of gRDA's authors, too."""
    params = leaves()
    optimizer = build("grda", params, backend=backend)
    optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    before = [param.detach().clone() for param in params]

    def rename(_: torch.optim.Optimizer, state_dict: dict) -> dict:
        names = {"step": "iter_num", "l1": "l1_accumulation", "accumulator": "accumulator"}
        states = {key: {names[name]: value for name, value in s.items()} for key, s in state_dict["state"].items()}
        return {**state_dict, "state": states}

    optimizer.register_load_state_dict_pre_hook(rename)
    optimizer.load_state_dict(saved)
    assert all(optimizer.state[param].keys() == {"accumulator", "step", "l1"} for param in params)
    assert_same_params(params, before)
    optimizer.step()
    assert all(optimizer.state[param]["step"] == 2 for param in params)
