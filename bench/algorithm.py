"""What a row of a comparison is made of: rules with what is added to them, and the words that a step of them moves."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch.nn import Parameter
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

import torchclip
from torchclip.policies.extensions import Extension

Step = Callable[[], object]
Build = Callable[[Sequence[Parameter], float], Step]
"""From the parameters and the L2 norm ‖G‖ of the unscaled gradient over those same parameters: the call to be timed.

Thresholds are multiples of ‖G‖, so that the same build on a sample of the tensors takes exactly the steps that those
tensors take inside the whole set (bench/check.py relies on it).
"""
Clip = Callable[[Sequence[Parameter], float], object]

OURS = "ours"
TORCH = "torch"
AUTHORS = "authors"
PLAIN = "plain"  # ours too, without the feature that the row is about
PREFERRED = "preferred"  # what runs where no backend is asked for: on a GPU the CUDA kernels
REFERENCE: torchclip.Backend = "reference"

_SEED = 20
_LOSS = 2.0


@dataclass(frozen=True)
class Modifier:
    """What is added to a rule.

    Args:
        name: of the row.
        clips: whether a pass takes norms; by ``clip=‖G‖`` where ``policies`` names no other policy.
        extension: one of ours.
        policies: from ‖G‖, arguments of our constructor beside or in place of those.
        takes_loss: whether its step needs the loss.
    """

    name: str
    clips: bool = False
    extension: Extension | None = None
    policies: Callable[[float], Mapping[str, Any]] | None = None
    takes_loss: bool = False

    @property
    def draws(self) -> bool:
        """Whether it changes gradients at random."""
        return isinstance(self.extension, (torchclip.GradientNoise, torchclip.GradientDropout))

    @property
    def cycle(self) -> int:
        """Steps after which the work repeats."""
        return self.extension.k if isinstance(self.extension, torchclip.Lookahead) else 1


def _polyak(norm: float) -> Mapping[str, Any]:
    """Of a step of about lr = 0.001, now longer and now shorter."""
    return {"clip": None, "step_size": torchclip.PolyakStep(c=_LOSS / (1e-3 * norm**2), eps=1e-30)}


POLICIES: Mapping[str, Modifier] = {
    "ada_gc": Modifier("ada_gc", True, policies=lambda norm: {"clip": torchclip.AdaGC(norm, warmup_steps=5)}),
    "skip_spikes": Modifier(
        "skip_spikes", True, policies=lambda norm: {"skip": torchclip.SkipSpikes()}, takes_loss=True
    ),
    "polyak": Modifier("polyak", True, policies=_polyak, takes_loss=True),
    "clip_ema": Modifier("clip_ema", True, torchclip.WeightEMA(0.999, warmup=False)),
}
"""Those whose pass over the gradients is that of clipping."""


def modifiers(amplitude: float) -> Mapping[str, Modifier]:
    """By name, for gradients of this size: a run that draws no noise, or other noise, must not pass the check."""
    extensions: dict[str, Extension] = {
        "gradient_noise": torchclip.GradientNoise(eta=0.3 * amplitude**2),
        "gradient_dropout": torchclip.GradientDropout(0.1),
        "lr_dropout": torchclip.LRDropout(0.5),
        "lookahead": torchclip.Lookahead(k=5),
    }
    bare = {"plain": Modifier("plain"), "clip": Modifier("clip", clips=True)}
    return bare | {name: Modifier(name, extension=extension) for name, extension in extensions.items()}


@dataclass(frozen=True)
class Rule:
    """An optimizer class of ours with its arguments.

    Args:
        title: for people.
        cls: the class.
        arguments: of the class; a callable makes them from ‖G‖.
        state: tensors of state, each as large as its parameter.
        namesake: torch's class of the same arguments.
        own_norm: it takes a norm of its own direction, in a pass that reads the gradient and the momentum.
        squares: its state holds squares of gradients, which in float16 are 0 for many: the step is infinite there.
        accumulates: gRDA's parameter is written from its accumulator, of float32 at the least, and is not read.
    """

    title: str
    cls: Callable[..., Optimizer]
    arguments: Mapping[str, Any] | Callable[[float], Mapping[str, Any]]
    state: int
    namesake: Callable[..., Optimizer] | None = None
    own_norm: bool = False
    squares: bool = False
    accumulates: bool = False

    def of(self, norm: float) -> Mapping[str, Any]:
        """The arguments."""
        return self.arguments(norm) if callable(self.arguments) else self.arguments

    def bytes_per_element(self, modifier: Modifier, dtype: torch.dtype) -> float:
        """What a step must move: every pass reads the gradient, the last one reads and writes parameter and state.

        A mean over a cycle: Lookahead's slow weights are read and written by the one step in k that synchronises.
        """
        size = dtype.itemsize
        state = self.state * (max(size, 4) if self.accumulates else size)
        passes = 1 + self.own_norm + modifier.clips
        moved = passes * size + (2 - self.accumulates) * size + (2 + self.own_norm) * state
        averages = isinstance(modifier.extension, torchclip.WeightEMA)
        return moved + (2 * size / modifier.cycle if modifier.cycle > 1 or averages else 0)


def ours(rule: Rule, modifier: Modifier, backend: torchclip.Backend | None = None) -> Build:
    """Our step; None takes the fastest backend."""

    def build(parameters: Sequence[Parameter], norm: float) -> Step:
        extended = {"extensions": (modifier.extension,), "seed": _SEED} if modifier.extension else {}
        clip = {"clip": norm} if modifier.clips else {}
        policies = clip | (dict(modifier.policies(norm)) if modifier.policies else {})
        optimizer = rule.cls(parameters, **rule.of(norm), **policies, **extended, backend=backend)
        if modifier.takes_loss or isinstance(optimizer, torchclip.AdaLoss):
            return partial(optimizer.step, loss=torch.tensor(_LOSS, device=parameters[0].device))
        return optimizer.step

    return build


def behind(clip: Clip, step: Step, parameters: Sequence[Parameter], norm: float) -> Step:
    """The step after a clip of the gradients."""

    def clip_and_step() -> None:
        clip(parameters, norm)
        step()

    return clip_and_step


FORMS: Mapping[str, Mapping[str, bool]] = {
    "loop": {"foreach": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
}
"""The arguments that choose one of torch's forms; not every class has a fused one."""

TORCH_FORMS = (*FORMS, "scaled", "compiled")


def torchs(rule: Rule, clips: bool, form: str) -> Build:
    """torch's own optimizer in one of its forms, after torch's own clip_grad_norm_ if the row clips.

    clip_grad_norm_ picks its foreach form by itself, the faster one; only the plain loop turns it off.
    """

    def build(parameters: Sequence[Parameter], norm: float) -> Step:
        assert rule.namesake is not None
        step = rule.namesake(parameters, **rule.of(norm), **FORMS[form]).step
        clip = partial(clip_grad_norm_, foreach=form != "loop")
        return behind(clip, step, parameters, norm) if clips else step

    return build


@dataclass(frozen=True)
class Algorithm:
    """One row of the comparison, on any set of shapes.

    Its results are checked either against one of the contenders, `reference`, which computes what all others compute,
    or each contender against a run of its own on the reference path, `yardsticks`.
    """

    name: str
    title: str
    words: float  # 4-byte words per parameter that a fused step cannot avoid moving; a mean over `cycle`
    state_words: int  # per parameter, for the memory estimate
    contenders: Mapping[str, Any]  # by name what builds it, ours first
    reference: str | None = None
    yardsticks: Mapping[str, Build] = field(default_factory=dict)  # by contender, ours first
    different: Mapping[str, str] = field(default_factory=dict)
    """Contenders that compute something else than the reference, and what: only their time is of interest."""
    checked_alone: bool = False
    """Ours is run on the sample alone to be checked, since inside the whole set it does something else to it."""
    cycle: int = 1  # steps after which the work repeats: a sample is the mean over so many


def row_of(
    name: str,
    title: str,
    rule: Rule,
    modifier: Modifier,
    contenders: Mapping[str, Build],
    dtype: torch.dtype = torch.float32,
    **more: Any,
) -> Algorithm:
    """The row of a rule with what is added to it."""
    words = rule.bytes_per_element(modifier, dtype) / 4
    state = rule.state + (modifier.cycle > 1 or isinstance(modifier.extension, torchclip.WeightEMA))
    return Algorithm(name, title, words, state, contenders, cycle=modifier.cycle, **more)
