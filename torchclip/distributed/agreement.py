"""What the processes of a step must have in common, found out once, before the first step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntFlag
from functools import reduce
from operator import or_
from typing import Any

import torch.distributed as dist
from torch import Tensor

from torchclip.distributed.agreed import Agreed, disagreement, hash_of, lines_of
from torchclip.distributed.exchange import Over, gathered
from torchclip.distributed.layout import Layout
from torchclip.distributed.ownership import is_flat
from torchclip.distributed.processes import Processes
from torchclip.policies.modifiers import Modifiers
from torchclip.rules.hyperparameters import number_of
from torchclip.rules.norms import Scope
from torchclip.rules.rule_spec import RuleSpec
from torchclip.state.group_state import VECTORS, numbers_of
from torchclip.state.group_values import PIPELINE_KEYS
from torchclip.state.sharded import is_sharded


class Paths(IntFlag):
    """What takes the steps of some processes. What the reference path sends is no plan's."""

    REFERENCE = 1
    COMPILED = 2
    DEMANDED = 4
    """A compiled backend was asked for."""

    @property
    def are_unlike(self) -> bool:
        """Whether the processes send sums of different lengths."""
        return bool(self & Paths.REFERENCE and self & Paths.COMPILED)


def agree(
    layout: Layout,
    spec: RuleSpec,
    scope: Scope,
    modifiers: Modifiers,
    param_groups: Sequence[Mapping[str, Any]],
    path: Paths,
) -> tuple[bool, Paths]:
    """Raises in every process where one has other policies, targets or parameters than the rest.

    Whether a step takes sums is a matter of those, too: what only some of the processes wait for is found out before.

    Args:
        layout: the optimizer's.
        spec: its rule.
        scope: over which elements that takes its norms, if any.
        modifiers: its policies.
        param_groups: as in ``optimizer.param_groups``.
        path: what takes this process's steps; nothing where they add nothing up.

    Returns:
        Whether all who add anything up are one set of processes, in each of which it is the only one; and what takes
        the steps of all.

    Raises:
        RuntimeError: with what differs, and where some take no part within the time-out of the process group.
    """
    is_one = len({processes for over in layout.sums for processes in over}) == 1
    together = is_one
    for over in layout.sums:
        is_apart = over in layout.apart
        common = lines_of(spec, scope, modifiers, param_groups, apart=is_apart)
        if not is_apart:
            common += _hyperparameters(spec, param_groups)
        if path:
            # Another seed is replaced.
            common += [line for name, line in shared_lines(param_groups, apart=is_apart) if name != "seed"]
        # What other processes hold in its place may be of any kind.
        own = [
            f"parameter {index}: {_shape(parameter)} {parameter.dtype} {_placements(parameter)}"
            for index, (parameter, owner) in enumerate(zip(layout.parameters, layout.owners, strict=True))
            if owner.tensor == over
        ]
        for processes in over:
            of_each = _check([*common, *own], processes, path << 1 | is_one)
            together &= all(number & 1 for number in of_each)
            path = Paths(reduce(or_, of_each) >> 1)  # which those of the next set are told
    return together, path


def conflict(layout: Layout, backend: str) -> RuntimeError:
    """The error of all of the processes, which all call this, where paths are unlike, and one is demanded."""
    remedy = "Make it with the same backend= and fused= in each, or leave both out"
    found = [disagreement([f"{backend=}"], processes, remedy) for processes in layout.across]
    return next((error for error in found if error is not None), RuntimeError(f"others have another {backend=}"))


def agreed_on(
    layout: Layout,
    together: bool,
    spec: RuleSpec,
    scope: Scope,
    modifiers: Modifiers,
    param_groups: Sequence[Mapping[str, Any]],
    *,
    by_reference: bool,
) -> Agreed | None:
    """What later steps compare with; None where this process knows every norm by itself. The arguments are those of
    :func:`agree`, what it returns, and whether the reference path takes the steps."""
    if not layout.sums:
        return None
    rule = (spec, scope, modifiers, param_groups)
    return Agreed(layout.sums, bool(layout.apart), together, *rule, by_reference=by_reference)


def _hyperparameters(spec: RuleSpec, param_groups: Sequence[Mapping[str, Any]]) -> list[str]:
    """Those of each group. Later steps may have others, as schedulers do, and nothing compares them."""
    return [
        f"{name}={_said(group[name])} in param group {index}"
        for index, group in enumerate(param_groups)
        for name in dict.fromkeys((*PIPELINE_KEYS, *spec.hyperparameters))
        if name in group
    ]


def shared_lines(param_groups: Sequence[Mapping[str, Any]], *, apart: bool) -> list[tuple[str, str]]:
    """The numbers of state that belong to no single parameter, and of which all have the same, with their names.

    What lies on a device is waited for.

    Args:
        param_groups: as in ``optimizer.param_groups``.
        apart: whether other processes hold other parameters.
    """
    lines = []
    for index, group in enumerate(param_groups):
        for name, value in sorted(numbers_of(group).items()):
            if not (apart and name == "norm_bounds"):  # of each parameter
                numbers = str(value.tolist() if isinstance(value, Tensor) else number_of(value))
                said = f"numbers of hash {hash_of([numbers]):x}" if name in VECTORS else numbers
                lines.append((name, f"{name}={said} in the state of param group {index}"))
    return lines


def _said(value: Any) -> Any:
    """The numbers of one key. What lies on a device is not waited for."""
    if isinstance(value, (tuple, list)):
        return [_said(one) for one in value]
    if isinstance(value, Tensor):
        return value.tolist() if value.device.type == "cpu" and not is_sharded(value) else "a tensor"
    return number_of(value)


def _shape(parameter: Tensor) -> str:
    return "flat" if is_flat(parameter) else str(tuple(parameter.shape))


def _placements(parameter: Tensor) -> str:
    sharded: Any = parameter
    return str(tuple(sharded.placements)) if is_sharded(parameter) else "plain"


_BITS = 4


def _check(lines: Sequence[str], processes: Processes, bits: int) -> list[int]:
    """Returns the ``bits`` of each of the processes, the last ones of what they send."""
    try:
        found = gathered(hash_of(lines) >> _BITS << _BITS | bits, processes)
    except RuntimeError as error:
        if type(error) is not RuntimeError and not isinstance(error, dist.DistError):  # gloo's are plain ones
            raise
        raise RuntimeError(
            f"ranks {list(processes.ranks)} did not all take part in a step in which they find out whether they agree: "
            "call step() in each of them, and give norm_group=, if to one, to all"
        ) from error
    if len({number >> _BITS for number in found}) == 1:
        return [number & (1 << _BITS) - 1 for number in found]
    differ = disagreement(
        lines,
        processes,
        "Make it with the same arguments and the same parameters in each, or say norm_group= where each holds others",
    )
    assert differ is not None
    raise differ


def one_seed(shared: Mapping[str, Tensor], everyone: Over) -> None:
    """Gives all processes the seed of the first."""
    seed = shared.get("seed")
    if seed is None:
        return
    for processes in everyone:
        seed.fill_(gathered(int(seed), processes)[0])
