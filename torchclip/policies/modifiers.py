"""Options applied around an update rule: clip policy, steps that are skipped, step size, extensions, precision."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from torchclip.policies.clip import (
    AdaGC,
    AutoClip,
    ClipByValue,
    ClipPolicy,
    NonFinite,
    ZClip,
    as_clip_policy,
    warn_of_zero,
)
from torchclip.policies.extensions import (
    Extension,
    GradientDropout,
    GradientNoise,
    Lookahead,
    LRDropout,
    WeightEMA,
    checked_extensions,
)
from torchclip.policies.group_clip import GroupClip, clips_of, measures_any, policies_of
from torchclip.policies.precision import Precision, checked_precision
from torchclip.policies.skip import SkipSpikes, checked_skip
from torchclip.policies.step_size import AdaLossStep, PolyakStep, SqrtDecay, StepSize, checked_step_size
from torchclip.rules.rule_spec import RuleSpec, StateSlot, copy_of

SLOW = StateSlot("slow", of_parameter=copy_of, at_least_float32=True, has_own_type=True, optional=True)
"""Lookahead's slow weights."""

EMA = StateSlot("ema", of_parameter=copy_of, at_least_float32=True, has_own_type=True, optional=True)
"""WeightEMA's average."""

BESIDE_RULE = frozenset((SLOW.name, EMA.name))
"""State that no rule has."""


@dataclass(frozen=True)
class Modifiers:
    """The clip policy, what skips steps, step size, extensions and precision of an optimizer, None where it has none.

    Where a param group has a clip policy of its own, ``group_clips`` holds one entry for each group, and ``clip`` is in
    those already that it measures.
    """

    clip: ClipPolicy | None = None
    step_size: StepSize | None = None
    gradient_noise: GradientNoise | None = None
    gradient_dropout: GradientDropout | None = None
    lr_dropout: LRDropout | None = None
    lookahead: Lookahead | None = None
    group_clips: tuple[GroupClip, ...] = ()
    weight_ema: WeightEMA | None = None
    skip: SkipSpikes | None = None
    precision: Precision | None = None

    @classmethod
    def of(
        cls,
        clip: ClipPolicy | float | None,
        step_size: StepSize | None,
        extensions: Iterable[Extension] | None,
        skip: SkipSpikes | None = None,
        precision: Precision | None = None,
    ) -> Modifiers:
        """From an optimizer's arguments.

        Raises:
            TypeError, ValueError: for an argument that is none of these, and two extensions of a kind.
        """
        given: dict[type, Any] = {type(extension): extension for extension in checked_extensions(extensions)}
        policy = as_clip_policy(clip)
        warn_of_zero(policy)
        return cls(
            policy,
            checked_step_size(step_size),
            given.get(GradientNoise),
            given.get(GradientDropout),
            given.get(LRDropout),
            given.get(Lookahead),
            weight_ema=given.get(WeightEMA),
            skip=checked_skip(skip),
            precision=checked_precision(precision),
        )

    def with_clips(self, clip: ClipPolicy | None, param_groups: Sequence[Mapping[str, Any]]) -> Modifiers:
        """With this policy of the optimizer, and those that param groups have of their own.

        Raises:
            TypeError, ValueError: for policies that cannot be together.
        """
        if isinstance(self.step_size, PolyakStep) and isinstance(clip, ClipByValue):
            raise ValueError(
                "PolyakStep cannot be combined with ClipByValue: its step goes by the norm after clipping, which is "
                "known only once every element is clamped; use ClipByGlobalNorm, or leave one of them out"
            )
        modifiers = replace(self, clip=clip, group_clips=clips_of(param_groups, clip))
        for policy in modifiers.clips:
            if policy not in (self.clip, *self.clips):
                warn_of_zero(policy)
        return modifiers

    @property
    def clips(self) -> list[ClipPolicy]:
        """The clip policies of a step, those of param groups among them, each once."""
        return policies_of(self.clip, self.group_clips)

    @property
    def measures(self) -> bool:
        """Whether a step takes norms of the gradients, for a clip policy or else."""
        return measures_any(self.clip, self.group_clips) or self.takes_joint_norm

    @property
    def takes_joint_norm(self) -> bool:
        """Whether the joint norm of all gradients decides about more than a clip factor."""
        watches = self.skip is not None and self.skip.watches_norm
        return watches or isinstance(self.step_size, PolyakStep) or isinstance(self.clip, AdaGC)

    @property
    def takes_loss(self) -> bool:
        """Whether a step needs the loss."""
        watches = self.skip is not None and self.skip.watches_loss
        return watches or isinstance(self.step_size, (AdaLossStep, PolyakStep))

    @property
    def needs_loss(self) -> str:
        """The policy that does, for errors."""
        step_size = isinstance(self.step_size, (AdaLossStep, PolyakStep))
        return type(self.step_size if step_size else self.skip).__name__

    @property
    def averages_loss(self) -> bool:
        """Whether the loss of a step of several processes is to be averaged."""
        told = (getattr(each, "is_averaged", False) for each in (self.step_size, self.skip))
        return self.takes_loss and not any(told)

    @property
    def follower(self) -> Lookahead | WeightEMA | None:
        """What keeps a second set of weights."""
        return self.lookahead if self.weight_ema is None else self.weight_ema

    @property
    def followers_slot(self) -> StateSlot | None:
        """Its state."""
        return None if self.follower is None else SLOW if self.weight_ema is None else EMA

    @property
    def raising(self) -> ClipPolicy | None:
        """The clip policy that raises for a norm that is not finite."""
        found = (clip for clip in self.clips if getattr(clip, "nonfinite", None) == NonFinite.ERROR)
        return next(found, None)

    @property
    def extensions(self) -> tuple[Extension, ...]:
        """Those in use, in the order in which they act."""
        each = (self.gradient_noise, self.gradient_dropout, self.lr_dropout, self.lookahead, self.weight_ema)
        return checked_extensions(extension for extension in each if extension is not None)

    @property
    def draws(self) -> bool:
        """Whether a step draws random numbers."""
        rounds = self.precision is not None and self.precision.draws
        extensions = (self.gradient_noise, self.gradient_dropout, self.lr_dropout)
        return rounds or any(extension is not None for extension in extensions)

    @property
    def counts_steps(self) -> bool:
        """Whether a step needs its number."""
        return self.draws or self.follower is not None or isinstance(self.step_size, SqrtDecay)

    @cached_property
    def shared_shapes(self) -> Mapping[str, tuple[int, ...] | None]:
        """The numbers of state that belong to no single parameter: names and shapes; None for one number of each
        parameter."""
        shapes: dict[str, tuple[int, ...] | None] = {}
        if self.counts_steps:
            shapes["step"] = ()
        if self.draws:
            shapes["seed"] = ()
        if isinstance(self.step_size, AdaLossStep):
            shapes["b_squared"] = ()
        if isinstance(self.step_size, PolyakStep) and self.step_size.growth is not None:
            shapes["polyak_step"] = ()
        if isinstance(self.clip, AdaGC):
            shapes |= {"norm_bounds": None, "norm_count": ()}
        elif isinstance(self.clip, AutoClip):
            shapes |= {"norm_window": (self.clip.window,), "norm_count": ()}
        elif isinstance(self.clip, ZClip):
            shapes |= {"norm_mean": (), "norm_variance": (), "norm_count": ()}
        if self.skip is not None and self.skip.watches_norm:
            shapes |= {"skip_norms": (self.skip.window,), "skip_norm_count": ()}
        if self.skip is not None and self.skip.watches_loss:
            shapes |= {"skip_losses": (self.skip.window,), "skip_loss_count": ()}
        return shapes

    def reason_against(self, spec: RuleSpec) -> str | None:
        """Why ``spec``'s rule cannot be combined with these; None where it can."""
        if self.lookahead is not None and self.weight_ema is not None:
            return (
                "Lookahead and WeightEMA cannot be combined: the update moves one second set of weights, and "
                "Lookahead's follow the parameters already; leave one of them out"
            )
        reason = None if self.precision is None else self.precision.reason_against(spec)
        if reason is not None or not spec.sets_parameter:
            return reason
        refused = "cannot be combined with gRDA, LinBreg and AdaBreg: they set p anew from an accumulator at every step"
        if self.lr_dropout is not None:
            return (
                f"LRDropout {refused}, so there is no step to drop, and an element left out now would jump later; use "
                "GradientDropout, which keeps gradients out of the accumulator"
            )
        if self.lookahead is not None:
            return f"Lookahead {refused}, and the next one would overwrite the slow weights; leave it out"
        return None
