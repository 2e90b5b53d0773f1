"""The rules and what can be added to them, with the bytes that each has to move."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch.nn import Parameter
from torch.optim import Optimizer

import torchclip
from bench.algorithm import Step
from torchclip.policies.extensions import Extension

_SEED = 20
_LOSS = 2.0


@dataclass(frozen=True)
class KernelRule:
    """An optimizer class of ours.

    Args:
        name: of its rows.
        cls: the class.
        arguments: from the norm of the unscaled gradient. Steps are long enough for bfloat16 parameters to travel by
            many roundings within the steps that are checked.
        namesake: torch's class of the same arguments.
        own_norm: it takes a norm of its own direction, in a pass that reads the gradient and the momentum.
        squares: its state holds squares of gradients, which in float16 are 0 for many: the step is infinite there.
        reads_parameter: gRDA's parameter is written from the accumulator alone.
    """

    name: str
    cls: Callable[..., Optimizer]
    arguments: Callable[[float], Mapping[str, Any]]
    namesake: Callable[..., Optimizer] | None = None
    own_norm: bool = False
    squares: bool = False
    reads_parameter: bool = True

    def make(self, parameters: Sequence[Parameter], norm: float, modifier: "Modifier", backend: str | None) -> Step:
        clip = norm if modifier.clips else None
        optimizer = self.cls(
            parameters,
            **self.arguments(norm),
            clip=clip,
            extensions=modifier.extensions,
            seed=_SEED if modifier.extensions else None,
            backend=backend,
        )
        if self.cls is torchclip.AdaLoss:
            return partial(optimizer.step, loss=torch.tensor(_LOSS, device=parameters[0].device))
        return optimizer.step


@dataclass(frozen=True)
class Modifier:
    """What is added to a rule."""

    name: str
    clips: bool = False
    extensions: tuple[Extension, ...] = ()

    @property
    def draws(self) -> bool:
        """Whether it changes gradients at random."""
        return any(isinstance(each, (torchclip.GradientNoise, torchclip.GradientDropout)) for each in self.extensions)

    @property
    def cycle(self) -> int:
        """Steps after which the work repeats."""
        return next((each.k for each in self.extensions if isinstance(each, torchclip.Lookahead)), 1)


AMPLITUDE = 1.0
"""Of the gradients: what float16 holds the products of."""

_ADAPTIVE = MappingProxyType({"lr": 0.1})


def _fixed(arguments: Mapping[str, Any]) -> Callable[[float], Mapping[str, Any]]:
    return lambda norm: arguments


def _clipping(cls: Callable[..., Optimizer], name: str, momentum: float) -> KernelRule:
    lr = 0.3
    return KernelRule(name, cls, lambda norm: {"lr": lr, "gamma": lr * norm, "momentum": momentum}, own_norm=True)


RULES: tuple[KernelRule, ...] = (
    KernelRule("sgd", torchclip.SGD, _fixed({"lr": 0.1}), torch.optim.SGD),
    KernelRule(
        "sgd_momentum",
        torchclip.SGD,
        _fixed({"lr": 1e-2, "momentum": 0.9}),
        torch.optim.SGD,
    ),
    KernelRule("adamw", torchclip.AdamW, _fixed(_ADAPTIVE), torch.optim.AdamW, squares=True),
    KernelRule(
        "adamw_amsgrad",
        torchclip.AdamW,
        _fixed({**_ADAPTIVE, "amsgrad": True}),
        torch.optim.AdamW,
        squares=True,
    ),
    KernelRule("nadam", torchclip.NAdam, _fixed(_ADAPTIVE), torch.optim.NAdam, squares=True),
    KernelRule("radam", torchclip.RAdam, _fixed(_ADAPTIVE), torch.optim.RAdam, squares=True),
    KernelRule("rmsprop", torchclip.RMSprop, _fixed(_ADAPTIVE), torch.optim.RMSprop, squares=True),
    KernelRule("adagrad", torchclip.Adagrad, _fixed({"lr": 0.3}), torch.optim.Adagrad, squares=True),
    KernelRule(
        "normalized_sgd",
        torchclip.NormalizedSGD,
        lambda norm: {"lr": 0.1 * norm, "momentum": 0.9},
        own_norm=True,
    ),
    _clipping(torchclip.SGDClip, "sgd_clip", 0.9),
    _clipping(torchclip.MomClip, "mom_clip", 0.9),
    _clipping(torchclip.MixClip, "mix_clip", 0.9),
    KernelRule("adaloss", torchclip.AdaLoss, _fixed({"lr": 0.5, "b0": 1.0})),
    KernelRule("adagrad_norm", torchclip.AdaGradNorm, lambda norm: {"lr": 0.5 * norm, "b0": norm}, own_norm=True),
    KernelRule("grda", torchclip.GRDA, _fixed({"lr": 0.1, "c": 0.3, "mu": 0.7}), reads_parameter=False),
)

MODIFIERS: tuple[Modifier, ...] = (
    Modifier("plain"),
    Modifier("clip", clips=True),
    Modifier("gradient_noise", extensions=(torchclip.GradientNoise(eta=0.3 * AMPLITUDE**2),)),
    Modifier("gradient_dropout", extensions=(torchclip.GradientDropout(0.1),)),
    Modifier("lr_dropout", extensions=(torchclip.LRDropout(0.5),)),
    Modifier("lookahead", extensions=(torchclip.Lookahead(k=5),)),
)


def combine(rule: KernelRule, modifier: Modifier, dtype: torch.dtype) -> bool:
    """Whether the rule takes the addition, docs/matrix.md says why some do not, and the type its state."""
    if rule.squares and dtype is torch.float16:
        return False
    try:
        rule.make([Parameter(torch.ones(2))], 1.0, modifier, None)
    except ValueError:
        return False
    return True


def bytes_per_element(rule: KernelRule, modifier: Modifier, dtype: torch.dtype) -> float:
    """What a step must move: every pass reads the gradient, the last one reads and writes parameter and state.

    The state's types are those that the optimizer itself has chosen.
    """
    parameter = Parameter(torch.ones(8, 2, dtype=dtype))
    parameter.grad = torch.ones_like(parameter)
    optimizer = rule.cls([parameter], **rule.arguments(1.0))
    if isinstance(optimizer, torchclip.AdaLoss):
        optimizer.step(loss=_LOSS)
    else:
        optimizer.step()
    state = sum(
        value.element_size()
        for value in optimizer.state[parameter].values()
        if isinstance(value, torch.Tensor) and value.shape == parameter.shape
    )
    passes = 1 + rule.own_norm + modifier.clips
    moved: float = passes * dtype.itemsize + (1 + rule.reads_parameter) * dtype.itemsize + 2 * state
    if rule.own_norm:
        moved += state
    if modifier.cycle > 1:  # the slow weights, by the one step of a cycle that meets them
        moved += 2 * dtype.itemsize / modifier.cycle
    return moved
