"""The plan of a step on Triton's kernels. Nothing here waits for the device, save for a policy that raises.

It has the interface of the compiled plans (``csrc/plan_bindings.cpp``), and parameters, gradients and state are read by
the extension's Gatherer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import is_
from threading import Lock
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from torchclip.backends import native
from torchclip.backends.codes import NO_CLIP, NON_FINITE, NONFINITES, SCOPES, STEPPED, UNIT_CLIP, UNREADY, GroupNumbers
from torchclip.backends.step_lock import claimed
from torchclip.backends.triton import columns
from torchclip.backends.triton.blocks import block_for
from torchclip.backends.triton.memory import Memory
from torchclip.backends.triton.passes import Inputs, Passes
from torchclip.backends.triton.settings import Settings
from torchclip.backends.triton.tables import Member, Shape, Tables
from torchclip.rules.norms import NonFinite, Scope
from torchclip.rules.rule_spec import RuleSpec
from torchclip.state.group_state import numbers_of
from torchclip.state.group_values import GroupKeys
from torchclip.state.parameter_state import Unstarted
from torchclip.state.reachable import refuse_transform
from torchclip.state.steppable import leading_device

if TYPE_CHECKING:
    from torchclip import _C

ADDRESSES = 10
"""Columns of the table that ``Gatherer.addresses`` writes."""

NOT_READY = (
    "this step's state and tables are not on the device yet, and a graph that is being captured cannot make them: take "
    "one step with the same parameters, gradients and settings before the capture"
)


class TritonPlan:
    """As ``CudaPlan``.

    Args:
        spec: the rule.
        scope: over which parameters a rule that clips itself takes its norms.
        gatherer: what re-reads the parameters.
    """

    def __init__(self, spec: RuleSpec, scope: Scope, gatherer: _C.Gatherer) -> None:
        self._spec = spec
        self._scope = scope
        self._gatherer = gatherer
        self._settings = Settings({"clip": NO_CLIP})
        self._memory: Memory | None = None
        self._passes: Passes | None = None
        self._kept: list[Memory] = []  # that a CUDA graph still uses
        self._shape: Shape | None = None
        self._rebuild = True
        self._lock = Lock()
        self._state: Mapping[Tensor, Mapping[str, Any]] = {}
        self._fresh: list[Tensor] = []  # of which the device has not been told
        self.steps = 0
        self._slots: list[dict[str, Tensor]] = []  # of the parameters, when the tables were made
        self._reports = False
        self._counted = False
        self._updates = False
        self._parameters: list[Tensor] = []
        self._versions: list[int] = []

    # The interface that the optimizer uses.

    def configure(self, numbers: Mapping[str, float], groups: Sequence[GroupNumbers] = ()) -> None:
        """Takes the modifiers as ``torchclip.backends.codes.configuration`` and ``group_numbers`` give them."""
        with self._alone():
            self._settings = Settings(numbers, groups)
            self._gatherer.configure(self._settings.looks_ahead, self._settings.clip == UNIT_CLIP, len(groups))
            self._reports = False
            self._rebuild = True

    def refresh(self, param_groups: list[dict[str, Any]], state: dict[Tensor, Any]) -> list[int]:
        """Re-reads everything; returns the positions of parameters that cannot step as they are."""
        with self._alone():
            attention = self._refresh(param_groups, state)
            self._gatherer.let_go()
            return attention

    def mark_fresh(self, positions: list[int]) -> None:
        """The state of these parameters holds nothing yet; positions are those of the last refresh."""
        with self._alone():
            parameters = [parameter for group in self._groups for parameter in group["params"]]
            self._fresh = [parameters[position] for position in positions]

    def unstarted(self) -> Unstarted:
        """Parameters with whose state no step has been taken, and their slots by name.

        Of rules whose first step differs from later ones; the device may have skipped all steps that there were. Waits
        for the device.
        """
        memory = self._memory
        found: Unstarted = [(parameter, self._slots_of(parameter)) for parameter in self._fresh]
        if memory is None or not memory.tables.shape.fresh:
            return found
        positions: list[int] = memory.new.nonzero().flatten().tolist()
        return found + [(self._parameters[position], self._slots[position]) for position in positions]

    def step(
        self,
        param_groups: list[dict[str, Any]],
        state: dict[Tensor, Any],
        grad_scale: Tensor | None,
        found_inf: Tensor | None,
        loss: Tensor | None,
    ) -> int:
        """Norm pass and update pass; UNREADY, with nothing done, where a parameter cannot step as it is."""
        refuse_transform()
        with self._alone():
            try:
                return UNREADY if self._refresh(param_groups, state) else self._step(grad_scale, found_inf, loss)
            finally:
                self._gatherer.let_go()

    def _alone(self) -> Lock:
        """For a ``with``: no other thread is in the plan meanwhile, and this one is not in it already."""
        return claimed(self._lock)

    def _refresh(self, param_groups: list[dict[str, Any]], state: dict[Tensor, Any]) -> list[int]:
        self._groups, self._state = param_groups, state
        attention: list[int] = self._gatherer.refresh(param_groups, state)
        if attention and self._capturing():
            raise RuntimeError(NOT_READY)
        return attention

    def _step(self, grad_scale: Tensor | None, found_inf: Tensor | None, loss: Tensor | None) -> int:
        if not any(group["params"] for group in self._groups):
            return STEPPED
        device = leading_device(self._groups)
        try:
            if device.type == "cpu":
                return self._try_step(device, Inputs.on(device, grad_scale, found_inf, loss))
            with torch.cuda.device(device):
                return self._try_step(device, Inputs.on(device, grad_scale, found_inf, loss))
        except BaseException:
            self._rebuild = True  # what the device holds of the tables is not known
            self._reports = False
            raise

    def report(self) -> dict[str, Tensor]:
        """What the last step measured, on the device."""
        if not self._reports or self._memory is None or self._shape is None:
            return {}
        measured = self._memory.measured
        result = {}
        measures = self._settings.measures
        if measures:
            single = self._shape.clips_rows or self._shape.clip_scope is Scope.OPTIMIZER
            for name in ("grad_norm", "clip_factor"):
                result[name] = measured[name][0] if single else measured[name]
        if self._spec.clips_itself:
            single = self._scope in (Scope.OPTIMIZER, Scope.ROW)
            names = {"direction_norm": "direction_norm"}
            if not measures:
                names = {"grad_norm": "rule_grad_norm", "clip_factor": "rule_clip_factor", **names}
            for name, source in names.items():
                result[name] = measured[source][0] if single else measured[source]
        if measures or self._spec.clips_itself:
            counters = self._memory.counters
            result["clipped_fraction"] = counters[1] / counters[0].clamp(min=1)
        if self._updates and self._settings.step_size:
            result["lr_scale"] = measured["lr_scale"][0]
        return result

    @property
    def zeros(self) -> Tensor | None:
        """The exact zeros that the last step left in all parameters together; None where some were not counted."""
        if not (self._reports and self._counted and self._memory is not None and self._shape is not None):
            return None
        if not self._shape.counts_zeros or any(version < 0 for version in self._versions):
            return None
        if [parameter._version for parameter in self._parameters] != self._versions:
            return None
        return self._memory.zeros.sum()

    # One step.

    def _capturing(self) -> bool:
        return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()

    def _try_step(self, device: torch.device, inputs: Inputs) -> int:
        nonfinite = self._settings.nonfinite
        raises = self._settings.measures and nonfinite is NonFinite.ERROR
        capturing = self._capturing()
        if raises and capturing:
            raise RuntimeError(
                'nonfinite="error" waits for the device, and a graph that is being captured cannot: choose '
                'nonfinite="skip" or "propagate"'
            )
        self._read(device, capturing)
        assert self._memory is not None and self._passes is not None
        self._memory.begin(self._groups, self._fresh_positions(), capturing)
        self._fresh = []
        self._updates = bool(self._memory.tables.members)
        if self._updates:
            if capturing and not self._passes.has_run(inputs):
                raise RuntimeError(NOT_READY)  # a kernel would be compiled
            # Before, since an exception leaves open how far they have come. Where they have not begun, the state that
            # was made for them is as good as none.
            self.steps += 1
            self._measure_and_update(self._passes, inputs)
        else:
            self._memory.measure_nothing()
        self._reports = True
        # A step that the device may have skipped has counted nothing.
        may_skip = inputs.found_inf is not None or nonfinite is not NonFinite.PROPAGATE
        self._counted = self._counted or (self._updates and not may_skip)
        if raises and self._refuses_norm(inputs):
            self.steps -= 1
            return NON_FINITE
        self._commit()
        return STEPPED

    def _measure_and_update(self, passes: Passes, inputs: Inputs) -> None:
        """Where kernels run for the first time, one of which may be refused: what the first have counted is undone
        then, unless a parameter has been written."""
        numbers = [] if passes.has_run(inputs) else [(number, number.clone()) for number in self._counted_numbers()]
        try:
            passes.measure_and_update(inputs)
        except BaseException:
            if numbers and not passes.has_updated:
                for number, before in numbers:
                    number.copy_(before)
            raise

    def _counted_numbers(self) -> list[Tensor]:
        """What the end of a norm pass writes: numbers of state, and the flags and counters of the plan."""
        assert self._memory is not None
        names = [*(scalar.name for scalar in self._spec.scalars), *(["sum"] if self._spec.by_scope is not None else [])]
        of_parameters = [self._state.get(parameter, {}).get(name) for parameter in self._active for name in names]
        shared = [number for group in self._groups for number in numbers_of(group).values()]
        found = (*of_parameters, *shared, self._memory.counters, self._memory.new)
        return [number for number in found if isinstance(number, Tensor)]

    def _slots_of(self, parameter: Tensor) -> dict[str, Tensor]:
        """Its state tensors by name."""
        held = self._state.get(parameter, {})
        return {slot.name: held[slot.name] for slot in self._spec.slots if isinstance(held.get(slot.name), Tensor)}

    def _fresh_positions(self) -> list[int]:
        if not self._fresh:
            return []
        fresh = set(map(id, self._fresh))
        return [position for position, parameter in enumerate(self._parameters) if id(parameter) in fresh]

    def _refuses_norm(self, inputs: Inputs) -> bool:
        """Waits for the device. When the loss scale has overflowed, norms that are not finite are expected: the scaler
        handles them."""
        assert self._memory is not None
        nonfinite = ~self._memory.measured["grad_norm"].isfinite()
        if self._settings.groups:
            raises = [NONFINITES[each[-1]] is NonFinite.ERROR for each in self._settings.groups]
            nonfinite &= torch.tensor(raises, device=nonfinite.device)
        refused = nonfinite.any()
        if inputs.found_inf is not None:
            refused &= (inputs.found_inf == 0).all()
        return bool(refused)

    def _read(self, device: torch.device, capturing: bool) -> None:
        """Addresses and numbers of this step; tables made anew where they are no longer right."""
        changed = self._gatherer.take_changed() or self._rebuild
        if changed:
            count = sum(len(group["params"]) for group in self._groups)
            self._addresses = torch.zeros(count, ADDRESSES, dtype=torch.int64, device="cpu")
            self._group_numbers = torch.zeros(
                len(self._groups), columns.GROUP_COLUMNS, dtype=torch.float64, device="cpu"
            )
            self._seen = (torch.empty(0, device="cpu"), torch.empty(0, device="cpu"))
        self._gatherer.addresses(self._addresses)
        self._gatherer.numbers(self._group_numbers)
        numbers = (self._addresses, self._group_numbers)
        moved, written = (not torch.equal(now, before) for now, before in zip(numbers, self._seen, strict=True))
        if moved or written:
            shape = self._shape_of() if written or self._shape is None else self._shape
            aligned = (self._addresses[:, : columns.OPERANDS] & 15 == 0).all(1) if moved else self._aligned
            if changed or shape != self._shape or not torch.equal(aligned, self._aligned):
                self._rebuild = True
                if capturing:
                    raise RuntimeError(NOT_READY)
                self._build(device, shape, aligned)
            self._seen = (self._addresses.clone(), self._group_numbers.clone())
        assert self._memory is not None
        if moved or written or self._memory.image.is_in_graph:
            self._memory.read(*numbers)
        self._memory.set_lrs(self._gatherer.lrs())

    def _shape_of(self) -> Shape:
        settings, spec = self._settings, self._spec
        clips_rows = settings.clip == UNIT_CLIP
        clips_norms = settings.measures and not clips_rows
        clip_scope = SCOPES[int(settings.numbers["clip_scope"])] if clips_norms else Scope.OPTIMIZER
        fresh = any(spec.first_differs(group) for group in self._groups)
        scopes = (clip_scope, self._scope if spec.clips_itself else None)
        return Shape(
            clips_rows=clips_rows,
            clips_norms=clips_norms,
            rule_rows=spec.by_scope is not None and self._scope is Scope.ROW,
            clip_scope=clip_scope,
            measured_groups=tuple(unit >= 0 for unit, *_ in settings.groups) or (True,) * len(self._groups),
            rule_scope=self._scope,
            stages=self._stages(),
            fresh=fresh,
            row_per_tensor=bool(spec.scalars) or fresh or Scope.TENSOR in scopes,
            scalars=len(spec.scalars),
            counts_zeros=spec.family == "soft_threshold",
            lookahead=settings.looks_ahead,
            family=spec.family,
        )

    def _stages(self) -> tuple[int, ...]:
        """The stages of each param group, as bits."""
        decay = self._group_numbers[:, columns.GROUP_WEIGHT_DECAY]
        decoupled = self._group_numbers[:, columns.GROUP_DECOUPLED]
        couples = ((decay != 0) & (decoupled == 0)).tolist()
        return tuple(self._settings.stages | (columns.COUPLED_DECAY if couple else 0) for couple in couples)

    def _build(self, device: torch.device, shape: Shape, aligned: Tensor) -> None:
        members = [None if found is None else Member(*found) for found in self._gatherer.describe()]
        before = self._memory
        if before is not None and before.image.is_in_graph:
            self._kept.append(before)
        tables = Tables(members, aligned.tolist(), len(self._groups), shape, block_for(device))
        parameters = [parameter for group in self._groups for parameter in group["params"]]
        slots = [self._slots_of(parameter) for parameter in parameters] if self._needs_flags(shape) else []
        self._memory = Memory(device, self._spec, tables, self._settings, before, self._flags_from(parameters, slots))
        self._passes = Passes(self._spec, self._settings, self._memory)
        self._shape, self._aligned = shape, aligned
        self._counted = False
        self._rebuild = False
        self._parameters, self._slots = parameters, slots
        self._active = [p for p, member in zip(self._parameters, members, strict=True) if member is not None]
        self._versions = [-1 if member is None else 0 for member in members]

    def _needs_flags(self, shape: Shape) -> bool:
        """Whether a first step differs from others, or did."""
        return shape.fresh or bool(self._slots)

    def _flags_from(self, parameters: Sequence[Tensor], slots: Sequence[dict[str, Tensor]]) -> list[int]:
        """For each parameter where the device's flag of it lies so far; -1 where none holds for the state it has."""
        before = {id(parameter): position for position, parameter in enumerate(self._parameters) if self._slots}
        places = [before.get(id(parameter), -1) for parameter in parameters]
        return [
            place if place >= 0 and same_objects(list(now.values()), list(self._slots[place].values())) else -1
            for place, now in zip(places, slots or [{}] * len(places), strict=True)
        ]

    def _commit(self) -> None:
        torch.autograd.graph.increment_version(self._active)
        assert self._shape is not None
        if self._shape.counts_zeros and -1 not in self._versions:
            self._versions = [parameter._version for parameter in self._parameters]


def same_objects(some: Sequence[Any], others: Sequence[Any]) -> bool:
    """Whether they hold the same objects: equality of tensors would compare their elements."""
    return len(some) == len(others) and all(map(is_, some, others))


def make_plan(spec: RuleSpec, scope: Scope, keys: GroupKeys, device: str) -> TritonPlan:
    """The plan of a rule for parameters on that type of device."""
    assert native.NATIVE is not None, "the triton backend is chosen only where the extension is"
    slots = [slot.name for slot in spec.slots if slot.name != "slow"]
    scalars = [scalar.name for scalar in spec.scalars]
    gatherer = native.NATIVE.Gatherer(spec.name, keys.described, slots, scalars, SCOPES.index(scope), device)
    return TritonPlan(spec, scope, gatherer)
