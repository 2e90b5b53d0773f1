"""Optimizers of the CUDA backend on the emulator, one like the other, whose every number is compared bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

import torchclip
from memory_guard import same_bits

SHAPES: tuple[tuple[int, ...], ...] = ((300,), (33, 61), (7,), (), (2, 3, 5), (5000,))
"""Tensors of one chunk and of several, some of them with rows."""

SEED = 7


@dataclass(frozen=True, eq=False)
class Recipe:
    """An optimizer class and its options.

    Args:
        name: as it stands in the test's id.
        cls: the optimizer.
        options: the constructor's arguments.
        launches: of a step in a steady state, of a model that is larger than the cache.
        fits: the same of a model that the cache holds.
        updates: of the launches, those that write parameters.
        takes_loss: whether every step needs the loss.
        shapes: the parameters'.
    """

    name: str
    cls: type[torch.optim.Optimizer]
    options: Mapping[str, Any]
    launches: int = 2
    fits: int = 2
    updates: int = 1
    takes_loss: bool = False
    shapes: Sequence[tuple[int, ...]] = field(default=SHAPES)

    def twin(self, dtype: torch.dtype = torch.float32, **more: Any) -> Twin:
        """A fresh optimizer; every one of a recipe starts alike. The second group has every second parameter."""
        generator = torch.Generator().manual_seed(3)
        params = [torch.nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in self.shapes]
        groups = [{"params": params[0::2]}, {"params": params[1::2]}] if len(params) > 1 else params
        optimizer = self.cls(groups, **{"seed": SEED, **self.options, **more}, backend="cuda")
        return Twin(self, params, optimizer)


def gradient(param: Tensor, index: int, step: int) -> Tensor:
    """The gradient of parameter number `index` in a step."""
    generator = torch.Generator().manual_seed(1000 * step + index)
    return torch.randn(param.shape, generator=generator).to(param.dtype)


@dataclass
class Twin:
    """Parameters and their optimizer."""

    recipe: Recipe
    params: list[torch.nn.Parameter]
    optimizer: Any
    loss: Tensor = field(default_factory=lambda: torch.ones(()))

    def give(self, step: int, *, moves: bool = False) -> None:
        """Writes this step's gradients and loss, in place where there are some."""
        for index, param in enumerate(self.params):
            value = gradient(param, index, step)
            if param.grad is None or moves:
                param.grad = value
            else:
                param.grad.copy_(value)
        self.loss.fill_(0.5 + 0.25 * (5 * step % 7))

    def step(self) -> None:
        """A step on what was given."""
        self.optimizer.step(**({"loss": self.loss} if self.recipe.takes_loss else {}))

    def steps(self, numbers: Iterable[int]) -> None:
        """A step for each number."""
        for number in numbers:
            self.give(number)
            self.step()

    def numbers(self) -> dict[str, Tensor]:
        """A copy of everything that a step writes, but for what it measures."""
        found = {f"parameter {i}": param.detach().clone() for i, param in enumerate(self.params)}
        for i, param in enumerate(self.params):
            for name, value in self.optimizer.state.get(param, {}).items():
                found[f"{name} of {i}"] = value.clone()
        for i, group in enumerate(self.optimizer.param_groups):
            for name, value in group.get("shared", {}).items():
                found[f"shared {name} of {i}"] = value.clone()
        return found

    def results(self) -> dict[str, Tensor]:
        """The same, and what the last step measured."""
        return {**self.numbers(), **{f"measured {name}": v.clone() for name, v in self.optimizer.metrics().items()}}


def assert_same(actual: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Fails unless both are the same, bit for bit."""
    assert actual.keys() == expected.keys()
    different = [name for name, value in expected.items() if not same_bits(actual[name], value)]
    assert not different, {name: (actual[name], expected[name]) for name in different[:2]}


def assert_close(actual: Mapping[str, Tensor], expected: Mapping[str, Tensor], tolerance: float) -> None:
    """Fails unless every tensor agrees to the share of its largest element."""
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        scale = value.double().abs().max().clamp_min(1e-30) if value.numel() else 1.0
        same = actual[name] == value  # infinite ones among them
        error = ((actual[name].double() - value.double()).abs() / scale).masked_fill(same, 0.0)
        assert bool((error <= tolerance).all()), f"{name}: {float(error.max())}"


def counted(emulator: Any, call: Callable[[], object], device: int | None = None) -> int:
    """How many launches a call makes, on all devices or on one."""

    def launches() -> int:
        return emulator.launches() if device is None else emulator.launches_on(device)

    before = launches()
    call()
    return launches() - before


MOMENTUM = {"lr": 0.1, "momentum": 0.9}

RECIPES = (
    Recipe("sgd", torchclip.SGD, {"lr": 0.1}, 1, 1),
    Recipe("sgd_momentum", torchclip.SGD, MOMENTUM, 1, 1),
    Recipe("sgd_clip", torchclip.SGD, {**MOMENTUM, "clip": 5.0}, fits=1),
    Recipe("sgd_dampening", torchclip.SGD, {**MOMENTUM, "dampening": 0.5, "weight_decay": 0.1, "clip": 5.0}, fits=1),
    Recipe("adamw_clip", torchclip.AdamW, {"lr": 0.1, "weight_decay": 0.1, "clip": 5.0}, fits=1),
    # The number of the step is on the device, and a launch before the update makes the coefficients of it.
    Recipe("adam", torchclip.Adam, {"lr": 0.1, "amsgrad": True}),
    Recipe("radam_tensor_norm", torchclip.RAdam, {"lr": 0.1, "clip": torchclip.ClipByTensorNorm(2.0)}, fits=1),
    Recipe(
        "rmsprop_auto", torchclip.RMSprop, {"lr": 0.01, "clip": torchclip.AutoClip(percentile=30.0, window=3)}, fits=1
    ),
    Recipe("sgd_z", torchclip.SGD, {**MOMENTUM, "clip": torchclip.ZClip(warmup_steps=2)}, fits=1),
    Recipe("sgd_ada_gc", torchclip.SGD, {**MOMENTUM, "clip": torchclip.AdaGC(warmup_steps=2)}, fits=1),
    # Steps are judged from the sixth on, within a narrow band: some are skipped, and those of a short test are not.
    Recipe(
        "sgd_skip",
        torchclip.SGD,
        {**MOMENTUM, "clip": 5.0, "skip": torchclip.SkipSpikes(window=12, sigma=0.5)},
        fits=1,
        takes_loss=True,
    ),
    Recipe("sgd_polyak", torchclip.SGD, {"lr": 0.1, "step_size": torchclip.PolyakStep()}, fits=1, takes_loss=True),
    Recipe("adamw_ema", torchclip.AdamW, {"lr": 0.1, "clip": 5.0, "extensions": (torchclip.WeightEMA(0.8),)}, fits=1),
    Recipe("sgd_adaptive", torchclip.SGD, {**MOMENTUM, "clip": torchclip.AdaptiveGradientClip(0.1)}),
    Recipe("mix_clip", torchclip.MixClip, {"lr": 0.5, "gamma": 2.0, "momentum": 0.9}, fits=1),
    Recipe("mix_clip_clip", torchclip.MixClip, {"lr": 0.5, "gamma": 2.0, "clip": 5.0}, 3, 3),
    Recipe("normalized_sgd", torchclip.NormalizedSGD, MOMENTUM, fits=1),
    Recipe("grda", torchclip.GRDA, {"lr": 0.1, "c": 0.5}),
    Recipe("lin_breg_clip", torchclip.LinBreg, {**MOMENTUM, "lam": 0.3, "clip": 5.0}, fits=1),
    Recipe("grda_target", torchclip.GRDA, {"lr": 0.1, "c": 0.5, "target_sparsity": 0.05, "clip": 5.0}, fits=1),
    Recipe("ada_breg_target", torchclip.AdaBreg, {"lr": 0.1, "lam": 0.3, "target_sparsity": 0.05}),
    Recipe("lion_clip", torchclip.Lion, {"lr": 0.1, "weight_decay": 0.1, "clip": 5.0}, fits=1),
    Recipe("ada_loss", torchclip.AdaLoss, MOMENTUM, takes_loss=True),
    Recipe("ada_grad_norm", torchclip.AdaGradNorm, {"lr": 1.0, "momentum": 0.9}, fits=1),
    # Tensors of one dimension keep their sums in a slot of state, and have kernels of their own.
    Recipe("ada_grad_norm_row", torchclip.AdaGradNorm, {"lr": 1.0, "momentum": 0.9, "scope": "row"}, 4, 4, updates=2),
    Recipe("ada_grad_norm_tensor", torchclip.AdaGradNorm, {"lr": 1.0, "scope": "tensor"}, fits=1),
    # A step that draws takes longer than a launch does, and is never one alone.
    Recipe(
        "extensions",
        torchclip.SGD,
        {
            **MOMENTUM,
            "clip": 5.0,
            "extensions": (
                torchclip.GradientNoise(),
                torchclip.GradientDropout(0.2),
                torchclip.LRDropout(0.3),
                torchclip.Lookahead(k=2),
            ),
        },
    ),
)

BY_NAME = {recipe.name: recipe for recipe in RECIPES}
OF_RECIPES = pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)

SMALL_CACHE, LARGE_CACHE = 1024, 1 << 26
"""Bytes: less than any model here, and more."""

OF_CACHES = pytest.mark.parametrize("cache", (SMALL_CACHE, LARGE_CACHE))
