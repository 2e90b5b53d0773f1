"""Options applied around an update rule: clip policy, step size and extensions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torchclip.policies.clip import ClipPolicy, NonFinite, as_clip_policy, warn_of_zero
from torchclip.policies.extensions import (
    Extension,
    GradientDropout,
    GradientNoise,
    Lookahead,
    LRDropout,
    checked_extensions,
)
from torchclip.policies.group_clip import GroupClip, clips_of, measures_any, policies_of
from torchclip.policies.step_size import SqrtDecay, StepSize, checked_step_size
from torchclip.rules.rule_spec import RuleSpec, StateSlot, copy_of

SLOW = StateSlot("slow", of_parameter=copy_of, at_least_float32=True, has_own_type=True, optional=True)
"""Lookahead's slow weights."""


@dataclass(frozen=True)
class Modifiers:
    """The clip policy, the step size and the extensions of an optimizer, each None when it has none.

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

    @classmethod
    def of(
        cls, clip: ClipPolicy | float | None, step_size: StepSize | None, extensions: Iterable[Extension] | None
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
        )

    def with_clips(self, clip: ClipPolicy | None, param_groups: Sequence[Mapping[str, Any]]) -> Modifiers:
        """With this policy of the optimizer, and those that param groups have of their own.

        Raises:
            TypeError, ValueError: for policies that cannot be together.
        """
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
        """Whether a clip policy takes norms."""
        return measures_any(self.clip, self.group_clips)

    @property
    def raising(self) -> ClipPolicy | None:
        """The clip policy that raises for a norm that is not finite."""
        found = (clip for clip in self.clips if getattr(clip, "nonfinite", None) == NonFinite.ERROR)
        return next(found, None)

    @property
    def extensions(self) -> tuple[Extension, ...]:
        """Those in use, in the order in which they act."""
        each = (self.gradient_noise, self.gradient_dropout, self.lr_dropout, self.lookahead)
        return checked_extensions(extension for extension in each if extension is not None)

    @property
    def draws(self) -> bool:
        """Whether a step draws random numbers."""
        return not (self.gradient_noise is None and self.gradient_dropout is None and self.lr_dropout is None)

    @property
    def counts_steps(self) -> bool:
        """Whether a step needs its number."""
        return self.draws or self.lookahead is not None or isinstance(self.step_size, SqrtDecay)

    def reason_against(self, spec: RuleSpec) -> str | None:
        """Why ``spec``'s rule cannot be combined with these; None where it can."""
        if not spec.sets_parameter:
            return None
        refused = "cannot be combined with gRDA, LinBreg and AdaBreg: they set p anew from an accumulator at every step"
        if self.lr_dropout is not None:
            return (
                f"LRDropout {refused}, so there is no step to drop, and an element left out now would jump later; use "
                "GradientDropout, which keeps gradients out of the accumulator"
            )
        if self.lookahead is not None:
            return f"Lookahead {refused}, and the next one would overwrite the slow weights; leave it out"
        return None
