"""Random draws seen from outside: the same bits on every backend, at every size, layout and number of threads."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import torchclip
from memory_guard import contiguous_strides, same_bits
from records import BACKENDS
from torchclip import GradientDropout, GradientNoise, LRDropout
from torchclip.backends.reference.draws import Draws

SIZES = (0, *range(1, 10), 63, 64, 65, *(n + d for n in (4096, 16384, 65536) for d in (-1, 0, 1)))
"""Around the four elements of a counter, and around the chunks in which a backend may cut its work."""

# Of standard deviation 1 in every step.
NOISE = GradientNoise(eta=1.0, gamma=0.0)

# What makes the draws themselves visible: with lr = 1, parameters of zero become minus what is drawn, and every
# operation on the way is exact, or is one addition.
VISIBLE: dict[str, tuple[tuple[object, ...], float]] = {
    "noise": ((NOISE,), 0.0),
    "gradient_dropout": ((GradientDropout(0.3),), 1.0),
    "lr_dropout": ((LRDropout(0.6),), 1.0),
    "together": ((NOISE, GradientDropout(0.3), LRDropout(0.6)), 1.0),
}
each_draw = pytest.mark.parametrize("extensions, gradient", VISIBLE.values(), ids=VISIBLE)


def drawn(
    params: list[torch.nn.Parameter],
    extensions: tuple[object, ...],
    gradient: float,
    backend: str,
    seed: int = 2026,
    steps: int = 3,
) -> list[list[Tensor]]:
    """What steps of SGD with lr = 1 make of zeros, step by step."""
    optimizer = torchclip.SGD(params, lr=1.0, extensions=extensions, seed=seed, backend=backend)
    results = []
    for _ in range(steps):
        for p in params:
            p.data.zero_()
            p.grad = torch.full_like(p, gradient)
        optimizer.step()
        results.append([p.detach().clone() for p in params])
    return results


def zeros(sizes: tuple[int, ...] = (5, 130), dtype: torch.dtype = torch.float32) -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.zeros(size, dtype=dtype)) for size in sizes]


def assert_same(ours: list[list[Tensor]], theirs: list[list[Tensor]]) -> None:
    """Equal bits in every step."""
    assert all(same_bits(p, q) for mine, other in zip(ours, theirs) for p, q in zip(mine, other))


@functools.lru_cache
def reference_draws(extensions: tuple[object, ...], gradient: float) -> list[list[Tensor]]:
    """For every backend's comparison."""
    return drawn(zeros(SIZES), extensions, gradient, "reference", steps=1)


@each_draw
def test_bits_agree_at_every_size_and_number_of_threads(
    extensions: tuple[object, ...], gradient: float, backend: str
) -> None:
    expected = reference_draws(extensions, gradient)
    for threads in (3,) if backend == "reference" else (1, 2, 3):
        torch.set_num_threads(threads)
        assert_same(drawn(zeros(SIZES), extensions, gradient, backend, steps=1), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
@each_draw
def test_bits_agree_in_every_dtype(
    extensions: tuple[object, ...], gradient: float, dtype: torch.dtype, backend: str
) -> None:
    """The draws of float32 in another type: a normal number is one of float32, and rounded to the parameter's type."""
    sizes = (1, 5, 4097)
    ours = drawn(zeros(sizes, dtype), extensions, gradient, backend)
    assert_same(ours, drawn(zeros(sizes, dtype), extensions, gradient, "reference"))
    if len(extensions) == 1:
        in_float32 = drawn(zeros(sizes), extensions, gradient, backend)
        assert_same(ours, [[p.to(dtype) for p in params] for params in in_float32])


LAYOUTS = {
    "matrix": ((5, 7), (7, 1)),
    "transposed": ((5, 7), (1, 5)),
    "channels_last": ((2, 3, 5, 4), (60, 1, 12, 3)),
    "rows_with_gaps": ((6, 10), (16, 1)),
    "every_third": ((19,), (3,)),
    "transposed_with_gaps": ((4, 5), (1, 8)),
    "equal_strides": ((1, 6, 1), (6, 1, 6)),
    "number": ((), ()),
}


@pytest.mark.parametrize("shape, strides", LAYOUTS.values(), ids=LAYOUTS)
@each_draw
def test_elements_are_numbered_in_memory_order(
    extensions: tuple[object, ...], gradient: float, shape: tuple[int, ...], strides: tuple[int, ...], backend: str
) -> None:
    first = torch.zeros(3)  # so that the parameter is not number 0
    param = torch.nn.Parameter(torch.empty_strided(shape, strides).zero_())
    ours = drawn([torch.nn.Parameter(first.clone()), param], extensions, gradient, backend)
    flat = drawn([torch.nn.Parameter(first), *zeros((param.numel(),))], extensions, gradient, backend)
    order = sorted(range(len(shape)), key=lambda dim: -strides[dim])
    for mine, other in zip(ours, flat):
        assert torch.equal(mine[1].permute(order).reshape(-1), other[1])
    # The gradient's layout does not matter.
    optimizer = torchclip.SGD([first, param], lr=1.0, extensions=extensions, seed=2026, backend=backend)
    param.data.zero_()
    param.grad = torch.empty_strided(shape, contiguous_strides(shape)).fill_(gradient)
    optimizer.step()
    assert torch.equal(param.detach(), ours[0][1])


@each_draw
def test_draws_depend_on_seed_step_parameter_and_kind(
    extensions: tuple[object, ...], gradient: float, backend: str
) -> None:
    size = 400
    runs = {seed: drawn(zeros((size, size)), extensions, gradient, backend, seed=seed) for seed in (0, 1, 2**32, -1)}
    different = [p for run in runs.values() for step in run for p in step]
    for number, p in enumerate(different):
        assert not any(torch.equal(p, q) for q in different[:number])
    assert_same(runs[0], drawn(zeros((size, size)), extensions, gradient, backend, seed=0))
    assert_same(runs[-1], drawn(zeros((size, size)), extensions, gradient, backend, seed=2**64 - 1))  # the same bits


def test_the_two_dropouts_drop_different_elements(backend: str) -> None:
    by_gradient, by_rate = (
        drawn(zeros((1000,)), (kind(0.5),), 1.0, backend)[0][0] for kind in (GradientDropout, LRDropout)
    )
    assert 380 < int((by_gradient == by_rate).sum()) < 620


@pytest.mark.parametrize("p", [0.0, 1e-3, 0.1, 0.5, 0.9, 1 - 2**-40])
@pytest.mark.parametrize("kind", [GradientDropout, LRDropout], ids=lambda kind: kind.__name__)
def test_the_share_that_is_dropped(kind: Callable[[float], object], p: float, backend: str) -> None:
    size = 60_000
    dropped = int((drawn(zeros((size,)), (kind(p),), 1.0, backend, steps=1)[0][0] == 0).sum())
    assert abs(dropped - p * size) <= 5 * math.sqrt(p * (1 - p) * size) + 1e-3


def test_the_noise_is_normal_and_shrinks(backend: str) -> None:
    extension = GradientNoise(eta=4.0, gamma=1.0)
    size = 60_000
    for step, (values,) in enumerate(drawn(zeros((size,)), (extension,), 0.0, backend)):
        values = values.double() / math.sqrt(4.0 / (1 + step))
        for power, moment, spread in ((1, 0, 1), (2, 1, math.sqrt(2)), (3, 0, math.sqrt(15)), (4, 3, math.sqrt(96))):
            assert abs(float((values**power).mean()) - moment) < 5 * spread / math.sqrt(size), power
        pairs = (values[0::2] * values[1::2]).mean()  # the two numbers of one Box-Muller draw
        assert abs(float(pairs)) < 5 / math.sqrt(size / 2)
        assert 4 < float(values.abs().max()) < 6


@each_draw
def test_a_parameter_without_a_gradient_draws_later_as_if_it_had_one(
    extensions: tuple[object, ...], gradient: float, backend: str
) -> None:
    expected = drawn(zeros(), extensions, gradient, backend)
    params = zeros()
    optimizer = torchclip.SGD(params[:1], lr=1.0, extensions=extensions, seed=2026, backend=backend)
    optimizer.add_param_group({"params": params[1:]})  # numbered through all groups
    for step in range(3):
        for p in params:
            p.data.zero_()
            p.grad = torch.full_like(p, gradient)
        if step == 0:
            params[1].grad = None
        optimizer.step()
        for position, p in enumerate(params):
            wanted = torch.zeros_like(p) if (step, position) == (0, 1) else expected[step][position]
            assert torch.equal(p.detach(), wanted)


@each_draw
def test_a_step_that_is_not_taken_is_not_counted(extensions: tuple[object, ...], gradient: float, backend: str) -> None:
    expected = drawn(zeros(), extensions, gradient, backend)
    params = zeros()
    skip = torchclip.ClipByGlobalNorm(math.inf, nonfinite="skip")
    optimizer = torchclip.SGD(params, lr=1.0, clip=skip, extensions=extensions, seed=2026, backend=backend)
    for hindrance in ("nan", "found_inf", "no gradients", ""):
        for p in params:
            p.grad = None if hindrance == "no gradients" else torch.full_like(p, gradient)
        if hindrance == "nan":
            params[0].grad[0] = math.nan
        if hindrance == "found_inf":
            optimizer.grad_scale, optimizer.found_inf = torch.tensor(1.0), torch.tensor(1.0)
        optimizer.step()
        if hindrance == "found_inf":
            del optimizer.grad_scale, optimizer.found_inf
        taken = not hindrance
        assert float(optimizer.param_groups[0]["shared"]["step"]) == taken
        for p, q in zip(params, expected[0]):
            assert torch.equal(p.detach(), q if taken else torch.zeros_like(p))


LATE = (257, 2**16 + 257, 2**32 + 258)
"""Steps whose numbers no byte, no two and no four of them hold."""


# Triton is interpreted, and takes one step of everything at once.
LAST = pytest.param("triton", marks=pytest.mark.thorough)


@pytest.mark.parametrize("backend", [*(name for name in BACKENDS if name != "triton"), LAST], indirect=True)
def test_bits_agree_at_late_steps_and_for_late_parameters(backend: str) -> None:
    """The 258th parameter has draws of its own in step 257: not those of parameter 1 or of step 1."""
    shapes = [(1,), (130,)] + [(1,)] * 255 + [(130,)]
    extensions, _ = VISIBLE["together"]
    sets = [[torch.nn.Parameter(torch.zeros(shape)) for shape in shapes] for _ in range(2)]
    ours, theirs = (
        torchclip.SGD(params, lr=1.0, extensions=extensions, seed=2026, backend=chosen)
        for params, chosen in zip(sets, (backend, "reference"))
    )
    seen = set()
    for step in LATE[:1] if backend == "triton" else LATE:
        for params, optimizer in zip(sets, (ours, theirs)):
            optimizer.param_groups[0]["shared"]["step"].fill_(step - 1)
            for p in params:
                p.data.zero_()
                p.grad = torch.ones_like(p) if p is params[1] or p is params[257] else None
            optimizer.step()
        assert all(map(same_bits, *sets))
        seen |= {tuple(sets[0][index].tolist()) for index in (1, 257)}
        noise = Draws(2026, step).normals(torch.zeros(130), 257)
        kept = ~Draws(2026, step).dropped(torch.zeros(130), 257, 2, 0.6)
        gradient = torch.where(Draws(2026, step).dropped(torch.zeros(130), 257, 1, 0.3), 0.0, 1.0)
        assert torch.equal(-sets[0][-1].detach(), torch.where(kept, gradient + noise, 0.0))
    assert len(seen) == 2 * (1 if backend == "triton" else len(LATE))
