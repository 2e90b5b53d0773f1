"""The plan of a fused backend where other processes have parts of parameters, or parameters of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from torch import Tensor

from torchclip.backends.codes import SCOPES, STEPPED, UNIT_CLIP, UNREADY, GroupNumbers
from torchclip.backends.held import blocks_of
from torchclip.backends.native import PART_LOOPS
from torchclip.distributed.cells import NO_ZEROS, cells_of, common_of, zero_cells_of
from torchclip.distributed.exchange import Over, processes_in
from torchclip.distributed.layout import Layout
from torchclip.distributed.local_view import LocalView
from torchclip.distributed.places import WHOLE, place_of
from torchclip.distributed.processes import is_running
from torchclip.policies.precision import MasterWeights, Precision
from torchclip.rules.norms import Scope
from torchclip.rules.rule_spec import Extent, RuleSpec

if TYPE_CHECKING:
    from torchclip import _C


class Sharing(NamedTuple):
    """What a plan asks of other processes.

    Args:
        layout: which processes hold what; None where this one holds everything, in DTensors of its own.
        loss_over: over which processes the loss is averaged.
    """

    layout: Layout | None
    loss_over: Over


class ShardedPlan:
    """A plan that reads this process's parts, and asks the other processes for theirs of every sum.

    Args:
        plan: what takes the steps.
        spec: the rule, whose thresholds may go by zeros.
        scope: that of a rule that clips itself.
        sharing: what it asks.
        precision: the precision policy.
    """

    def __init__(
        self,
        plan: _C.Plan | _C.CudaPlan | _C.TritonPlan,
        spec: RuleSpec,
        scope: Scope,
        sharing: Sharing,
        precision: Precision | None = None,
    ) -> None:
        self._plan = cast("_C.Plan", plan)  # of whose methods the others' are, but for the types of numbers
        self._scope, self._sharing, self._counts_zeros = scope, sharing, spec.family == "soft_threshold"
        self._rounds = precision is not None and precision.draws
        self._blocks = None if precision is None else blocks_of(precision)
        self._of: Any = None  # of which groups the plan was told what stays wide
        self._view = LocalView(
            [slot.name for slot in spec.slots if slot.extent is Extent.ELEMENT and not slot.optional],
            looks_at_writes=self._counts_zeros or isinstance(precision, MasterWeights),
            loops=PART_LOOPS,
        )
        self._layout: Layout | None = None  # that of what the view was last read of
        self._numbers: Mapping[str, float] = {}
        self._sizes: list[int] | None = None  # of the groups that the plan was told of

    def use(self, sharing: Sharing) -> None:
        """Asks something else from the next step on."""
        if sharing.layout is not self._sharing.layout or sharing.loss_over != self._sharing.loss_over:
            self._sharing, self._sizes = sharing, None

    def configure(self, numbers: Mapping[str, float], groups: Sequence[GroupNumbers] = ()) -> None:
        """As the plan's."""
        self._numbers, self._sizes = numbers, None
        self._plan.configure(numbers, groups)

    def refresh(self, param_groups: Sequence[dict[str, Any]], state: dict[Tensor, Any]) -> list[int]:
        """As the plan's."""
        self._layout = None
        try:
            self._read(param_groups, state)
            return self._plan.refresh(self._view.groups, self._view.state) or self._view.astray
        finally:
            self._view.take_gradients_back()

    def step(
        self,
        param_groups: Sequence[dict[str, Any]],
        state: dict[Tensor, Any],
        grad_scale: Tensor | float | None,
        found_inf: Tensor | float | None,
        loss: Tensor | float | None,
    ) -> int:
        """As the plan's."""
        layout = self._sharing.layout
        if layout is not None and not (is_running() and self._is_of(layout, param_groups)):
            return UNREADY  # to whoever says what is wrong
        try:
            self._read(param_groups, state)
            self._layout = layout
            if self._view.astray:
                return UNREADY
            outcome = self._plan.step(self._view.groups, self._view.state, grad_scale, found_inf, loss)
        finally:
            self._view.take_gradients_back()
        if outcome == STEPPED:
            self._view.count_versions()
        return outcome

    def mark_fresh(self, positions: Sequence[int]) -> None:
        """As the plan's."""
        self._plan.mark_fresh(positions)

    def set_norm(self, norm: Tensor | None) -> None:
        """As the CPU's."""
        self._plan.set_norm(norm)

    def unstarted(self) -> list[tuple[Tensor, dict[str, Any]]]:
        """As the plan's, of the parameters themselves."""
        return [self._view.original(part, tensors) for part, tensors in self._plan.unstarted()]

    def report(self) -> dict[str, Any]:
        """As the plan's."""
        return self._plan.report()

    @property
    def steps(self) -> int:
        """As the plan's."""
        return self._plan.steps

    @property
    def skipped(self) -> Tensor | None:
        """As the plan's."""
        return self._plan.skipped

    @property
    def zeros(self) -> list[int]:
        """None: what is written to a DTensor counts no version of its parts, so that nothing tells of it."""
        return []

    def _is_of(self, layout: Layout, param_groups: Sequence[dict[str, Any]]) -> bool:
        """Whether a layout is that of the param groups: looked up anew only for what is not as in the last step."""
        if self._layout is layout and self._view.is_of(param_groups):
            return True
        self._layout = None
        return layout.is_of(param_groups)

    def _read(self, param_groups: Sequence[dict[str, Any]], state: dict[Tensor, Any]) -> None:
        self._view.refresh(param_groups, state)
        if self._blocks is not None and self._of is not self._view.groups:
            everyone = (parameter for group in param_groups for parameter in group["params"])
            self._plan.keep_wide([self._blocks.stays_wide(parameter) for parameter in everyone])
            self._of = self._view.groups
        sizes = [len(group["params"]) for group in param_groups]
        if sizes != self._sizes:
            self._share(sizes)
            self._sizes = sizes

    def _share(self, sizes: Sequence[int]) -> None:
        """Tells the plan what it asks of other processes, and where its elements are in whole tensors."""
        layout, over = self._sharing
        if layout is None:
            return
        draws = any(self._numbers.get(name) for name in ("gradient_noise", "gradient_dropout", "lr_dropout"))
        is_placed = draws or self._rounds
        parts = [place_of(parameter) or WHOLE for parameter in layout.parameters] if is_placed else []
        places = [(layout.number(index), *part) for index, part in enumerate(parts)]
        by_units = self._numbers.get("clip") == UNIT_CLIP
        of_policy = Scope.ROW if by_units else SCOPES[int(self._numbers.get("clip_scope", 0))]
        zeros = zero_cells_of(layout, sizes) if self._counts_zeros else NO_ZEROS
        policy = cells_of(layout, of_policy, sizes, over, zeros)
        rule = cells_of(layout, self._scope, sizes, over, zeros, least_dimensions=2)
        share = 1 / processes_in(over) if over else 0.0
        common = common_of(layout, over, zeros) if layout.sums else None
        self._plan.share(common, policy, rule, share, places, zeros[:3])
