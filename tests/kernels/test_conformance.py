"""Every rule, clip policy, backend, dtype and layout against the reference path in float64.

Three runs get the same gradients: the reference path in float64; the reference path in the tested dtype, on plain
contiguous tensors; and the tested backend, on awkward tensors inside watched buffers, saved and loaded half-way. The
last may be off from the first by twice as much as the second is, plus a floor of a few roundings.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import torchclip
from emulated import ON_GPU, ORDERS, emulator
from memory_guard import AWKWARD, FEW, STEPS, Layout, around_chunks, same_bits
from records import (
    ALL_EXTENSIONS,
    BACKENDS,
    CASES,
    DTYPES,
    NO_CLIP,
    NO_EXTENSIONS,
    NO_STEP_SIZE,
    SQRT_DECAY,
    Case,
    Clip,
    dtype_name,
)
from rule_records import RULES, Rule
from runs import COUNTED, LOAD_AFTER, Run, Yardstick, awkward_run, baselines, initial_values
from torchclip.backends.reference.draws import Draws

CHUNKS = (4096, 16384)
"""Candidates for the number of elements that a backend treats as one piece of work."""


def remembered(draw: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A method of Draws that draws once for each parameter of a step."""

    @functools.lru_cache(maxsize=3 * STEPS * len(AWKWARD))
    def drawn(draws: Draws, shape: torch.Size, strides: tuple[int, ...], *arguments: Any) -> Tensor:
        return draw(draws, torch.empty_strided(shape, strides), *arguments)

    return lambda draws, parameter, *arguments: drawn(draws, parameter.shape, parameter.stride(), *arguments)


REMEMBERED = {name: remembered(getattr(Draws, name)) for name in ("dropped", "normals")}


@pytest.fixture(autouse=True)
def _draw_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The runs of a case on the reference path draw the same numbers, which take it longer than all the rest."""
    for name, method in REMEMBERED.items():
        monkeypatch.setattr(Draws, name, method)


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
        if name in COUNTED:
            assert torch.equal(value, exact.values[key]), f"{name} of {where} after step {step}"
        else:
            yardstick.check(key, value, where)
    last = max(recorded)
    for position, layout in enumerate(layouts):
        if layout.numel <= case.draws or layout.absent.issuperset(range(1, last + 1)):
            continue  # what is drawn for one element alone may hold it in its place
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
    """Parameter sets with readable ids; one process runs all backends of a case, so that they share its baselines."""
    return [
        pytest.param(
            case,
            dtype,
            backend,
            id=f"{case.name}-{backend}-{dtype_name(dtype)}",
            marks=pytest.mark.xdist_group(f"{case.name}-{dtype_name(dtype)}"),
        )
        for case, dtype, backend in cases
    ]


def whole_grid() -> Iterable[tuple[Case, torch.dtype, str]]:
    """Cases by dtype by backend; the backends of a case come together, so that they share its baselines."""
    for case in CASES:
        for dtype, backend in itertools.product(dtypes_of(case), BACKENDS):
            # The reference path against itself shows that layouts, loading and schedules do not matter to it, and that
            # is the same code in every dtype: one that computes in its own type, and one that does not.
            if backend == "reference" and dtype not in (torch.float32, torch.bfloat16):
                continue
            if backend != "triton" or dtype in triton_dtypes_of(case):
                yield case, dtype, backend


def dtypes_of(case: Case) -> tuple[torch.dtype, ...]:
    """All four for every rule, for the policy that everyone uses, and for all extensions at once. The other policies
    differ from it in numbers that the host works out, step sizes likewise, single extensions are among all of them, and
    mixes are combinations of what was tested apart: a full and a half-precision type."""
    everywhere = case.clip is NO_CLIP or case.clip.name == "global_norm"
    plain = case.pace == NO_STEP_SIZE and case.extras == NO_EXTENSIONS
    return DTYPES if everywhere and (plain or case.extras is ALL_EXTENSIONS) else (torch.float32, torch.bfloat16)


def triton_dtypes_of(case: Case) -> tuple[torch.dtype, ...]:
    """Interpreting takes a second a case, and so does compiling for a GPU. The types differ in how elements are read
    and written and in the type that is computed in, which one rule of each family shows, and all rules in one."""
    return DTYPES if case.name in ("adamw-no_clip", "mix_clip-no_clip", "grda-no_clip") else (torch.float32,)


@pytest.mark.parametrize("case, dtype, backend", grid(whole_grid()), indirect=["backend"])
def test_step_matches_float64(case: Case, dtype: torch.dtype, backend: str) -> None:
    if backend == "triton" and not ON_GPU:
        check(case, FEW, dtype, backend, recorded=(1, LOAD_AFTER, LOAD_AFTER + 2))
    else:
        check(case, AWKWARD, dtype, backend, recorded=(1, LOAD_AFTER, STEPS))


LARGE = (
    *around_chunks(CHUNKS),
    # A strided tensor whose second chunk begins in the middle of a row.
    Layout("walks_across_chunks", (7, 19, 131), strides=(1, 1050, 8), grad_strides=(2496, 1, 19)),
)
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
    Case(Rule("sgd", torchclip.SGD, {"lr": 0.5, "momentum": 0.9}), NO_CLIP, SQRT_DECAY, ALL_EXTENSIONS),
    Case(Rule("ada_grad_norm", torchclip.AdaGradNorm, {"lr": LARGE_NORM, "momentum": 0.5}), NO_CLIP),
)

# Rows that are longer than a chunk, that fill one together, and that lie across one; dense, transposed and with gaps.
ROWS = (
    Layout("rows_of_a_chunk", (5, 4096), offset=1),
    Layout("rows_across_chunks", (3, 16385)),
    Layout("short_rows", (9001, 3)),
    Layout("rows_apart", (70, 300), strides=(1, 70)),
    Layout("rows_with_gaps", (37, 250), strides=(260, 1), grad_strides=(1, 40)),
    Layout("channels_last", (6, 32, 9, 9), strides=(2592, 1, 288, 32)),
    Layout("one_row", (1, 5000)),
    Layout("no_rows", (4097,)),
    Layout("number", ()),
)
SHORT_ROWS = (*(layout for layout in ROWS if layout.name != "short_rows"), Layout("short_rows", (301, 3)))
"""For a backend that is interpreted row by row."""

ROW_CASES = (
    Case(Rule("adamw", torchclip.AdamW, {"lr": 0.2}), Clip("adaptive", torchclip.AdaptiveGradientClip(0.85, eps=0.1))),
    Case(Rule("row", torchclip.AdaGradNorm, {"lr": 9.0, "momentum": 0.5, "scope": "row"}, {"momentum": 0.0}), NO_CLIP),
    Case(Rule("tensor", torchclip.AdaGradNorm, {"lr": 99.0, "scope": "tensor", "weight_decay": 0.1}), NO_CLIP),
)


# The loops are compiled for each dtype; two cover both widths of state beside the parameter's own.
@pytest.mark.parametrize(
    "case, dtype, backend",
    grid(itertools.product(LARGE_CASES, (torch.float32, torch.bfloat16), BACKENDS)),
    indirect=["backend"],
)
def test_step_matches_float64_around_chunks(case: Case, dtype: torch.dtype, backend: str) -> None:
    check(case, LARGE, dtype, backend, recorded=(1, 3))


@pytest.mark.parametrize(
    "case, dtype, backend",
    grid(itertools.product(ROW_CASES, (torch.float32, torch.bfloat16), BACKENDS)),
    indirect=["backend"],
)
def test_norms_of_rows_match_float64(case: Case, dtype: torch.dtype, backend: str) -> None:
    interpreted = backend == "triton" and not ON_GPU
    check(case, SHORT_ROWS if interpreted else ROWS, dtype, backend, recorded=(1, 3))


def ways_to_split(backend: str) -> Iterator[None]:
    """On a processor one, two and three threads, two of them twice; under the emulator of CUDA every order of threads
    and blocks; on a GPU the same four times over."""
    if backend == "cuda" and not ON_GPU:
        for order in (*ORDERS.values(), ORDERS["shuffled"]):
            yield emulator().set_order(*order)
    else:
        for threads in (1, 2, 2, 3):
            yield torch.set_num_threads(threads)


# How work is split does not depend on a rule's options or on the dtype: one case per kernel, on the tensors that the
# kernel cuts up.
@pytest.mark.parametrize("case", LARGE_CASES + ROW_CASES, ids=lambda case: case.name)
def test_steps_repeat_bitwise_however_they_are_split(case: Case, backend: str) -> None:
    if backend == "triton" and not ON_GPU:
        pytest.skip("the interpreter runs one program after the other, in one order")
    layouts = (LARGE if case in LARGE_CASES else LARGE + ROWS if case.rule.name == "tensor" else ROWS) + AWKWARD
    runs = [awkward_run(case, layouts, torch.float32, backend, recorded=(2,)) for _ in ways_to_split(backend)]
    for other in runs[1:]:
        for key, value in runs[0].values.items():
            assert same_bits(value, other.values[key]), key


def test_every_class_is_in_the_grid() -> None:
    public = (getattr(torchclip, name) for name in torchclip.__all__)
    classes = {cls for cls in public if inspect.isclass(cls) and issubclass(cls, torch.optim.Optimizer)}
    classes.remove(torchclip.FusedOptimizer)  # abstract
    assert {rule.cls for rule in RULES} == classes
    assert len({case.name for case in CASES}) == len(CASES)
