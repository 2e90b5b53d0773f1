"""The processes that take the steps of an optimizer together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor

from torchclip.backends.sharded_plan import Sharing
from torchclip.distributed.agreement import Paths, agree, agreed_on, conflict, one_seed, shared_lines
from torchclip.distributed.checks import check_distributed, compiled_reason
from torchclip.distributed.exchange import Exchange, Over, processes_in, takes_sums
from torchclip.distributed.layout import KEY, Layout, layout_of
from torchclip.distributed.processes import GroupOrMesh, Processes, is_running, of, outside_graphs
from torchclip.distributed.zero import reason_without_group, take_arguments_out, zero_that_asks
from torchclip.policies.group_clip import clips_of
from torchclip.policies.modifiers import Modifiers
from torchclip.policies.precision import SplitMaster
from torchclip.state.group_state import numbers_of
from torchclip.state.sharded import is_sharded
from torchclip.state.steppable import can_step

if TYPE_CHECKING:
    from torchclip.step.measured_optimizer import MeasuredOptimizer

_GONE = (
    "the processes over which this optimizer takes a norm, or a share of zeros, are gone: torch.distributed is not "
    "initialised any more. Take the last step before destroy_process_group(), or make model and optimizer anew after "
    "init_process_group()"
)


@outside_graphs
def _refuse_graph(reason: str) -> NoReturn:
    """Raises RuntimeError, outside of the graph: what is raised within one makes torch take the step without it."""
    raise RuntimeError(f"{reason}: leave optimizer.step() out of torch.compile")


class ManyProcesses:
    """What an optimizer knows of other processes.

    Attributes:
        known: who holds what, since a step first asked; None before that.
        before_load: the numbers of state that were there before others were loaded, of which the others are not told
            yet; None where there are none.
        has_told: whether the others know that this process asks them anew at its next step.
        follows: whether this process takes the reference path's steps because another one does.
        made_by_zero: whether ZeroRedundancyOptimizer has made the optimizer.

    Args:
        norm_group: the argument of its constructor: over which processes its parameters are distinct.
        loss_group: over which processes the loss of a step is averaged.

    Raises:
        TypeError, ValueError, RuntimeError: for what is no group, or no group of this process.
    """

    has_told: bool = False
    follows: bool = False
    made_by_zero: bool = False

    def __init__(self, norm_group: GroupOrMesh | None, loss_group: GroupOrMesh | None) -> None:
        self.norm_group: Processes | None = None if norm_group is None else of(norm_group, "norm_group")
        self.loss_group: Processes | None = None if loss_group is None else of(loss_group, "loss_group")
        self.known: Layout | None = None
        self.before_load: list[tuple[str, str]] | None = None

    def params(self, params: Any, defaults: Mapping[str, Any]) -> Any:
        """The constructor's ``params``, without what ZeroRedundancyOptimizer has put into them beside hyperparameters,
        which are those of ``defaults``."""
        zero = zero_that_asks()
        if zero is None:
            return params
        self.made_by_zero = True
        return take_arguments_out(zero, params, defaults)

    def check(self, optimizer: MeasuredOptimizer, modifiers: Any = None) -> None:
        """Raises ValueError for what would be measured or drawn wrongly; ``modifiers`` are to be the optimizer's."""
        policies = optimizer._modifiers if modifiers is None else modifiers
        if self.made_by_zero and self.norm_group is None:
            has_sums = takes_sums(optimizer.spec, optimizer.param_groups, measures=policies.measures)
            reason = reason_without_group(has_sums)
            if reason is not None:
                raise ValueError(reason)
        check_distributed(optimizer.param_groups, policies, optimizer.spec, optimizer.clips_by, self.norm_group)

    def compiled_reason(self, optimizer: MeasuredOptimizer, backend: str) -> str | None:
        """Why a compiled backend does not take the optimizer's step; None where it may."""
        groups = optimizer.param_groups
        if not is_running() and not self.has_shards(groups):
            return None
        rule = (optimizer._modifiers, optimizer.spec, optimizer.clips_by)
        reason = compiled_reason(backend, groups, *rule, self.norm_group)
        if reason is None and self.follows:
            return "the reference path takes the steps of other processes, and no plan adds up its sums"
        return reason

    def sharing(self, optimizer: MeasuredOptimizer) -> Sharing | None:
        """What the plan of a fused step is told of other processes; None where that of a single one takes it."""
        layout = self.layout(optimizer)
        if (layout is None or not layout.sums) and not self.has_shards(optimizer.param_groups):
            return None
        return Sharing(layout, () if layout is None else self.loss_over(layout, optimizer._modifiers))

    def loss_over(self, layout: Layout, modifiers: Modifiers) -> Over:
        """Over which processes the loss is averaged."""
        if not modifiers.averages_loss:
            return ()
        if self.loss_group is not None:
            return (self.loss_group,) if len(self.loss_group) > 1 else ()
        return layout.everyone

    def layout(self, optimizer: MeasuredOptimizer) -> Layout | None:
        """Who holds what in the step that begins; None where nothing is asked of other processes.

        The first time, and where parameters were replaced since, it is made anew: parameters are checked, and all
        processes find out whether they agree.

        Raises:
            RuntimeError: in every process, where they do not; in a compiled graph, and where autograd goes through the
                step, where something is asked of other processes.
        """
        groups, modifiers = optimizer.param_groups, optimizer._modifiers
        if not is_running() and (self.known is None or not self.known.sums):
            return None
        has_sums = takes_sums(optimizer.spec, groups, measures=modifiers.measures)
        if not is_running():
            if has_sums:
                raise RuntimeError(_GONE)
            return None
        asks = modifiers.draws or modifiers.takes_loss
        if torch.compiler.is_compiling():
            if asks or (has_sums and self.has_parts(groups)):
                _refuse_graph("a step that other processes take part in cannot be compiled")
            return None
        layout = self.known
        if layout is None or self.has_told or not layout.is_of(groups) or self._tells_of_load(layout):
            layout = self._new_layout(optimizer)
        self.before_load = None
        if not asks and not layout.sums:
            return None
        differentiable = any(group.get("differentiable", False) for group in groups)
        if differentiable and layout.sums and not (asks or has_sums):
            return None
        if differentiable and layout.sums:
            raise RuntimeError(
                "differentiable=True goes through the step of one process, and these parameters are those of several: "
                "leave it out"
            )
        return layout

    def _tells_of_load(self, layout: Layout) -> bool:
        """Not where steps send nothing: one that has loaded by itself would wait for the others."""
        return self.before_load is not None and layout.agreed is not None and layout.agreed.has_sent

    @contextmanager
    def loading(self, optimizer: MeasuredOptimizer) -> Iterator[None]:
        """While the optimizer loads a state dict: whether the others are to hear of it."""
        if self.known is None or self.known.agreed is None:
            yield
            return
        apart = bool(self.known.apart)
        before = shared_lines(optimizer.param_groups, apart=apart) if self.before_load is None else self.before_load
        yield
        self.before_load = None if shared_lines(optimizer.param_groups, apart=apart) == before else before

    def parts(self, optimizer: MeasuredOptimizer) -> Layout | None:
        """Who holds what; None where this process holds everything."""
        if not is_running():
            return None
        known, groups = self.known, optimizer.param_groups
        layout = known if known is not None and known.is_of(groups) else layout_of(groups, self.norm_group)
        return layout if layout.sums else None

    def has_parts(self, groups: Sequence[Mapping[str, Any]]) -> bool:
        """Whether this process holds a part of the parameters alone."""
        declared = self.norm_group is not None or any(group.get(KEY) is not None for group in groups)
        return declared or self.has_shards(groups)

    def has_shards(self, groups: Sequence[Mapping[str, Any]]) -> bool:
        """Whether a parameter that can step is a DTensor."""
        return any(is_sharded(one) and can_step(one) for group in groups for one in group["params"])

    def look(self, optimizer: MeasuredOptimizer) -> None:
        """At the beginning of a step: raises in every process, where one has changed what they agreed on."""
        agreed = None if self.known is None else self.known.agreed
        if agreed is None:
            return
        clip, groups = optimizer._modifiers.clip, optimizer.param_groups
        if agreed.is_open and clips_of(groups, clip) != optimizer._modifiers.group_clips:
            optimizer._set_clips(clip)  # a plan sees what is put back only once it is asked for a step
        agreed.look(optimizer._modifiers, groups, optimizer._backend == "reference")

    def check_compiled(self, optimizer: MeasuredOptimizer) -> None:
        """Raises RuntimeError where a compiled graph would take the bits of DTensors for those of other numbers."""
        precision = optimizer._modifiers.precision
        if precision is None:
            return
        if precision.draws or precision.has_blocks or isinstance(precision, SplitMaster):
            _refuse_graph(
                f"precision={precision!r} works on bits, and torch.compile has no such operators for DTensors"
            )

    def _new_layout(self, optimizer: MeasuredOptimizer) -> Layout:
        groups, modifiers, before = optimizer.param_groups, optimizer._modifiers, self.known
        self.check(optimizer)
        knows = True  # the others that this process is about to ask them
        if before is not None and before.agreed is not None and not self.has_told:
            said = "loaded another state" if before.is_of(groups) else "other parameters than before"
            knows = self.has_told = before.agreed.replaced(modifiers, groups, said)
        layout = layout_of(groups, self.norm_group)
        rule = (optimizer.spec, optimizer.clips_by, modifiers, groups)
        # Where this one takes no sums, too: it has to learn of the others' before they wait for its own.
        asks = knows or takes_sums(optimizer.spec, groups, measures=modifiers.measures)
        together, paths = agree(layout, *rule, self._path(optimizer)) if asks else (False, Paths(0))
        if paths.are_unlike and paths & Paths.DEMANDED:
            raise conflict(layout, optimizer.backend)
        self.follows |= paths.are_unlike
        by_reference = self.follows or optimizer.backend == "reference"
        layout = replace(layout, agreed=agreed_on(layout, together, *rule, by_reference=by_reference))
        if modifiers.draws:
            one_seed(numbers_of(groups[0]) if groups else {}, layout.everyone)
            layout = layout.numbered()
        self.known, self.has_told = layout, False
        return layout

    def _path(self, optimizer: MeasuredOptimizer) -> Paths:
        """What takes the steps of this process; nothing where they send nothing, and others need not know it."""
        groups, modifiers = optimizer.param_groups, optimizer._modifiers
        if not (takes_sums(optimizer.spec, groups, measures=modifiers.measures) or modifiers.averages_loss):
            return Paths(0)
        if optimizer.backend == "reference":
            return Paths.REFERENCE
        return Paths.COMPILED | (Paths.DEMANDED if optimizer._demands_compiled else Paths(0))

    def mean_loss(self, optimizer: MeasuredOptimizer, loss: Tensor) -> Tensor:
        """The loss of the whole batch, for a backend whose step adds up nothing itself; else this process's."""
        layout = self.layout(optimizer)
        if layout is not None and layout.sums and optimizer.backend != "reference":
            return loss
        over = () if layout is None else self.loss_over(layout, optimizer._modifiers)
        if not over:
            return loss
        exchange = Exchange([])
        mean = exchange.add(loss, over, 1 / processes_in(over))
        exchange.run()
        return mean.total

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "known": None, "before_load": None, "has_told": False}
