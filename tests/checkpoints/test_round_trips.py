"""Copies, and checkpoints of ours and of torch.optim: training goes on as if nothing had happened."""

from __future__ import annotations

import copy
import inspect
import math
import pickle
from collections.abc import Callable

import pytest
import torch

import torchclip
from builders import (
    LOSS,
    NAMESAKES,
    OPTIMIZERS,
    assert_same_params,
    build,
    copies_of,
    draw_gradients,
    each_namesake,
    each_optimizer,
    leaves,
)
from memory_guard import same_bits


def through_pickle(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """What arrives in another process."""
    return pickle.loads(pickle.dumps(optimizer))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, through_pickle], ids=["deepcopy", "pickle"])
@pytest.mark.parametrize("steps", [0, 2])
@each_optimizer
def test_copies_go_on_alike(
    name: str, steps: int, duplicate: Callable[[torch.optim.Optimizer], torch.optim.Optimizer], backend: str
) -> None:
    params = leaves()
    optimizer = build(name, params, clip=torchclip.ClipByGlobalNorm(2.0, nonfinite="skip"), backend=backend)
    for step in range(steps):
        draw_gradients(step, params)
        optimizer.step(loss=LOSS)
    twin = duplicate(optimizer)
    copies = twin.param_groups[0]["params"]
    assert twin.backend == backend and twin.clip == optimizer.clip
    for step in range(2, 4):
        draw_gradients(step, params, copies)
        optimizer.step(loss=LOSS)
        twin.step(loss=LOSS)
    assert_same_params(params, copies)
    draw_gradients(9, copies)
    twin.step(loss=LOSS)
    assert not any(torch.equal(p, q) for p, q in zip(params, copies))


@each_optimizer
def test_repr_names_class_and_options(name: str, backend: str) -> None:
    text = repr(build(name, leaves(), backend=backend))
    assert text.startswith(OPTIMIZERS[name][0].__name__) and "lr:" in text


@each_namesake
def test_agrees_with_torch(name: str, backend: str) -> None:
    """Twelve steps of both; same state names, types and dtypes."""
    cls, torch_cls, options = NAMESAKES[name]
    params = leaves(4)
    copies = copies_of(params)
    ours, theirs = cls(params, **options, backend=backend), torch_cls(copies, **options)
    for step in range(12):
        draw_gradients(step, params, copies)
        ours.step()
        theirs.step()
    for p, q in zip(params, copies):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-5)
        mine = {key: value for key, value in ours.state[p].items() if value is not None}
        torchs = {key: value for key, value in theirs.state[q].items() if value is not None}
        assert mine.keys() == torchs.keys()
        for key, value in torchs.items():
            assert mine[key].dtype == value.dtype and mine[key].device == value.device, key
            torch.testing.assert_close(mine[key], value, rtol=1e-5, atol=1e-5)


# torch's three implementations leave different things behind (fused SGD keeps float, foreach keeps views).
@pytest.mark.parametrize("made_by", [{"foreach": False}, {"foreach": True}, {"fused": True}], ids=str)
@each_namesake
def test_checkpoint_of_torch_loads_here(name: str, made_by: dict[str, bool], backend: str) -> None:
    cls, torch_cls, options = NAMESAKES[name]
    if not made_by.keys() <= inspect.signature(torch_cls).parameters.keys():
        pytest.skip(f"{torch_cls.__name__} has no fused implementation in torch")
    params = leaves()
    copies = copies_of(params)
    theirs = torch_cls(copies, **options, **made_by)
    for step in range(3):
        draw_gradients(step, copies)
        theirs.step()
    for p, q in zip(params, copies):
        p.data.copy_(q.detach())
    ours = cls(params, lr=7.0, clip=math.inf, backend=backend)
    ours.load_state_dict(copy.deepcopy(theirs.state_dict()))
    assert ours.backend == backend
    assert ours.param_groups[0]["lr"] == 0.1
    for step in range(3, 6):
        draw_gradients(step, params, copies)
        ours.step()
        theirs.step()
        torch.testing.assert_close(params, copies, rtol=1e-5, atol=1e-5)


@each_namesake
def test_checkpoint_of_ours_loads_in_torch(name: str, backend: str) -> None:
    cls, torch_cls, options = NAMESAKES[name]
    params = leaves()
    copies = copies_of(params)
    ours = cls(params, **options, backend=backend)
    for step in range(3):
        draw_gradients(step, params)
        ours.step()
    for p, q in zip(params, copies):
        q.data.copy_(p.detach())
    theirs = torch_cls(copies, lr=7.0)
    theirs.load_state_dict(copy.deepcopy(ours.state_dict()))
    for step in range(3, 6):
        draw_gradients(step, params, copies)
        ours.step()
        theirs.step()
        torch.testing.assert_close(params, copies, rtol=1e-5, atol=1e-5)


def test_loading_keeps_what_the_constructor_was_told(backend: str) -> None:
    """A clip policy, a scope and a backend are no part of a checkpoint, and a load must not reset them."""
    params = leaves()
    policy = torchclip.ClipByGlobalNorm(1.0, nonfinite="skip")
    optimizer = torchclip.MomClip(params, lr=0.5, gamma=2.0, scope="group", clip=policy, backend=backend)
    optimizer.step()
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert optimizer.clip == policy and optimizer.backend == backend
    before = [p.detach().clone() for p in params]
    params[0].grad[0, 0] = math.nan
    optimizer.step()
    assert_same_params(params, before)
    unclipped = torchclip.SGD(params, lr=0.1, backend=backend)
    unclipped.load_state_dict(torchclip.SGD(params, lr=0.1, clip=1.0, backend=backend).state_dict())
    assert unclipped.clip is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_float32_state_of_half_parameters_survives_loading(dtype: torch.dtype, backend: str) -> None:
    """torch casts loaded state to the parameter's dtype; gRDA's accumulator and threshold would be lost with it."""
    params = [torch.nn.Parameter(torch.randn(40).to(dtype))]
    optimizer = torchclip.GRDA(params, lr=0.1, c=0.5, backend=backend)
    for step in range(3):
        draw_gradients(step, params)
        optimizer.step()
    fresh = torchclip.GRDA(params, lr=0.1, c=0.5, backend=backend)
    fresh.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for key, dtype_of_state in (("accumulator", torch.float32), ("l1", torch.float64), ("step", torch.float32)):
        assert fresh.state[params[0]][key].dtype == dtype_of_state
        assert same_bits(fresh.state[params[0]][key], optimizer.state[params[0]][key])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_state_that_was_widened_by_hand_is_loaded_as_it_is(dtype: torch.dtype, backend: str) -> None:
    """Float32 averages beside half-precision parameters, which every backend takes, are not rounded to their type."""
    params = [torch.nn.Parameter(torch.randn(40).to(dtype))]
    optimizer = build("adamw", params, backend=backend)
    draw_gradients(0, params)
    optimizer.step()
    for name in ("exp_avg", "exp_avg_sq"):
        optimizer.state[params[0]][name] = torch.rand(40) + 2**-20
    fresh = build("adamw", params, backend=backend)
    fresh.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for name in ("exp_avg", "exp_avg_sq"):
        assert fresh.state[params[0]][name].dtype == torch.float32
        assert same_bits(fresh.state[params[0]][name], optimizer.state[params[0]][name])
    fresh.step()


def test_loading_after_a_skipped_first_step(backend: str) -> None:
    """A buffer that was made for a step that never happened must not make a loaded one count as new."""
    params = leaves()
    copies = copies_of(params)
    trained = torchclip.SGD(copies, lr=0.1, momentum=0.9, backend=backend)
    trained.step()
    ours = torchclip.SGD(
        params, lr=0.1, momentum=0.9, clip=torchclip.ClipByGlobalNorm(9.0, nonfinite="skip"), backend=backend
    )
    params[0].grad[0, 0] = math.nan
    ours.step()
    ours.load_state_dict(copy.deepcopy(trained.state_dict()))
    for p, q in zip(params, copies):
        p.data.copy_(q.detach())
    for p, q in zip(params, copies):
        p.grad = torch.zeros_like(p)
        q.grad = torch.zeros_like(q)
    ours.step()
    trained.step()
    torch.testing.assert_close(params, copies)


@each_optimizer
def test_state_dict_shares_and_loads_before_the_first_step(name: str, backend: str) -> None:
    params = leaves()
    optimizer = build(name, params, backend=backend)
    fresh = build(name, params, backend=backend)
    fresh.load_state_dict(optimizer.state_dict())
    fresh.step(loss=LOSS)
    saved = fresh.state_dict()
    assert set(saved) == {"state", "param_groups"}
    again = build(name, params, backend=backend)
    again.load_state_dict(saved)
    again.step(loss=LOSS)


class AuthorsGRDA(torch.optim.Optimizer):
    """gRDA with the names of state that its authors' PyTorch code has."""

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            lr, c, mu = group["lr"], group["c"], group["mu"]
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state["iter_num"], state["l1_accumulation"] = torch.zeros(1), torch.zeros(1)
                    state["accumulator"] = p.detach().clone()
                t = state["iter_num"].add_(1)
                state["accumulator"].add_(p.grad, alpha=-lr)
                state["l1_accumulation"] += c * lr ** (mu + 0.5) * (t**mu - (t - 1) ** mu)
                accumulator = state["accumulator"]
                p.copy_(accumulator.sign() * (accumulator.abs() - state["l1_accumulation"]).clamp(min=0))


def test_checkpoint_of_grdas_authors_loads_here(backend: str) -> None:
    params = leaves()
    copies = copies_of(params)
    theirs = AuthorsGRDA(copies, {"lr": 0.1, "c": 0.5, "mu": 0.6})
    for step in range(3):
        draw_gradients(step, copies)
        theirs.step()
    for p, q in zip(params, copies):
        p.data.copy_(q.detach())
    ours = torchclip.GRDA(params, lr=7.0, backend=backend)
    saved = copy.deepcopy(theirs.state_dict())
    ours.load_state_dict(saved)
    assert "iter_num" in saved["state"][0], "the caller's dict was changed"
    for step in range(3, 6):
        draw_gradients(step, params, copies)
        ours.step()
        theirs.step()
    for p, q in zip(params, copies):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-5)
        state = ours.state[p]
        assert state.keys() == {"accumulator", "step", "l1"}
        assert state["step"] == theirs.state[q]["iter_num"]
        assert state["l1"].dtype is torch.float64
    assert 0 < ours.sparsity() < 1
