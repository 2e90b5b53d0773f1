"""What holds for every parameter of one step, and the tensors that a rule is given of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchclip.backends.reference import pipeline
from torchclip.backends.reference.draws import Draws
from torchclip.backends.reference.rule import Group, State
from torchclip.backends.reference.rules import RULES
from torchclip.policies.clip import ClipByValue, Scope
from torchclip.policies.extensions import GRADIENT_DROPOUT_STREAM, LR_DROPOUT_STREAM
from torchclip.policies.modifiers import SLOW, Modifiers
from torchclip.rules.norms import norm_dtype
from torchclip.rules.rule_spec import RuleSpec
from torchclip.state.group_state import counted, numbers_of
from torchclip.state.real_view import real_view
from torchclip.state.sharded import is_wrapper

Writes = list[tuple[Tensor, Tensor]]
"""Tensors to be written when the step is taken, and their new values."""


Flag = bool | Tensor
"""Yes or no; a 0-dim boolean tensor in a compiled graph, which is to serve for both."""


@dataclass(frozen=True)
class Entry:
    """A parameter with a gradient.

    Args:
        index: counts through all groups, parameters without gradient included.
        group: its param group.
        parameter: the real view of a complex one, as everything that is computed here.
        gradient: likewise.
        owner: the parameter as the optimizer has it, whose state is found by it.
    """

    index: int
    group: Group
    parameter: Tensor
    gradient: Tensor
    owner: Tensor


@dataclass(frozen=True)
class Run:
    """One step.

    Args:
        spec: the rule, with a slot for the slow weights under Lookahead.
        param_groups: the optimizer's.
        state: the optimizer's.
        modifiers: clip policy, step size and extensions.
        scope: over which elements a rule that clips itself takes its norms.
        inv_scale: 0-dim; what undoes the scale of a GradScaler, or None.
        clips: for each parameter what clips its raw gradient; filled in once that is measured.
        lr_scale: 0-dim, the step size's factor; None without one.
    """

    spec: RuleSpec
    param_groups: Sequence[Group]
    state: Mapping[Tensor, Mapping[str, Any]]
    modifiers: Modifiers
    scope: Scope
    inv_scale: Tensor | None
    clips: Sequence[Tensor | ClipByValue | None] = ()
    lr_scale: Tensor | None = None

    @property
    def group_sizes(self) -> list[int]:
        """The number of parameters in each group."""
        return [len(group["params"]) for group in self.param_groups]

    @property
    def shared(self) -> Mapping[str, Tensor]:
        """The numbers of state that belong to no single parameter, but for the sums of a group."""
        return numbers_of(self.param_groups[0]) if self.param_groups else {}

    @property
    def number(self) -> int | Tensor:
        """That of the step being taken: 1, 2, … The host holds it, so nothing is waited for.

        A tensor in a compiled graph, which is to serve for every step.
        """
        return (self.shared["step"] if torch.compiler.is_compiling() else counted(self.shared, "step")) + 1

    @property
    def draws(self) -> Draws:
        """The random draws of this step."""
        seed = self.shared["seed"]
        return Draws(seed if torch.compiler.is_compiling() else int(seed), self.number)

    def entries(self) -> Iterator[Entry]:
        """Every parameter that has a gradient."""
        index = 0
        for group in self.param_groups:
            for parameter in group["params"]:
                gradient = parameter.grad
                if gradient is not None:
                    there = on_device(group, parameter.device)
                    yield Entry(index, there, real_view(parameter), real_view(gradient), parameter)
                index += 1


def raw_gradient(run: Run, entry: Entry) -> Tensor:
    """The gradient as a clip policy measures it."""
    inv_scale = None if run.inv_scale is None else run.inv_scale.to(entry.gradient.device)
    return pipeline.raw_gradient(torch.atleast_1d(entry.gradient), entry.group, inv_scale)


def prepared_gradient(run: Run, entry: Entry) -> Tensor:
    """The gradient as the rule sees it."""
    raw = raw_gradient(run, entry)
    dropout, noise = run.modifiers.gradient_dropout, run.modifiers.gradient_noise
    dropped, normal = None, None
    if dropout is not None:
        drawn = run.draws.dropped(entry.parameter, entry.index, GRADIENT_DROPOUT_STREAM, dropout.p)
        dropped = drawn.view_as(raw)
    if noise is not None:
        drawn = run.draws.normals(entry.parameter, entry.index).to(raw.dtype)
        normal = (noise.sigma(run.number - 1) * drawn).view_as(raw)
    alterations = pipeline.Alterations(run.clips[entry.index], run.lr_scale, dropped, normal)
    return pipeline.prepare(raw, working_parameter(entry), entry.group, alterations)


def kept_step(run: Run, entry: Entry, decayed: Tensor, stepped: Tensor) -> Tensor:
    """The parameter after the step, which LRDropout has not let every element take."""
    dropout = run.modifiers.lr_dropout
    if dropout is None:
        return stepped
    dropped = run.draws.dropped(entry.parameter, entry.index, LR_DROPOUT_STREAM, dropout.p)
    return torch.where(dropped.view_as(stepped), decayed, stepped)


def chosen(flag: Flag, value: Tensor, otherwise: Tensor) -> Tensor:
    """``value`` where the flag is set, else ``otherwise``."""
    if isinstance(flag, Tensor):
        return torch.where(flag.to(value.device), value, otherwise)
    return value if flag else otherwise


def write(target: Tensor, value: Tensor, taken: Flag) -> None:
    """Writes what a step has made, of as many elements as ``target``, where it is taken.

    Not as 0-dim tensors: torch's compiler drops what a graph writes to one of its float64 arguments on the CPU.
    """
    target, value = torch.atleast_1d(target), torch.atleast_1d(value)
    target.copy_(chosen(taken, value.view_as(target), target))


def write_together(writes: Writes, taken: Flag) -> None:
    """The same for several tensors, in one operation where nothing is compiled or recorded; DTensor has none such."""
    wrapped = any(is_wrapper(target) for target, _ in writes)
    if torch.compiler.is_compiling() or torch.is_grad_enabled() or wrapped:
        for target, value in writes:
            write(target, value, taken)
        return
    targets = [target.view(1) if target.ndim == 0 else target for target, _ in writes]
    values = [
        chosen(taken, value.reshape(target.shape), target) for target, (_, value) in zip(targets, writes, strict=True)
    ]
    torch._foreach_copy_(targets, values)


def working_parameter(entry: Entry) -> Tensor:
    """The parameter as the rules take it."""
    return working(entry.parameter, pipeline.compute_dtype(entry.parameter))


def working(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """``tensor`` as the rules take it, in their type and with at least one dimension.

    A 0-dim one would be promoted by the float64 scalars that it meets, and be computed differently from the rest. Under
    autograd it is always a copy, since the graph keeps it and the original is written.
    """
    taken: Tensor = torch.atleast_1d(tensor.to(dtype, copy=torch.is_grad_enabled()))
    return taken


def accumulated(run: Run, entry: Entry, gradient: Tensor) -> tuple[State, State]:
    """The new state of one parameter, unrounded, and the tensors that it is to be written to.

    Those are the tensors of ``state``, and new ones, which ``state`` does not know yet, for what is missing there: of a
    complex parameter, complex ones. The slow weights are among the tensors, and the rule does not see them.
    """
    spec, group, parameter = run.spec, entry.group, entry.owner
    # ``get``, because the optimizer's state is a defaultdict: a lookup would leave an entry behind.
    held = run.state.get(parameter, {})
    missing = spec.missing_state(held, group)
    scalars = [scalar.name for scalar in spec.scalars]
    names = (*spec.used_slots(group), *scalars)
    stored = {name: spec.create_state(name, parameter, group) if name in missing else held[name] for name in names}
    dtype = pipeline.compute_dtype(entry.parameter)
    # The numbers of the state are computed in float64: 1 - beta2**step has no digits to spare.
    old = {
        name: tensor.to(norm_dtype(tensor.device), copy=True) if name in scalars else working(real_view(tensor), dtype)
        for name, tensor in stored.items()
        if name != SLOW.name
    }
    first = any(name in old for name in missing)
    return RULES[spec.name].accumulate(gradient, old, group, first), stored


def on_device(group: Group, device: torch.device) -> Group:
    """The group with hyperparameters that are tensors, of shape [] or [1], made 0-dim and put on ``device``."""
    return {name: _number(value, device) for name, value in group.items()}


def _number(value: Any, device: torch.device) -> Any:
    if isinstance(value, tuple):  # betas
        return tuple(_number(part, device) for part in value)
    if isinstance(value, Tensor):
        return value.reshape(()).to(device, norm_dtype(device))
    return value
