"""What the processes of a step must have in common, found out once, before the first step."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch.distributed as dist
from torch import Tensor

from torchclip.distributed.exchange import Over, gathered, takes_sums
from torchclip.distributed.layout import Layout
from torchclip.distributed.ownership import is_flat
from torchclip.distributed.processes import Processes
from torchclip.policies.modifiers import Modifiers
from torchclip.rules.hyperparameters import number_of
from torchclip.rules.norms import Scope
from torchclip.rules.rule_spec import RuleSpec
from torchclip.rules.soft_threshold import TARGET
from torchclip.state.sharded import is_sharded


def agree(
    layout: Layout, spec: RuleSpec, scope: Scope, modifiers: Modifiers, param_groups: Sequence[Mapping[str, Any]]
) -> None:
    """Raises in every process where one has other policies, targets or parameters than the rest.

    Whether a step takes sums is a matter of those, too: what only some of the processes wait for is found out before.

    Args:
        layout: the optimizer's.
        spec: its rule.
        scope: over which elements that takes its norms, if any.
        modifiers: its policies.
        param_groups: as in ``optimizer.param_groups``.

    Raises:
        RuntimeError: with what differs.
    """
    policies = f"rule {spec.name} over {scope.value}, clip {modifiers.clip}, step_size {modifiers.step_size}, "
    policies += (
        f"skip {modifiers.skip}, extensions {modifiers.extensions}, {[each.policy for each in modifiers.group_clips]}, "
        f"precision {modifiers.precision}, "
    )
    targets = ""
    if spec.family == "soft_threshold":
        targets = f", target_sparsity {[number_of(group.get(TARGET)) for group in param_groups]}"
    sizes = [len(group["params"]) for group in param_groups]
    has_sums = takes_sums(spec, param_groups, measures=modifiers.measures)
    for over in layout.sums:
        # What other processes hold in its place may be of any kind.
        own = [
            f"{index}: {_shape(parameter)} {parameter.dtype} {_placements(parameter)}"
            for index, (parameter, owner) in enumerate(zip(layout.parameters, layout.owners, strict=True))
            if owner.tensor == over
        ]
        # Those that hold other parameters have as many groups where something is added up by group.
        groups = sizes if over not in layout.apart else len(sizes) if has_sums else "of its own"
        lines = [policies, f"param groups {groups}{targets}", *own]
        for processes in over:
            _check(lines, processes)


def _shape(parameter: Tensor) -> str:
    return "flat" if is_flat(parameter) else str(tuple(parameter.shape))


def _placements(parameter: Tensor) -> str:
    sharded: Any = parameter
    return str(tuple(sharded.placements)) if is_sharded(parameter) else "plain"


def _check(lines: Sequence[str], processes: Processes) -> None:
    digest = hashlib.sha256("\n".join(lines).encode()).digest()
    own = int.from_bytes(digest[:8], "little", signed=True)
    found = gathered(own, processes)
    if len(set(found)) == 1:
        return
    said: list[Any] = [None] * len(processes)
    dist.all_gather_object(said, list(lines), group=processes.process_group)
    mine, other, rank = _difference(said)
    raise RuntimeError(
        f"the processes of this optimizer disagree: rank {processes.ranks[0]} has {mine}, and rank "
        f"{processes.ranks[rank]} has {other}. Make it with the same arguments and the same parameters in each, or say "
        "norm_group= where each holds others"
    )


def _difference(said: Sequence[Sequence[str]]) -> tuple[str, str, int]:
    first = said[0]
    rank = next(index for index, lines in enumerate(said) if lines != first)
    for mine, other in zip(first, said[rank]):  # noqa: B905  one may have more
        if mine != other:
            return mine, other, rank
    return f"{len(first) - 2} parameters", f"{len(said[rank]) - 2}", rank


def one_seed(shared: Mapping[str, Tensor], everyone: Over) -> None:
    """Gives all processes the seed of the first."""
    seed = shared.get("seed")
    if seed is None:
        return
    for processes in everyone:
        seed.fill_(gathered(int(seed), processes)[0])
