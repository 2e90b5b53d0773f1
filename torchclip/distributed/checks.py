"""What would be wrong in a step of many processes, and is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from torchclip.distributed.exchange import takes_sums
from torchclip.distributed.layout import KEY, layout_of
from torchclip.distributed.ownership import is_flat
from torchclip.distributed.places import place_of
from torchclip.distributed.processes import Processes, is_running, of
from torchclip.policies.clip import AdaGC, AdaptiveGradientClip, ClipByTensorNorm, measures
from torchclip.policies.modifiers import Modifiers
from torchclip.rules.norms import Scope
from torchclip.rules.rule_spec import RuleSpec
from torchclip.state.sharded import held_part, is_sharded, sharded_dimension
from torchclip.state.steppable import can_step
from torchclip.state.tensor_checks import describe_parameter

Refusal = Callable[[str], str | None]
"""Why a fused backend does not take a step of these processes, by its name; None where it may."""


def alone(backend: str) -> str | None:
    """No other process takes part."""
    return None


def check_distributed(
    param_groups: Sequence[Mapping[str, Any]],
    modifiers: Modifiers,
    spec: RuleSpec,
    scope: Scope,
    norm_group: Processes | None,
) -> None:
    """Raises where a step would measure or draw for a part of a tensor as if it were whole.

    Args:
        param_groups: as in ``optimizer.param_groups``.
        modifiers: the policies and extensions of the step.
        spec: its rule.
        scope: over which elements that takes its norms, if any.
        norm_group: the processes over which the parameters are distinct.

    Raises:
        ValueError: with the parameter and the remedy.
        TypeError, ValueError, RuntimeError: for a ``"norm_group"`` of a param group that is none of this process.
    """
    for group in param_groups:
        if group.get(KEY) is not None:
            of(group[KEY], KEY)
    for group_index, index, parameter in _those_that_step(param_groups):
        declared = norm_group is not None or param_groups[group_index].get(KEY) is not None
        policy = modifiers.group_clips[group_index].policy if modifiers.group_clips else modifiers.clip
        has_sums = takes_sums(spec, param_groups, measures=measures(policy))
        reason = None
        if is_sharded(parameter):
            reason = _reason_of_sharded(parameter, has_sums=has_sums)
        elif is_flat(parameter) and is_running():
            by_rows = isinstance(policy, AdaptiveGradientClip) or (spec.clips_itself and scope is Scope.ROW)
            reason = _reason_of_flat(declared, has_sums=has_sums, draws=modifiers.draws, by_rows=by_rows)
        if reason is not None:
            raise ValueError(f"{describe_parameter(param_groups, group_index, index)} {reason}")


def _those_that_step(param_groups: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, int, Tensor]]:
    for group_index, group in enumerate(param_groups):
        for index, parameter in enumerate(group["params"]):
            if can_step(parameter):
                yield group_index, index, parameter


def _reason_of_sharded(parameter: Tensor, *, has_sums: bool) -> str | None:
    sharded: Any = parameter
    if any(placement.is_partial() for placement in sharded.placements):
        return (
            f"is a DTensor of placements {tuple(sharded.placements)}, of which no process holds the elements: "
            "redistribute it to Replicate() or Shard(…) before the optimizer is made"
        )
    if is_running() and sharded.device_mesh.get_coordinate() is None:
        return (
            f"is a DTensor over ranks {sharded.device_mesh.mesh.tolist()}, and this is rank "
            f"{torch.distributed.get_rank()}, which holds nothing of it: leave it out of this process's optimizer"
        )
    known = all(one.is_replicate() or sharded_dimension(one) is not None for one in sharded.placements)
    if not known:
        return f"is a DTensor of placements {tuple(sharded.placements)}, which are none that a step knows"
    if has_sums and not torch.distributed.is_initialized():
        return (
            "is a DTensor, and torch.distributed is not initialised: the process group of its mesh is gone, over which "
            "a norm, or a share of zeros, is taken; make the model, and the optimizer with it, after "
            "init_process_group()"
        )
    return None


def _reason_of_flat(declared: bool, *, has_sums: bool, draws: bool, by_rows: bool) -> str | None:
    here = "is a piece of what FSDP1 (FullyShardedDataParallel) has flattened, and "
    if has_sums and not declared:
        return (
            f"{here}a norm, or a share of zeros, of this piece alone would be another one in every process: say "
            "norm_group=model.process_group, or use fully_shard (FSDP2), which needs nothing said"
        )
    if by_rows:
        return f"{here}has no rows to measure: choose another policy or scope, or use fully_shard (FSDP2)"
    if draws:
        return (
            f"{here}noise, dropout and stochastic rounding number the elements of whole tensors, so that two pieces "
            "would draw alike: leave them out, or use fully_shard (FSDP2)"
        )
    return None


def compiled_reason(
    backend: str,
    param_groups: Sequence[Mapping[str, Any]],
    modifiers: Modifiers,
    spec: RuleSpec,
    scope: Scope,
    norm_group: Processes | None,
) -> str | None:
    """Why a compiled backend does not take the step of several processes; None where it may."""
    has_sums = takes_sums(spec, param_groups, measures=modifiers.measures)
    stepping = [parameter for _, _, parameter in _those_that_step(param_groups)]
    if backend != "cpu":
        of_groups = any(group.get(KEY) is not None for group in param_groups)
        declared = of_groups or (norm_group is not None and len(norm_group) > 1)
        sharded = any(is_sharded(parameter) for parameter in stepping)
        if not sharded and not (declared and (has_sums or modifiers.draws)):
            return None
        if len({held_part(parameter).device for parameter in stepping}) > 1:
            return (
                "the parameters of this process are on several devices, and a norm over processes takes one device in "
                "each"
            )
    if modifiers.takes_joint_norm and isinstance(modifiers.clip, (AdaGC, ClipByTensorNorm)):
        layout = layout_of(param_groups, norm_group)
        if layout.apart:
            return (
                "norms of tensors that other processes hold alone are in the one norm that AdaGC, SkipSpikes and "
                "PolyakStep go by, and the reference path takes that step"
            )
    if modifiers.draws and any(place_of(parameter) is None for parameter in stepping):
        return (
            "a DTensor's local elements lie in the whole tensor in more pieces than a draw on this backend can number, "
            "and the reference path takes the step"
        )
    by_rows = isinstance(modifiers.clip, AdaptiveGradientClip) or (spec.clips_itself and scope is Scope.ROW)
    if by_rows:
        layout = layout_of(param_groups, norm_group)
        if any(layout.owners[index].norm != layout.owners[index].tensor for index in layout.split_rows):
            return (
                "rows of a parameter are split over other processes than those that its norm is taken over, and the "
                "reference path takes the step"
            )
    return None
