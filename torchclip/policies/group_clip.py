"""Clip policies that param groups have of their own, and keys that belong to the optimizer and not to a group.

A group's own policy measures that group alone. The optimizer's measures the groups that have none: those without the
key ``"clip"``. A group whose ``"clip"`` is None is neither measured nor clipped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torchclip.policies.clip import POLICIES, ClipByGlobalNorm, ClipPolicy, Scope, as_clip_policy, measures

KEY = "clip"

CONSTRUCTOR = "give it to the constructor, where it holds for all of them"
ARGUMENTS = {
    "step_size": CONSTRUCTOR,
    "extensions": CONSTRUCTOR,
    "precision": CONSTRUCTOR,
    "seed": CONSTRUCTOR,
    "backend": CONSTRUCTOR,
    "skip": f"a step is skipped for all of them together: {CONSTRUCTOR}",
}
"""Keys that mean nothing in a param group though they look as if they did, and where they belong. Those of
``ParameterReader::argument_keys_`` in csrc/reader/parameter_reader.cpp."""


@dataclass(frozen=True)
class GroupClip:
    """How the gradients of one param group are clipped, where groups have policies of their own.

    Args:
        unit: the first of the groups whose gradients are in the same norm; -1 where no norm is taken.
        policy: of that norm; None where none is taken.
    """

    unit: int
    policy: ClipByGlobalNorm | None


NOT_MEASURED = GroupClip(-1, None)


def check_keys(group: Mapping[str, Any], index: int, *, clips_itself: bool) -> None:
    """Raises for a key that a param group cannot have.

    Args:
        group: the param group.
        index: its place.
        clips_itself: of the rule, which takes its norms over ``scope=`` then.

    Raises:
        TypeError: for an argument of the constructor.
        TypeError, ValueError: for a ``"clip"`` that is no policy of a single group.
    """
    for key, remedy in {**ARGUMENTS, **({"scope": CONSTRUCTOR} if clips_itself else {})}.items():
        if key in group:
            raise TypeError(
                f"param group {index} sets {key}={group[key]!r}, which is no setting of a single group: {remedy}"
            )
    if KEY in group:
        _own_policy(group[KEY], index)


def _own_policy(clip: Any, index: int) -> ClipByGlobalNorm | None:
    here = f"param group {index} sets clip={clip!r}, and a group's own policy is a number, ClipByGlobalNorm or None"
    if isinstance(clip, POLICIES) and not isinstance(clip, ClipByGlobalNorm):
        raise ValueError(
            f"{here}: {type(clip).__name__} is measured or remembered for all groups at once; give it to the "
            "constructor, or make an optimizer for each"
        )
    try:
        policy = as_clip_policy(clip)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{here}: {error}") from None
    assert policy is None or isinstance(policy, ClipByGlobalNorm)
    return policy


def clips_of(param_groups: Sequence[Mapping[str, Any]], clip: ClipPolicy | None) -> tuple[GroupClip, ...]:
    """How each param group is clipped; empty where none has a policy of its own.

    Args:
        param_groups: as in ``optimizer.param_groups``.
        clip: the optimizer's policy.

    Raises:
        TypeError, ValueError: for a ``"clip"`` that is no policy of a single group, and for an optimizer's policy that
            measures groups in another way.
    """
    own = [index for index, group in enumerate(param_groups) if KEY in group]
    if not own:
        return ()
    if clip is not None and not isinstance(clip, ClipByGlobalNorm):
        raise ValueError(
            f"param group {own[0]} sets clip={param_groups[own[0]][KEY]!r}, and the optimizer's {clip!r} cannot stand "
            "beside policies of single groups: ClipByGlobalNorm and None can; leave one of them out, or make an "
            "optimizer for each"
        )
    rest = [index for index in range(len(param_groups)) if index not in own]
    result = []
    for index, group in enumerate(param_groups):
        policy, unit = clip, index
        if KEY in group:
            policy = _own_policy(group[KEY], index)
        elif clip is not None and clip.scope is Scope.OPTIMIZER:
            unit = rest[0]
        result.append(NOT_MEASURED if policy is None else GroupClip(unit, policy))
    return tuple(result)


def measures_any(clip: ClipPolicy | None, group_clips: Sequence[GroupClip]) -> bool:
    """Whether a step takes a norm for a policy."""
    return any(each.policy is not None for each in group_clips) if group_clips else measures(clip)


def policies_of(clip: ClipPolicy | None, group_clips: Sequence[GroupClip]) -> list[ClipPolicy]:
    """Every policy of a step, each once."""
    own = [each.policy for each in group_clips] if group_clips else [clip]
    return list(dict.fromkeys(policy for policy in own if policy is not None))
