"""The plan of a step on Triton's kernels. Nothing here waits for the device, save for a policy that raises.

It has the interface of the compiled plans (``csrc/plan_bindings.cpp``). With the extension the Gatherer that reads the
gradients is the compiled one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from torchclip.norms import NonFinite, Scope
from torchclip.plan import NO_CLIP, NON_FINITE, NONFINITES, SCOPES, STEPPED, UNIT_CLIP, GroupNumbers
from torchclip.rule_spec import RuleSpec
from torchclip.steppable import leading_device
from torchclip.triton_plan import columns
from torchclip.triton_plan.blocks import block_for
from torchclip.triton_plan.gatherer import ADDRESSES, Gatherer
from torchclip.triton_plan.memory import Memory
from torchclip.triton_plan.passes import Inputs, Passes
from torchclip.triton_plan.settings import Settings
from torchclip.triton_plan.tables import Member, Shape, Tables

if TYPE_CHECKING:
    from torchclip import _C

NOT_READY = (
    "this step's state and tables are not on the device yet, and a graph that is being captured cannot make them: take "
    "one step with the same parameters, gradients and settings before the capture"
)


class TritonPlan:
    """As ``CudaPlan``.

    Args:
        spec: the rule.
        scope: over which parameters a rule that clips itself takes its norms.
        gatherer: what re-reads the parameters, of either kind.
    """

    def __init__(self, spec: RuleSpec, scope: Scope, gatherer: Gatherer | _C.Gatherer) -> None:
        self._spec = spec
        self._scope = scope
        self._gatherer = gatherer
        self._settings = Settings({"clip": NO_CLIP})
        self._memory: Memory | None = None
        self._passes: Passes | None = None
        self._kept: list[Memory] = []  # that a CUDA graph still uses
        self._shape: Shape | None = None
        self._rebuild = True
        self._fresh: list[int] = []
        self._reports = False
        self._counted = False
        self._updates = False
        self._parameters: list[Tensor] = []
        self._versions: list[int] = []

    # The interface that the optimizer uses.

    def configure(self, numbers: Mapping[str, float], groups: Sequence[GroupNumbers] = ()) -> None:
        """Takes the modifiers as ``torchclip.plan.configuration`` and ``group_numbers`` give them."""
        self._settings = Settings(numbers, groups)
        self._gatherer.configure(self._settings.looks_ahead, self._settings.clip == UNIT_CLIP, len(groups))
        self._reports = False
        self._rebuild = True

    def refresh(self, param_groups: list[dict[str, Any]], state: dict[Tensor, Any]) -> list[int]:
        """Re-reads everything; returns the positions of parameters that cannot step as they are."""
        self._groups = param_groups
        attention: list[int] = self._gatherer.refresh(param_groups, state)
        if attention and self._capturing():
            raise RuntimeError(NOT_READY)
        return attention

    def mark_fresh(self, positions: list[int]) -> None:
        """The state of these parameters was made for this step."""
        self._fresh = positions

    def unstarted(self) -> list[int]:
        """Positions of parameters with whose state no step has been taken, since the device has skipped all there were.

        Of rules whose first step differs from later ones. Waits for the device.
        """
        memory = self._memory
        if memory is None or not memory.tables.shape.fresh:
            return []
        positions: list[int] = memory.new.nonzero().flatten().tolist()
        return positions

    def step(self, grad_scale: Tensor | None, found_inf: Tensor | None, loss: Tensor | None) -> int:
        """Norm pass and update pass on what the last refresh found."""
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
        finally:
            self._fresh = []

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
        self._memory.begin(self._groups, self._fresh, capturing)
        self._updates = bool(self._memory.tables.members)
        if self._updates:
            if capturing and not self._passes.has_run(inputs):
                raise RuntimeError(NOT_READY)  # a kernel would be compiled
            self._passes.measure_and_update(inputs)
        else:
            self._memory.measure_nothing()
        self._reports = True
        # A step that the device may have skipped has counted nothing.
        may_skip = inputs.found_inf is not None or nonfinite is not NonFinite.PROPAGATE
        self._counted = self._counted or (self._updates and not may_skip)
        if raises and self._refuses_norm(inputs):
            return NON_FINITE
        self._commit()
        return STEPPED

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
        self._memory = Memory(device, self._spec, tables, self._settings, before)
        self._passes = Passes(self._spec, self._settings, self._memory)
        self._shape, self._aligned = shape, aligned
        self._counted = False
        self._rebuild = False
        self._parameters = [parameter for group in self._groups for parameter in group["params"]]
        self._active = [p for p, member in zip(self._parameters, members, strict=True) if member is not None]
        self._versions = [-1 if member is None else 0 for member in members]

    def _commit(self) -> None:
        torch.autograd.graph.increment_version(self._active)
        assert self._shape is not None
        if self._shape.counts_zeros and -1 not in self._versions:
            self._versions = [parameter._version for parameter in self._parameters]


def make_plan(spec: RuleSpec, scope: Scope, device: str, extension: ModuleType | None) -> TritonPlan:
    """The plan of a rule; its Gatherer is the compiled one where there is an extension."""
    slots = [slot.name for slot in spec.slots if slot.name != "slow"]
    scalars = [scalar.name for scalar in spec.scalars]
    gatherer: Gatherer | _C.Gatherer = (Gatherer if extension is None else extension.Gatherer)(
        spec.name, list(spec.hyperparameters), slots, scalars, SCOPES.index(scope), device
    )
    return TritonPlan(spec, scope, gatherer)
