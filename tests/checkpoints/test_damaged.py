"""Checkpoints with wrong numbers and tensors: refused as a whole, so that the optimizer goes on as if nothing had been
loaded. Numbers that are written by hand, past every check, may spoil a step, and read and write no foreign memory."""

from __future__ import annotations

import copy
import functools
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

import emulated
import torchclip
from builders import assert_same_params, copies_of, draw_gradients, leaves
from memory_guard import same_bits
from places import PYTHONPATH, ROOT
from records import BACKENDS
from torchclip import AdaLossStep, AutoClip, GradientDropout, Lookahead, ZClip

each_backend = pytest.mark.parametrize("backend", BACKENDS, indirect=True)

Saved = dict[str, Any]
COMMON: dict[str, Any] = {"step_size": AdaLossStep(), "extensions": (GradientDropout(0.2), Lookahead(k=2)), "seed": 3}
MADE: dict[str, tuple[type[torch.optim.Optimizer], dict[str, Any]]] = {
    "auto": (torchclip.AdamW, {"clip": AutoClip(50.0, window=4), **COMMON}),
    "z": (torchclip.NAdam, {"clip": ZClip(warmup_steps=2), **COMMON}),
    "sums": (torchclip.AdaGradNorm, {"momentum": 0.9, "scope": "group"}),
}


def made(name: str, params: list[torch.nn.Parameter], backend: str) -> torch.optim.Optimizer:
    cls, options = MADE[name]
    return cls([{"params": params[:2]}, {"params": params[2:]}], lr=0.1, **options, backend=backend)


def shared(name: str, value: Any) -> Callable[[Saved], None]:
    def change(saved: Saved) -> None:
        assert name in saved["param_groups"][0]["shared"]
        saved["param_groups"][0]["shared"][name] = value

    return change


def entry(name: str, value: Any) -> Callable[[Saved], None]:
    """Of the second parameter, of 17 elements."""

    def change(saved: Saved) -> None:
        assert name in saved["state"][1]
        saved["state"][1][name] = value(saved["state"][1][name]) if callable(value) else value

    return change


def group(key: str, value: Any) -> Callable[[Saved], None]:
    return lambda saved: saved["param_groups"][1].update({key: value})


COUNTS = {"nan": math.nan, "negative": -1.0, "huge": 1e300, "infinite": math.inf, "part": 0.5}
NUMBERS = {"nan": math.nan, "negative": -1.0, "infinite": math.inf}


def each(name: str, values: dict[str, float]) -> dict[str, Callable[[Saved], None]]:
    return {f"{name}_{key}": shared(name, torch.tensor(value, dtype=torch.float64)) for key, value in values.items()}


def odd(name: str) -> dict[str, Callable[[Saved], None]]:
    """Values that are no number."""
    values = {"text": "1", "none": None, "two": torch.zeros(2), "complex": torch.tensor(1j), "empty": torch.zeros(0)}
    return {f"{name}_{key}": shared(name, value) for key, value in values.items()}


OF_AUTO: dict[str, Callable[[Saved], None]] = {
    **each("norm_count", COUNTS),
    **odd("norm_count"),
    **each("step", COUNTS),
    **each("b_squared", {**NUMBERS, "zero": 0.0}),
    **odd("b_squared"),
    "window_nan": shared("norm_window", torch.tensor([1.0, math.nan, 2.0, 0.0])),
    "window_negative": shared("norm_window", torch.tensor([1.0, -2.0, 2.0, 0.0])),
    "window_infinite": shared("norm_window", torch.tensor([1.0, math.inf, 2.0, 0.0])),
    "window_matrix": shared("norm_window", torch.zeros(2, 2)),
    "window_list": shared("norm_window", [1.0, 2.0, 3.0, 4.0]),
    "seed_nan": shared("seed", math.nan),
    "seed_part": shared("seed", torch.tensor(0.5)),
    "seed_huge": shared("seed", 2**64),
    "seed_text": shared("seed", "3"),
    **{f"state_step_{key}": entry("step", torch.tensor(value)) for key, value in COUNTS.items()},
    "state_step_two": entry("step", torch.zeros(2)),
    "moment_shape": entry("exp_avg", torch.zeros(16)),
    "moment_dimensions": entry("exp_avg", torch.zeros(17, 1)),
    "moment_integers": entry("exp_avg_sq", torch.zeros(17, dtype=torch.int64)),
    "moment_complex": entry("exp_avg_sq", torch.zeros(17, dtype=torch.complex64)),
    "moment_sparse": entry("exp_avg", torch.zeros(17).to_sparse()),
    "moment_number": entry("exp_avg", 0.0),
    "moment_list": entry("exp_avg", [0.0] * 17),
    "moment_meta": entry("exp_avg", torch.zeros(17, device="meta")),
    "slow_shape": entry("slow", torch.zeros(3)),
    "slow_text": entry("slow", "slow"),
    "moment_missing": lambda saved: saved["state"][1].pop("exp_avg"),
    "moment_foreign": lambda saved: saved["state"][1].update(accumulator=torch.zeros(17)),
    "state_none": lambda saved: saved["state"].update({1: None}),
    "state_tensor": lambda saved: saved["state"].update({1: torch.zeros(17)}),
    "states_list": lambda saved: saved.update(state=[{}, {}, {}]),
    "states_missing": lambda saved: saved.pop("state"),
    "groups_missing": lambda saved: saved.pop("param_groups"),
    "groups_fewer": lambda saved: saved["param_groups"].pop(),
    "groups_none": lambda saved: saved.update(param_groups=[None, None]),
    "params_fewer": lambda saved: saved["param_groups"][0]["params"].pop(),
    "params_missing": lambda saved: saved["param_groups"][0].pop("params"),
    "params_twice": group("params", [0]),
    "params_unhashable": group("params", [[2]]),
    "lr_negative": group("lr", -1.0),
    "lr_nan": group("lr", math.nan),
    "lr_text": group("lr", "0.1"),
    "betas_one": group("betas", (0.9,)),
    "betas_above": group("betas", (0.9, 1.5)),
    "eps_negative": group("eps", -1.0),
    "group_that_cannot_be_copied": group("mine", (i for i in range(3))),
}
OF_Z = {
    **each("norm_count", COUNTS),
    **each("norm_mean", NUMBERS),
    **odd("norm_mean"),
    **each("norm_variance", NUMBERS),
    "product_nan": entry("mu_product", torch.tensor(math.nan)),
    "product_above": entry("mu_product", 1.5),
    "product_negative": entry("mu_product", -0.5),
}
OF_SUMS = {
    **each("sum", {**NUMBERS, "zero": 0.0}),
    **odd("sum"),
    "sum_missing": lambda saved: saved["param_groups"][0].pop("shared"),
    "buffer_shape": entry("momentum_buffer", lambda value: value[:-1].clone()),
}
TABLES = {"auto": OF_AUTO, "z": OF_Z, "sums": OF_SUMS}
DAMAGES = {f"{name}-{key}": (name, change) for name, table in TABLES.items() for key, change in table.items()}


def train(steps: range, *optimizers: torch.optim.Optimizer) -> None:
    for step in steps:
        draw_gradients(step, *[[p for group in one.param_groups for p in group["params"]] for one in optimizers])
        for one in optimizers:
            one.step(loss=1.0 + step % 3)


def assert_same(one: Any, other: Any) -> None:
    """Equal bits of parameters, state, groups and shared numbers."""
    for mine, its in zip(one.param_groups, other.param_groups):
        assert_same_params(mine["params"], its["params"])
        assert {key: mine[key] for key in mine.keys() - {"params", "shared"}} == {
            key: its[key] for key in its.keys() - {"params", "shared"}
        }
        held = [(one.state[p], other.state[q]) for p, q in zip(mine["params"], its["params"])]
        for ours, theirs in [*held, (mine.get("shared", {}), its.get("shared", {}))]:
            assert ours.keys() == theirs.keys() and all(same_bits(ours[key], theirs[key]) for key in ours)


# Triton is interpreted: it takes one of each kind of number.
CASES = [
    pytest.param(backend, *DAMAGES[key], id=f"{key}-{backend}")
    for key in DAMAGES
    for backend in BACKENDS
    if backend != "triton" or key.endswith(("nan", "missing", "shape"))
]


@pytest.mark.parametrize("backend, name, change", CASES, indirect=["backend"])
def test_a_refused_load_changes_nothing(name: str, change: Callable[[Saved], None], backend: str) -> None:
    """The optimizer goes on bit for bit beside one that nothing was loaded into."""
    params = leaves()
    optimizer, twin = made(name, params, backend), made(name, copies_of(params), backend)
    train(range(3), optimizer, twin)
    saved = copy.deepcopy(optimizer.state_dict())
    change(saved)
    clip_factor = optimizer.clip_factor
    with pytest.raises((TypeError, ValueError, RuntimeError, KeyError, NotImplementedError, AttributeError)):
        optimizer.load_state_dict(saved)
    assert torch.equal(optimizer.clip_factor, clip_factor)
    assert_same(optimizer, twin)
    train(range(3, 6), optimizer, twin)
    assert_same(optimizer, twin)
    assert torch.equal(optimizer.metrics()["clipped_fraction"], twin.metrics()["clipped_fraction"])


def test_a_hook_that_raises_after_loading(backend: str) -> None:
    params = leaves()
    optimizer, twin = made("auto", params, backend), made("auto", copies_of(params), backend)
    saved = copy.deepcopy(optimizer.state_dict())
    train(range(3), optimizer, twin)

    def refuse(loaded: torch.optim.Optimizer) -> None:
        assert not loaded.state
        raise KeyboardInterrupt

    handle = optimizer.register_load_state_dict_post_hook(refuse)
    with pytest.raises(KeyboardInterrupt):
        optimizer.load_state_dict(saved)
    handle.remove()
    assert_same(optimizer, twin)
    train(range(3, 6), optimizer, twin)
    assert_same(optimizer, twin)


def test_a_first_step_that_was_skipped_is_still_a_first_step(backend: str) -> None:
    """After a load that fails: with dampening the first buffer is the gradient, and p = -1 · 1."""
    param = torch.nn.Parameter(torch.zeros(3))
    clip = torchclip.ClipByGlobalNorm(1e9, nonfinite="skip")
    options = {"lr": 1.0, "momentum": 0.9, "dampening": 0.5}
    optimizer = torchclip.SGD([param], **options, clip=clip, backend=backend)
    param.grad = torch.full((3,), math.nan)
    optimizer.step()
    with pytest.raises(RuntimeError):
        optimizer.load_state_dict(torch.optim.Adam(copies_of([param])).state_dict() | {"state": {0: {"exp_avg": 1}}})
    param.grad = torch.ones(3)
    optimizer.step()
    torch.testing.assert_close(param.detach(), torch.full((3,), -1.0))


def test_numbers_of_another_kind_that_are_right_are_taken(backend: str) -> None:
    """As integers, in other types, and of one element."""
    params = leaves()
    optimizer = made("auto", params, backend)
    train(range(3), optimizer)
    twin = made("auto", copies_of(params), backend)
    saved = copy.deepcopy(optimizer.state_dict())
    numbers = saved["param_groups"][0]["shared"]
    numbers |= {"step": 3, "norm_count": torch.tensor([3], dtype=torch.int32), "seed": 3}
    numbers["b_squared"] = numbers["b_squared"].item()
    twin.load_state_dict(saved)
    train(range(3, 6), optimizer, twin)
    assert_same(optimizer, twin)


WRITTEN = {"nan": math.nan, "negative": -1.0, "very_negative": -1e18, "huge": 1e300, "infinite": math.inf}
PROGRAM = """
import contextlib, json, sys, torch, torchclip
backends, given = json.loads(sys.argv[1]), [float(value) for value in sys.argv[2].split(',')]
if 'triton' in backends:
    import interpreted
    interpreted.hasten()

def write(backend):
    # Interpreted, it takes long.
    values, window = (given[:2], 8) if backend == 'triton' else (given, 512)
    params = [torch.nn.Parameter(torch.ones(70, 3)), torch.nn.Parameter(torch.ones(17))]
    auto, long, z = torchclip.AutoClip(50.0, window=4), torchclip.AutoClip(50.0, window=window), torchclip.ZClip()
    for name, clip in (("norm_count", auto), ("norm_window", long), ("norm_count", z), ("step", None)):
        extensions = (torchclip.GradientDropout(.3), torchclip.GradientNoise(), torchclip.Lookahead(k=2))
        optimizer = torchclip.NAdam(params, lr=.1, clip=clip, extensions=extensions, seed=1, backend=backend)
        for value in values:
            for written in range(2):
                for param in params:
                    param.grad = torch.ones_like(param)
                if written:
                    held = optimizer.param_groups[0]["shared"][name]
                    value = torch.tensor(value, dtype=torch.float64)
                    held.copy_(value)
                    if name == "norm_window":
                        held[::3] = 1.0
                        optimizer.param_groups[0]["shared"]["norm_count"].fill_(600.0)
                    for param in params:
                        optimizer.state[param]["step"].copy_(value)
                try:
                    optimizer.step()
                except (ValueError, RuntimeError, OverflowError) as error:
                    print(type(error).__name__, error)
            optimizer.param_groups[0]["shared"][name].fill_(1.0)

for backend in backends:
    if backend == 'cuda':
        import emulated
    print(f'{backend}:', flush=True)
    with emulated.emulated() if backend == 'cuda' else contextlib.nullcontext():
        write(backend)
    print('alive', flush=True)
"""


@functools.cache
def written() -> subprocess.CompletedProcess[str]:
    """One process for all backends, since each would import torch again, with a heap that is checked."""
    here = [name for name in BACKENDS if name != "cuda" and emulated.unavailable_reason(name) is None]
    here = [name for name in here if not (name == "triton" and emulated.ON_GPU)]
    here += ["cuda"] if emulated.unbuilt_reason() is None else []
    environment = {**os.environ, "MALLOC_CHECK_": "3", "MALLOC_PERTURB_": "165", "PYTHONPATH": PYTHONPATH}
    command = [sys.executable, "-c", PROGRAM, json.dumps(here), ",".join(map(str, WRITTEN.values()))]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600, cwd=ROOT)


@pytest.mark.xdist_group("written_by_hand")
@each_backend
def test_numbers_written_by_hand_kill_nothing(backend: str) -> None:
    done = written()
    began, _, rest = done.stdout.partition(f"{backend}:\n")
    words, alive, _ = rest.partition("alive\n")
    assert alive, (done.returncode, began[-200:], words, done.stderr)
    assert done.returncode == 0, (done.returncode, done.stderr)
    if backend in ("cpu", "reference"):  # where the host reads them, it says what is wrong
        assert 'ValueError param_groups\' "shared" number "norm_count" is nan' in words
