"""What holds for every parameter of one step, and the tensors that a rule is given of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchclip.backends.reference import pipeline
from torchclip.backends.reference.draws import Draws
from torchclip.backends.reference.operands import (
    Words,
    codes_in_order,
    local_view,
    parameter_value,
    slot_value,
    working,
)
from torchclip.distributed import shards
from torchclip.distributed.exchange import Exchange
from torchclip.distributed.layout import Layout
from torchclip.policies.clip import ClipByValue, Scope
from torchclip.policies.extensions import GRADIENT_DROPOUT_STREAM, LR_DROPOUT_STREAM
from torchclip.policies.modifiers import BESIDE_RULE, Modifiers
from torchclip.policies.precision import Precision
from torchclip.policies.precision.codec import MASTER, REMAINDER, Types, absmax_of
from torchclip.policies.step_size import PolyakStep
from torchclip.rules.norms import norm_dtype
from torchclip.rules.rule_spec import Group, RuleSpec, State
from torchclip.rules.soft_threshold import THRESHOLD_SCALE
from torchclip.state.group_state import numbers_of
from torchclip.state.precision_state import created_beside, created_slot
from torchclip.state.sharded import PLAIN_TENSORS


@dataclass(frozen=True)
class Entry:
    """A parameter with a gradient.

    Args:
        index: counts through all groups, parameters without gradient included.
        group_index: the position of its param group.
        group: its param group, with hyperparameters that are tensors on the parameter's device.
        parameter: the real view of a complex one, and of a DTensor this process's shard, as everything that is
            computed here.
        gradient: likewise, of at least one dimension.
        owner: the parameter as the optimizer has it, whose state is found by it.
        held: what state it has before the step.
        dtype: the compute type.
        types: how its operands are held; None without a precision policy.
    """

    index: int
    group_index: int
    group: Group
    parameter: Tensor
    gradient: Tensor
    owner: Tensor
    held: Mapping[str, Any]
    dtype: torch.dtype
    types: Types | None = None

    @property
    def value(self) -> Tensor:
        """The value that the parameter stands for, in the compute type."""
        if self.types is None:
            return working(self.parameter, self.dtype)
        return parameter_value(self.parameter, self.types, self.held, self.dtype)


@dataclass(frozen=True)
class Run:
    """One step.

    Args:
        spec: the rule, with a slot for the slow weights under Lookahead.
        param_groups: the optimizer's.
        group_sizes: the number of parameters in each group.
        entries: every parameter that has a gradient.
        modifiers: clip policy, step size and extensions.
        scope: over which elements a rule that clips itself takes its norms.
        inv_scale: 0-dim; what undoes the scale of a GradScaler, or None.
        clips: for each parameter what clips its raw gradient; filled in once that is measured.
        lr_scale: 0-dim, the step size's factor, or PolyakStep's step; None without one.
        layout: which processes hold what; None where this one holds everything.
        exchange: what adds the sums of this step over processes; None where there is no layout.
        given_norm: 0-dim; what the clip policy takes for its norm in place of one that it measures; None for none.
        scales: [groups], 0-dim: the factor on the threshold of a group that is steered; empty where none is.
    """

    spec: RuleSpec
    param_groups: Sequence[Group]
    group_sizes: Sequence[int]
    entries: Sequence[Entry]
    modifiers: Modifiers
    scope: Scope
    inv_scale: Tensor | None
    clips: Sequence[Tensor | ClipByValue | None] = ()
    lr_scale: Tensor | None = None
    layout: Layout | None = None
    exchange: Exchange | None = None
    given_norm: Tensor | None = None
    scales: Sequence[Tensor | None] = ()

    @property
    def shared(self) -> Mapping[str, Tensor]:
        """The numbers of state that belong to no single parameter, but for the sums of a group."""
        return numbers_of(self.param_groups[0]) if self.param_groups else {}

    @property
    def number(self) -> int | Tensor:
        """That of the step being taken: 1, 2, … The host holds it, so nothing is waited for.

        A tensor in a compiled graph, which is to serve for every step.
        """
        return (self.shared["step"] if torch.compiler.is_compiling() else int(self.shared["step"])) + 1

    @property
    def draws(self) -> Draws:
        """The random draws of this step."""
        seed = self.shared["seed"]
        return Draws(seed if torch.compiler.is_compiling() else int(seed), self.number)

    def numbered(self, entry: Entry) -> tuple[int, Tensor | None]:
        """The number of a parameter among those of all processes, and the places of its elements in the whole tensor;
        None where it is whole."""
        if self.layout is None:
            return entry.index, None
        return self.layout.number(entry.index), self.layout.places(entry.index)

    def rules_group(self, entry: Entry) -> Group:
        """A parameter's group as the rule's step reads it where thresholds are steered: with this step's factor."""
        scale = self.scales[entry.group_index]
        if scale is None:
            return entry.group
        return {**entry.group, "shared": {**numbers_of(entry.group), THRESHOLD_SCALE: scale}}

    @property
    def is_split(self) -> bool:
        """Whether norms are those of several processes."""
        return self.layout is not None and bool(self.layout.sums)

    def run_exchange(self) -> None:
        """Adds what was measured so far over processes, if there are others."""
        if self.exchange is not None:
            self.exchange.run()


def entries_of(
    spec: RuleSpec,
    param_groups: Sequence[Group],
    state: Mapping[Tensor, Mapping[str, Any]],
    precision: Precision | None,
) -> list[Entry]:
    """Every parameter that has a gradient: the one walk over the optimizer that a step takes."""
    entries, index = [], 0
    for group_index, group in enumerate(param_groups):
        there: dict[str, Group] = {}
        for parameter in group["params"]:
            gradient = parameter.grad
            if gradient is not None:
                device = str(parameter.device)
                if device not in there:
                    there[device] = on_device(group, parameter.device)
                if type(gradient) not in PLAIN_TENSORS:
                    gradient = shards.aligned(gradient, parameter)
                own, gradient = local_view(parameter), local_view(gradient)
                gradient = gradient if gradient.ndim > 0 else gradient.reshape(1)
                # ``get``, because the optimizer's state is a defaultdict: a lookup would leave an entry behind.
                held, dtype = state.get(parameter, {}), torch.promote_types(own.dtype, torch.float32)
                types = None if precision is None else precision.types(spec, parameter)
                entries.append(Entry(index, group_index, there[device], own, gradient, parameter, held, dtype, types))
            index += 1
    return entries


def prepared_gradient(run: Run, entry: Entry, parameter: Tensor) -> Tensor:
    """The gradient as the rule sees it; ``parameter`` is the entry's in the compute type."""
    raw = pipeline.raw_gradient(entry.gradient, entry.group, run.inv_scale)
    dropout, noise = run.modifiers.gradient_dropout, run.modifiers.gradient_noise
    dropped, normal = None, None
    if dropout is not None:
        number, places = run.numbered(entry)
        drawn = run.draws.dropped(entry.parameter, number, GRADIENT_DROPOUT_STREAM, dropout.p, places)
        dropped = drawn.view_as(raw)
    if noise is not None:
        number, places = run.numbered(entry)
        drawn = run.draws.normals(entry.parameter, number, places).to(raw.dtype)
        normal = (noise.sigma(run.number - 1) * drawn).view_as(raw)
    lr_scale = run.lr_scale
    if isinstance(run.modifiers.step_size, PolyakStep) and lr_scale is not None:
        rate = entry.group["lr"]
        lr_scale = run.modifiers.step_size.factor(lr_scale, rate.to(lr_scale) if isinstance(rate, Tensor) else rate)
    return pipeline.prepare(raw, parameter, entry.group, run.clips[entry.index], lr_scale, dropped, normal)


def kept_step(run: Run, entry: Entry, decayed: Tensor, stepped: Tensor) -> Tensor:
    """The parameter after the step, which LRDropout has not let every element take."""
    dropout = run.modifiers.lr_dropout
    assert dropout is not None
    number, places = run.numbered(entry)
    dropped = run.draws.dropped(entry.parameter, number, LR_DROPOUT_STREAM, dropout.p, places)
    return torch.where(dropped.view_as(stepped), decayed, stepped)


def rounding_words(run: Run, entry: Entry) -> Words | None:
    """What a precision policy draws to round one parameter and its state; None where it draws nothing."""
    precision = run.modifiers.precision
    if precision is None or not precision.draws:
        return None
    number, places = run.numbered(entry)
    return lambda stream: run.draws.words(entry.parameter, number, stream, places)


def state_of(run: Run, entry: Entry) -> tuple[State, State, State, bool]:
    """The state of one parameter as its rule takes it, local views of the tensors that the new one is to be written to,
    those tensors that were made here, and whether this is the rule's first step with them.

    The optimizer does not know yet of what was made. The slow weights are among the views, and the rule does not see
    them.
    """
    spec, group, types = run.spec, entry.group, entry.types
    missing = spec.missing_state(entry.held, group)
    made = {name: _created(spec, name, entry) for name in missing} if missing else {}
    is_first = not made.keys() <= BESIDE_RULE
    if types is not None:
        made |= created_beside(spec, types, entry.owner, group, entry.held)
        made |= codes_in_order(types, entry.owner, entry.held)
    kept, stored = {**entry.held, **made}, {}
    # Of the user's own entries none is looked at.
    for slot in spec.slots:
        if slot.name in kept:
            stored[slot.name] = local_view(kept[slot.name])
    for scalar in spec.scalars:
        stored[scalar.name] = local_view(kept[scalar.name])
    for name in () if types is None else (*map(absmax_of, spec.used_slots(group)), REMAINDER, MASTER):
        if name in kept:
            stored[name] = local_view(kept[name])
    old: State = {}
    for name in spec.used_slots(group):
        if types is not None and name not in BESIDE_RULE:
            old[name] = slot_value(name, types, stored, entry.dtype)
        elif name not in BESIDE_RULE:
            old[name] = working(stored[name], entry.dtype)
    for scalar in spec.scalars:  # in float64: 1 - beta2**step has no digits to spare
        number = stored[scalar.name].reshape(())  # one of shape [1] would make float64 of what it meets
        old[scalar.name] = number.to(norm_dtype(number.device), copy=True)
    return old, stored, made, is_first


def _created(spec: RuleSpec, name: str, entry: Entry) -> Tensor:
    """State before the first step; rows of a DTensor lie where the parameter's do."""
    if entry.types is not None and name in entry.types.slots:
        return created_slot(spec, name, entry.types, entry.owner, entry.group, entry.value)
    made: Tensor = shards.laid_out(spec, name, entry.owner, spec.create_state(name, entry.owner, entry.group))
    return made


def on_device(group: Group, device: torch.device) -> Group:
    """The group with hyperparameters that are tensors, of shape [] or [1], made 0-dim and put on ``device``."""
    moved: dict[str, Any] = {}
    for name, value in group.items():
        if isinstance(value, Tensor):
            moved[name] = _number(value, device)
        elif isinstance(value, tuple):  # betas
            moved[name] = tuple(_number(part, device) if isinstance(part, Tensor) else part for part in value)
    return {**group, **moved} if moved else group


def _number(value: Tensor, device: torch.device) -> Tensor:
    return value.reshape(()).to(device, norm_dtype(device))
