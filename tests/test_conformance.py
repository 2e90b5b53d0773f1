"""Every rule, clip policy, backend, dtype and layout against the reference path in float64.

Three runs get the same gradients: the reference path in float64; the reference path in the tested dtype, on plain
contiguous tensors; and the tested backend, on awkward tensors inside watched buffers, saved and loaded half-way. The
last may be off from the first by twice as much as the second is, plus a floor of a few roundings.
"""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Iterable

import pytest
import torch

import torchclip
from guarded import AWKWARD, STEPS, Layout, around_chunks, same_bits
from records import BACKENDS, CASES, DTYPES, NO_CLIP, RULES, Case, Clip, Rule, dtype_name
from runs import LOAD_AFTER, Run, Yardstick, awkward_run, baselines, initial_values

CHUNKS = (4096, 16384)
"""Candidates for the number of elements that a backend treats as one piece of work."""


def check(case: Case, layouts: tuple[Layout, ...], dtype: torch.dtype, backend: str, recorded: tuple[int, ...]) -> None:
    """Runs the case, and compares all of it."""
    exact, baseline = baselines(case, layouts, dtype, recorded)
    run = awkward_run(case, layouts, dtype, backend, recorded)
    assert run.values.keys() == exact.values.keys()
    start = initial_values(layouts, dtype)
    yardstick = Yardstick(exact, baseline, start, dtype)
    for key, value in run.values.items():
        step, position, name = key
        where = layouts[position].name if position >= 0 else "the optimizer"
        if position >= 0:
            assert run.dtypes[key] == baseline.dtypes[key], f"{name} of {where}"
        if name == "step":
            assert torch.equal(value, exact.values[key]), f"steps of {where} after step {step}"
        else:
            yardstick.check(key, value, where)
    last = max(recorded)
    for position, layout in enumerate(layouts):
        if layout.numel == 0 or layout.absent.issuperset(range(1, last + 1)):
            continue
        # A backend that writes no parameter, or leaves one out, must not pass.
        moved = {step: yardstick.error((step, position, "parameter"), start[position].double()) for step in recorded}
        assert any(moved[step] > yardstick.allowed[step, "parameter"] for step in recorded), (
            f"{layout.name} moves by {moved} only, and errors up to {yardstick.allowed} would pass"
        )
        if case.rule.cls is torchclip.GRDA:
            check_zeros(yardstick, run, last, position)


def check_zeros(yardstick: Yardstick, run: Run, step: int, position: int) -> None:
    """gRDA's exact zeros are where float64 has them, save where the accumulator is within rounding of the threshold."""
    key = (step, position, "accumulator")
    accumulator, l1 = yardstick.exact.values[key], yardstick.exact.values[step, position, "l1"]
    near = (accumulator.abs() - l1).abs() <= yardstick.allowed[step, "accumulator"] * yardstick.scale(key)
    zeros = run.values[step, position, "parameter"] == 0
    assert torch.equal(zeros | near, (accumulator.abs() <= l1) | near)


def grid(cases: Iterable[tuple[Case, torch.dtype, str]]) -> list[object]:
    """Parameter sets with readable ids."""
    return [
        pytest.param(case, dtype, backend, id=f"{case.name}-{backend}-{dtype_name(dtype)}")
        for case, dtype, backend in cases
    ]


def whole_grid() -> Iterable[tuple[Case, torch.dtype, str]]:
    """Cases by dtype by backend; the backends of a case come together, so that they share its baselines."""
    for case in CASES:
        for dtype, backend in itertools.product(dtypes_of(case), BACKENDS):
            # The reference path against itself shows that layouts, loading and schedules do not matter to it, and that
            # is the same code in every dtype: one that computes in its own type, and one that does not.
            if backend != "reference" or dtype in (torch.float32, torch.bfloat16):
                yield case, dtype, backend


def dtypes_of(case: Case) -> tuple[torch.dtype, ...]:
    """All four for every rule, and for the policy that everyone uses. The other policies differ from it in numbers that
    the host works out, and mixes in combinations of what was tested apart: a full and a half-precision type."""
    everywhere = case.clip is NO_CLIP or case.clip.name == "global_norm"
    return DTYPES if everywhere else (torch.float32, torch.bfloat16)


@pytest.mark.parametrize("case, dtype, backend", grid(whole_grid()), indirect=["backend"])
def test_step_matches_float64(case: Case, dtype: torch.dtype, backend: str) -> None:
    check(case, AWKWARD, dtype, backend, recorded=(1, LOAD_AFTER, STEPS))


LARGE = around_chunks(CHUNKS)
LARGE_NORM = math.sqrt(sum(layout.numel for layout in LARGE))

# One case per kernel, and each kind of norm: the loops over chunks do not depend on hyperparameters.
LARGE_CASES = (
    Case(
        Rule("sgd", torchclip.SGD, {"lr": 0.5, "momentum": 0.9}),
        Clip("global_norm", torchclip.ClipByGlobalNorm(LARGE_NORM / 2)),
    ),
    Case(Rule("adamw", torchclip.AdamW, {"lr": 0.2}), NO_CLIP),
    Case(Rule("mix_clip", torchclip.MixClip, {"lr": 1.0, "gamma": LARGE_NORM, "momentum": 0.5}), NO_CLIP),
    Case(
        Rule("grda", torchclip.GRDA, {"lr": 0.5, "c": 0.1}),
        Clip("tensor_norm", torchclip.ClipByTensorNorm(LARGE_NORM / 4)),
    ),
)


# The loops are compiled for each dtype; two cover both widths of state beside the parameter's own.
@pytest.mark.parametrize(
    "case, dtype, backend",
    grid(itertools.product(LARGE_CASES, (torch.float32, torch.bfloat16), BACKENDS)),
    indirect=["backend"],
)
def test_step_matches_float64_around_chunks(case: Case, dtype: torch.dtype, backend: str) -> None:
    check(case, LARGE, dtype, backend, recorded=(1, 3))


# How work is split does not depend on a rule's options or on the dtype: one case per kernel.
@pytest.mark.parametrize("case", LARGE_CASES, ids=lambda case: case.name)
def test_steps_repeat_bitwise_on_any_number_of_threads(case: Case, backend: str) -> None:
    runs = []
    for threads in (1, 2, 2, 3):
        torch.set_num_threads(threads)
        runs.append(awkward_run(case, LARGE + AWKWARD, torch.float32, backend, recorded=(2,)))
    for other in runs[1:]:
        for key, value in runs[0].values.items():
            assert same_bits(value, other.values[key]), key


def test_every_class_is_in_the_grid() -> None:
    public = (getattr(torchclip, name) for name in torchclip.__all__)
    classes = {cls for cls in public if inspect.isclass(cls) and issubclass(cls, torch.optim.Optimizer)}
    assert {rule.cls for rule in RULES} == classes
    assert len({case.name for case in CASES}) == len(CASES)
