"""The three runs of the conformance test, and how far one may be off from another."""

from __future__ import annotations

import functools
import io
from dataclasses import dataclass, field

import torch
from torch import Tensor

from emulated import device_of
from memory_guard import STEPS, Guarded, Layout, contiguous_strides, same_bits
from records import SEED, Case
from torchclip.policies.clip import measures

LOAD_AFTER = 4
"""The step after which the state is saved and loaded into a fresh optimizer."""

LR_HALVES_AFTER = 6
"""The step after which every learning rate is halved through ``param_groups``."""

COUNTED = ("step", "shared.step", "shared.seed", "shared.norm_count")
"""What must agree exactly."""

Key = tuple[int, int, str]
"""Step, position of the parameter (-1: of the optimizer as a whole), name."""


@dataclass
class Run:
    """What a run leaves behind: every value at the recorded steps in float64, and the dtypes of the state."""

    values: dict[Key, Tensor] = field(default_factory=dict)
    dtypes: dict[Key, torch.dtype] = field(default_factory=dict)

    def record(self, optimizer: torch.optim.Optimizer, params: list[Tensor], step: int) -> None:
        """Copies what the optimizer has written so far."""
        entries: dict[Key, Tensor] = {}
        for position, param in enumerate(params):
            entries[step, position, "parameter"] = param.detach()
            for name, value in optimizer.state.get(param, {}).items():
                entries[step, position, name] = value
        for number, group in enumerate(optimizer.param_groups):
            for name, value in group.get("shared", {}).items():
                entries[step, -1, f"shared.{name}" if number == 0 else f"shared.{name} of group {number}"] = value
        if optimizer.spec.clips_itself or measures(optimizer.clip):
            entries[step, -1, "grad_norm"] = optimizer.grad_norm
            entries[step, -1, "clip_factor"] = optimizer.clip_factor
        for key, value in entries.items():
            self.dtypes[key] = value.dtype
            self.values[key] = value.to("cpu", torch.float64, copy=True).contiguous()


def split(flat: Tensor, layouts: tuple[Layout, ...]) -> list[Tensor]:
    """One piece of ``flat`` per layout."""
    pieces = flat.split([layout.numel for layout in layouts])
    return [piece.view(layout.shape) for piece, layout in zip(pieces, layouts)]


@functools.lru_cache(maxsize=16)
def initial_values(layouts: tuple[Layout, ...], dtype: torch.dtype) -> list[Tensor]:
    """The parameters before the first step, already rounded to the tested dtype."""
    generator = torch.Generator().manual_seed(11)
    total = sum(layout.numel for layout in layouts)
    return split(torch.randn(total, generator=generator, dtype=torch.float64).to(dtype), layouts)


@functools.lru_cache(maxsize=64)
def gradient_values(layouts: tuple[Layout, ...], dtype: torch.dtype, step: int) -> list[Tensor]:
    """The gradients of a step, rounded to the tested dtype.

    Sizes are between 1/4 and 2, so that Adam's exp_avg_sq can be held in float16, and nine signs in ten are the same
    at every step, so that the parameters drift further than any tolerance.
    """
    total = sum(layout.numel for layout in layouts)
    signs = torch.rand(total, generator=torch.Generator().manual_seed(5)) - 0.5
    generator = torch.Generator().manual_seed(100 + step)
    flips = torch.rand(total, generator=generator) - 0.1
    sizes = 0.25 + 1.75 * torch.rand(total, generator=generator, dtype=torch.float64)
    values = split((sizes * signs.sign() * flips.sign()).to(dtype), layouts)
    for position, layout in enumerate(layouts):
        for dim, stride in enumerate(layout.grad_strides or ()):
            if stride == 0:
                values[position] = values[position].narrow(dim, 0, 1).expand(layout.shape)
    return values


def gradients(case: Case, layouts: tuple[Layout, ...], dtype: torch.dtype, step: int) -> list[Tensor]:
    """The gradients of a step as the case scales them."""
    values, scale = gradient_values(layouts, dtype, step), case.gradient_scale(step)
    return values if scale == 1.0 else [value * scale for value in values]


def loss_value(case: Case, dtype: torch.dtype, step: int, device: torch.device | None = None) -> Tensor | None:
    """The loss of a step, exact in every dtype: it goes up and down."""
    return torch.tensor(0.5 + 0.25 * (5 * step % 7), dtype=dtype, device=device) if case.takes_loss else None


def write_schedules(case: Case, optimizer: torch.optim.Optimizer, step: int) -> None:
    """What schedulers would do after ``step``."""
    for group in optimizer.param_groups:
        group["lr"] *= case.rule.lr_decay * (0.5 if step == LR_HALVES_AFTER else 1.0)


def plain_parameter(case: Case, layout: Layout, values: Tensor, dtype: torch.dtype) -> torch.nn.Parameter:
    """A dense parameter; contiguous, but where draws go by the order in memory, in which it then is."""
    strides = layout.strides or contiguous_strides(layout.shape)
    order = sorted(range(len(strides)), key=lambda dim: -strides[dim]) if case.draws else range(len(strides))
    plain = torch.empty_permuted(layout.shape, list(order), dtype=dtype)
    return torch.nn.Parameter(plain.copy_(values))


def plain_run(
    case: Case, layouts: tuple[Layout, ...], rounded_to: torch.dtype, dtype: torch.dtype, recorded: tuple[int, ...]
) -> Run:
    """The reference path on dense tensors of ``dtype`` whose inputs were rounded to ``rounded_to``."""
    starts = initial_values(layouts, rounded_to)
    params = [plain_parameter(case, layout, values, dtype) for layout, values in zip(layouts, starts)]
    optimizer = case.build(params, "reference")
    run = Run()
    for step in range(1, max(recorded) + 1):
        for param, value, layout in zip(params, gradients(case, layouts, rounded_to, step), layouts):
            param.grad = None if step in layout.absent else value.to(dtype, copy=True).contiguous()
        optimizer.step(loss=loss_value(case, dtype, step))
        if step in recorded:
            run.record(optimizer, params, step)
        write_schedules(case, optimizer, step)
    return run


@functools.lru_cache(maxsize=4)  # the backends of one case and dtype come one after the other
def baselines(
    case: Case, layouts: tuple[Layout, ...], dtype: torch.dtype, recorded: tuple[int, ...]
) -> tuple[Run, Run]:
    """The reference path in float64 and in the tested dtype."""
    exact = plain_run(case, layouts, dtype, torch.float64, recorded)
    return exact, exact if dtype == torch.float64 else plain_run(case, layouts, dtype, dtype, recorded)


def reloaded(case: Case, optimizer: torch.optim.Optimizer, params: list[Tensor], backend: str) -> torch.optim.Optimizer:
    """A fresh optimizer over the same parameters with the saved state of ``optimizer``."""
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    fresh = case.build(params, backend, seed=SEED + 1)  # the checkpoint's counts
    fresh.load_state_dict(torch.load(file, weights_only=True))
    return fresh


def guard_state(optimizer: torch.optim.Optimizer, params: list[Tensor]) -> list[tuple[str, Guarded]]:
    """Moves every state tensor into a watched buffer, one element off a vector boundary, and lists the buffers."""
    guards = []
    for position, param in enumerate(params):
        for name, value in optimizer.state.get(param, {}).items():
            if name not in ("step", "l1"):  # numbers of state, which no kernel addresses
                guard = Guarded.of(value, value.stride(), offset=1)
                optimizer.state[param][name] = guard.view
                guards.append((f"{name} of {position}", guard))
    return guards


def awkward_run(
    case: Case, layouts: tuple[Layout, ...], dtype: torch.dtype, backend: str, recorded: tuple[int, ...]
) -> Run:
    """The tested backend on watched tensors, saved and loaded half-way, and on two threads."""
    torch.set_num_threads(2 if backend == "cpu" else 1)
    device = device_of(backend)
    guards = [layout.guard_parameter(v, device) for layout, v in zip(layouts, initial_values(layouts, dtype))]
    params = [torch.nn.Parameter(guard.view) for guard in guards]
    watched = [(f"parameter {layout.name}", guard) for layout, guard in zip(layouts, guards)]
    watched_state: list[tuple[str, Guarded]] = []
    optimizer = case.build(params, backend)
    assert optimizer.backend == backend
    run = Run()
    for step in range(1, max(recorded) + 1):
        given: list[tuple[str, Guarded, Tensor]] = []
        for param, value, layout in zip(params, gradients(case, layouts, dtype, step), layouts):
            if step in layout.absent:
                param.grad = None
                continue
            guard = layout.guard_gradient(value, device)
            param.grad = guard.view
            given.append((f"gradient {layout.name}", guard, value))
        optimizer.step(loss=loss_value(case, dtype, step, device))
        for label, guard, value in given:
            assert same_bits(guard.view, value), f"{label} was written"
            guard.check(label)
        for label, guard in (*watched, *watched_state):
            guard.check(label)
        assert all(param.data_ptr() == guard.view.data_ptr() for param, guard in zip(params, guards))
        if step in recorded:
            run.record(optimizer, params, step)
        write_schedules(case, optimizer, step)
        if step == LOAD_AFTER:
            optimizer = reloaded(case, optimizer, params, backend)
        if step in (1, LOAD_AFTER):
            watched_state = guard_state(optimizer, params)
    return run


class Yardstick:
    """How far a value may be off, from the two baselines.

    A tensor's error is taken as a share of its scale, the largest size that it has had. Of the baseline in the tested
    dtype the worst error over all tensors counts, which are drawn alike: in one element it may be 0 by luck. The floor
    is two roundings to the type in which the value is stored and one of arithmetic per step.
    """

    def __init__(self, exact: Run, baseline: Run, start: list[Tensor], dtype: torch.dtype) -> None:
        self.exact = exact
        self.scales = {(i, "parameter"): largest(value.double()) for i, value in enumerate(start)}
        for (_, *which), value in exact.values.items():
            self.scales[tuple(which)] = max(self.scales.get(tuple(which), 0.0), largest(value))
        arithmetic = torch.finfo(torch.promote_types(dtype, torch.float32)).eps
        self.allowed: dict[tuple[int, str], float] = {}
        for key, value in baseline.values.items():
            step, position, name = key
            stored = 0.0 if position < 0 else torch.finfo(baseline.dtypes[key]).eps
            allowed = 2 * self.error(key, value) + 2 * stored + STEPS * arithmetic
            self.allowed[step, name] = max(self.allowed.get((step, name), 0.0), allowed)

    def error(self, key: Key, value: Tensor) -> float:
        """The error of ``value`` as a share of the scale."""
        exact = self.exact.values[key]
        assert value.shape == exact.shape, key
        return largest(value - exact) / self.scale(key)

    def scale(self, key: Key) -> float:
        """The scale of a value; 1 for one that is empty or has always been 0."""
        return self.scales[key[1:]] or 1.0

    def check(self, key: Key, value: Tensor, where: str) -> None:
        """Fails when ``value`` is too far off."""
        step, _, name = key
        error, allowed = self.error(key, value), self.allowed[step, name]
        assert error <= allowed, (
            f"{name} of {where} after step {step}: error {error:.3g}, allowed {allowed:.3g}"
        )  # NaN fails


def largest(value: Tensor) -> float:
    """The largest size of an element; 0 for an empty tensor."""
    return float(value.abs().max()) if value.numel() else 0.0
