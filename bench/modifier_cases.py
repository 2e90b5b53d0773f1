"""Rows for what torch has no form of: AdaLoss, AdaGrad-Norm, and each extension.

The contender is ours as well: the same step without the feature, so that the ratio is what the feature costs. Both are
checked against the reference path, with the same seed where random numbers are drawn.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch.nn import Parameter

import torchclip
from bench.algorithm import ADAMW_ARGUMENTS, OURS, PLAIN, SGD_ARGUMENTS, Algorithm, Build, Step
from bench.workload import GRADIENT_AMPLITUDE
from torchclip.policies.extensions import Extension

Make = Callable[[Sequence[Parameter], float, torchclip.Backend | None], Step]
"""A `Build` that is told the backend; None takes the fastest."""

_SEED = 20
_LOSS = 2.0
_REFERENCE: torchclip.Backend = "reference"

# Without momentum a step is a tenth of what it is with 0.9; b takes another root of the number of steps.
_WITHOUT_MOMENTUM: Mapping[str, Any] = MappingProxyType({"lr": 1e-2 / GRADIENT_AMPLITUDE})
_ADALOSS_ARGUMENTS: Mapping[str, Any] = MappingProxyType({"lr": 1e-1 / GRADIENT_AMPLITUDE, "b0": 1.0})

_EXTENSIONS: Mapping[str, tuple[str, Extension]] = MappingProxyType(
    {
        "gradient_dropout": ("gradient dropout", torchclip.GradientDropout(0.1)),
        "lr_dropout": ("LR dropout", torchclip.LRDropout(0.5)),
        # Of the gradient's size, or a run that draws no noise, or other noise, would pass the check.
        "gradient_noise": ("gradient noise", torchclip.GradientNoise(eta=0.3 * GRADIENT_AMPLITUDE**2)),
        "lookahead": ("Lookahead", torchclip.Lookahead(k=5)),
    }
)


def _beside_plain(
    name: str, title: str, words: float, state_words: int, ours: Make, plain: Make, cycle: int = 1
) -> Algorithm:
    def on(backend: torchclip.Backend | None) -> Mapping[str, Build]:
        def build(make: Make) -> Build:
            return lambda parameters, grad_norm: make(parameters, grad_norm, backend)

        return MappingProxyType({OURS: build(ours), PLAIN: build(plain)})

    return Algorithm(name, title, words, state_words, on(None), yardsticks=on(_REFERENCE), cycle=cycle)


def _adaloss() -> Algorithm:
    def ours(parameters: Sequence[Parameter], grad_norm: float, backend: torchclip.Backend | None) -> Step:
        optimizer = torchclip.AdaLoss(parameters, **_ADALOSS_ARGUMENTS, backend=backend)
        return partial(optimizer.step, loss=torch.tensor(_LOSS))

    def plain(parameters: Sequence[Parameter], grad_norm: float, backend: torchclip.Backend | None) -> Step:
        return torchclip.SGD(parameters, **_WITHOUT_MOMENTUM, backend=backend).step

    return _beside_plain("adaloss", "AdaLoss", 3, 0, ours, plain)


def _adagrad_norm() -> Algorithm:
    def ours(parameters: Sequence[Parameter], grad_norm: float, backend: torchclip.Backend | None) -> Step:
        # Both per unit of the norm, which cancels in lr g / sqrt(s).
        lr = 1e-1 / GRADIENT_AMPLITUDE * grad_norm
        return torchclip.AdaGradNorm(parameters, lr=lr, b0=grad_norm, backend=backend).step

    def plain(parameters: Sequence[Parameter], grad_norm: float, backend: torchclip.Backend | None) -> Step:
        return torchclip.SGD(parameters, **_WITHOUT_MOMENTUM, clip=grad_norm, backend=backend).step

    return _beside_plain("adagrad_norm", "AdaGradNorm", 4, 0, ours, plain)


def _extended(
    optimizer: type[torchclip.SGD] | type[torchclip.AdamW],
    arguments: Mapping[str, Any],
    of: str,
    extension_name: str,
    words: int,
    state_words: int,
) -> Algorithm:
    extension_title, extension = _EXTENSIONS[extension_name]

    def ours(parameters: Sequence[Parameter], grad_norm: float, backend: torchclip.Backend | None) -> Step:
        return optimizer(parameters, **arguments, extensions=(extension,), seed=_SEED, backend=backend).step

    def plain(parameters: Sequence[Parameter], grad_norm: float, backend: torchclip.Backend | None) -> Step:
        return optimizer(parameters, **arguments, backend=backend).step

    name, title = f"{optimizer.__name__.lower()}_{extension_name}", f"{of} + {extension_title}"
    if isinstance(extension, torchclip.Lookahead):
        # The slow weights are read and written by the one step in k that synchronises. Whole cycles are timed: most
        # single steps would not show that work, and a median of single steps would never.
        mean = words + 2 / extension.k
        return _beside_plain(name, title, mean, state_words + 1, ours, plain, cycle=extension.k)
    return _beside_plain(name, title, words, state_words, ours, plain)


def modifier_algorithms() -> tuple[Algorithm, ...]:
    """The rows, in the order in which they run."""
    return (
        _adaloss(),
        _adagrad_norm(),
        *(_extended(torchclip.SGD, SGD_ARGUMENTS, "SGD", name, 5, 1) for name in _EXTENSIONS),
        *(_extended(torchclip.AdamW, ADAMW_ARGUMENTS, "AdamW", name, 7, 2) for name in _EXTENSIONS),
    )
