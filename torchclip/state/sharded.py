"""Parameters that are wrappers around other tensors, of which a DTensor's is one process's shard."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from torchclip.policies.clip import ClipPolicy, measures
from torchclip.policies.modifiers import Modifiers
from torchclip.rules.rule_spec import RuleSpec
from torchclip.state.steppable import can_step
from torchclip.state.tensor_checks import describe_parameter


def is_wrapper(tensor: Tensor) -> bool:
    """Whether it is of a subclass whose elements cannot be reached through a data pointer."""
    return type(tensor).__torch_dispatch__ is not Tensor.__torch_dispatch__


def is_sharded(tensor: Tensor) -> bool:
    """Whether it is a DTensor."""
    distributed = sys.modules.get("torch.distributed.tensor")  # where nobody has imported it, there are none
    return distributed is not None and isinstance(tensor, distributed.DTensor)


def refuse_sharded(param_groups: Sequence[Mapping[str, Any]], modifiers: Modifiers, spec: RuleSpec) -> None:
    """Raises where a step would have to know more of a parameter than this process holds.

    Args:
        param_groups: as in ``optimizer.param_groups``.
        modifiers: the policies and extensions of the step.
        spec: its rule.

    Raises:
        ValueError: for a DTensor under a policy or a rule that takes norms, or with random draws.
    """
    own = [each.policy for each in modifiers.group_clips]
    for group_index, group in enumerate(param_groups):
        why = _reason(own[group_index] if group_index < len(own) else modifiers.clip, modifiers, spec)
        for index, parameter in enumerate(group["params"] if why is not None else ()):
            if is_sharded(parameter) and can_step(parameter):
                name = describe_parameter(param_groups, group_index, index)
                raise ValueError(f"{name} is a DTensor, of which each process holds a shard, and {why}")


def _reason(clip: ClipPolicy | None, modifiers: Modifiers, spec: RuleSpec) -> str | None:
    """Why a param group under this policy cannot hold shards; None where it can."""
    if measures(clip):
        why = f"{clip} would need the norms of all shards: leave clip out, and call "
        return why + "torchclip.clip_grad_norm_(parameters, max_norm) before step(), which adds them up"
    if spec.clips_itself:
        return f"{spec.name} would need the norms of all shards: choose a rule that takes none, SGD or AdamW say"
    if modifiers.draws:
        why = "noise and dropout number the elements that a process holds, so that two shards would draw alike: "
        return why + "leave them out"
    return None
