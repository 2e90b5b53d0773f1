"""What a device holds for a step: tables that the host writes, and what the kernels write themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from torchclip.backends.codes import VALUE_CLIP
from torchclip.backends.reference.philox import key_of_seed
from torchclip.backends.triton import columns
from torchclip.backends.triton.image import DeviceImage
from torchclip.backends.triton.settings import Settings
from torchclip.backends.triton.shared_numbers import check_shared
from torchclip.backends.triton.tables import Tables
from torchclip.rules.norms import Scope
from torchclip.rules.rule_spec import RuleSpec
from torchclip.state.group_state import numbers_of

FIRST_PASS, RULE_PASS = "first_places", "rule_places"
"""The table of places of the pass for the clip policy, and of the rule's own."""

SCALARS, SUMS = 6, 8
"""Columns of ``Gatherer.addresses`` behind the operands."""

CHANGING = (
    "tensors", "gradients", "sources", "groups", "lrs", "host_rows", "draws", "rule_sums", FIRST_PASS, RULE_PASS,
)  # fmt: skip
"""Sections that another step may change without new tables."""

SHARED = ("norm_count", "norm_mean", "norm_variance", "norm_window", "b_squared", "step")
"""State that belongs to no single parameter, which a finish reads and writes: see torchclip/state/group_state.py."""


def _address(value: Any) -> int:
    """Of a number of state; 0 for what is no tensor."""
    return value.data_ptr() if isinstance(value, Tensor) else 0


class Memory:
    """One device's memory, as long as the structure of the step stays.

    Args:
        device: where it lies.
        spec: the rule.
        tables: which tensors there are.
        settings: the modifiers.
        before: the memory that this one replaces; None where there was none.
        flags_from: [parameters], where in ``before.new`` each one's flag lies; -1 where it has none that holds.
    """

    def __init__(
        self,
        device: torch.device,
        spec: RuleSpec,
        tables: Tables,
        settings: Settings,
        before: Memory | None,
        flags_from: Sequence[int],
    ) -> None:
        self.device = device
        self.tables = tables
        self._spec = spec
        self._settings = settings
        shape = tables.shape
        self.sums_units = spec.by_scope is not None and not shape.rule_rows
        # A group without a gradient is left out: its sum stays, and its factor is 1.
        self._summed_units = {tables.unit_of(shape.rule_scope, index) for index in range(len(tables.members))}
        self.clip_units, self.rule_units = tables.units(shape.clip_scope), tables.units(shape.rule_scope)
        self.image = DeviceImage(self._sizes(), device)

        def numbers(count: int) -> Tensor:
            return torch.zeros(count, dtype=torch.float64, device=device)

        same_place = before is not None and before.device == device
        # Of the steps that measured a factor.
        self.counters: Tensor = before.counters if before is not None and same_place else numbers(2)
        self.rows = numbers(len(tables.sources) * columns.ROW_COLUMNS)
        self.partials = numbers(max(tables.partials, tables.row_partials) * columns.SUM_COLUMNS)
        self.step = numbers(4)
        self.row_gradient_factors = numbers(tables.row_total) if shape.clips_rows else None
        self.row_step_factors = numbers(tables.row_total) if shape.rule_rows else None
        counts = sum(run.zero_counts for run in tables.runs) if shape.counts_zeros else 0
        self.zeros = torch.zeros(counts, dtype=torch.int64, device=device)
        self._done = torch.zeros(8, dtype=torch.int32, device=device)
        # Of every parameter whether no step has been taken with its state, which the device alone knows.
        self.new: Tensor = (
            self._moved_flags(before.new, flags_from) if before is not None and same_place else self._no_flags()
        )
        self.measured = {
            "grad_norm": numbers(self.clip_units),
            "clip_factor": numbers(self.clip_units),
            "rule_grad_norm": numbers(self.rule_units),
            "rule_clip_factor": numbers(self.rule_units),
            "direction_norm": numbers(self.rule_units),
            "lr_scale": numbers(1),
        }
        self.has_lrs = False
        self._held: list[Tensor | None] = []  # that kernels read
        self._streams: list[Any] = []
        self._host_rows_of: Tensor | None = None
        self._shared_at: list[int] = []
        self._set_static()

    def _no_flags(self) -> Tensor:
        return torch.zeros(self.tables.parameters, dtype=torch.int32, device=self.device)

    def _moved_flags(self, flags: Tensor, places: Sequence[int]) -> Tensor:
        """The flags, each with its parameter."""
        if list(places) == list(range(len(flags))):
            return flags
        if len(flags) == 0 or all(place < 0 for place in places):
            return self._no_flags()
        place = torch.tensor(places, device="cpu")
        known = (place >= 0).to(self.device, torch.int32)
        return flags[place.clamp(min=0).to(self.device)] * known

    def _sizes(self) -> dict[str, int]:
        tables = self.tables
        sums = self.rule_units if self.sums_units else 0
        return {
            # Those that change from step to step, which are uploaded in one piece.
            "tensors": tables.tensors.numel(),
            "gradients": len(tables.members),
            "sources": len(tables.sources) * columns.SOURCE_COLUMNS,
            "groups": tables.groups * columns.GROUP_COLUMNS,
            "lrs": tables.groups * columns.LR_COLUMNS,
            "host_rows": len(tables.sources) * columns.ROW_COLUMNS,
            "draws": 4,
            "rule_sums": sums,
            FIRST_PASS: columns.PLACE_COLUMNS,
            RULE_PASS: columns.PLACE_COLUMNS,
            # And those that do not.
            "layouts": len(tables.layouts),
            "chunks": sum(len(run.chunks) for run in tables.runs) * columns.CHUNK_COLUMNS,
            "row_chunks": sum(len(run.row_chunks) for run in tables.runs) * columns.ROW_CHUNK_COLUMNS,
            "long_rows": len(tables.long_rows) * columns.LONG_ROW_COLUMNS,
            "clip_chunks": self.clip_units + 1,
            "rule_chunks": self.rule_units + 1,
            "row_unit": 2,
            "policy": columns.POLICY_COLUMNS,
            "group_clips": len(self._settings.groups) * columns.GROUP_CLIP_COLUMNS,
            "sum_is_double": sums,
        }

    def _set_static(self) -> None:
        image, tables = self.image, self.tables
        image.set("layouts", torch.tensor(tables.layouts, dtype=torch.int64, device="cpu"))
        image.set("chunks", tables.chunk_table("chunks"))
        image.set("row_chunks", tables.chunk_table("row_chunks"))
        image.set("long_rows", torch.tensor(tables.long_rows, dtype=torch.int64, device="cpu"))
        image.set("clip_chunks", tables.unit_chunks(tables.shape.clip_scope))
        image.set("rule_chunks", tables.unit_chunks(tables.shape.rule_scope))
        image.set("row_unit", torch.tensor([0, tables.row_partials], device="cpu"))
        image.set("policy", self._settings.policy_table())
        image.set("group_clips", self._settings.group_table())
        self._sources = torch.tensor(tables.sources, dtype=torch.int64, device="cpu").reshape(
            -1, columns.SOURCE_COLUMNS
        )

    def read(self, addresses: Tensor, group_numbers: Tensor) -> None:
        """Takes this step's addresses and numbers, as a ``Gatherer`` gives them."""
        tables, image = self.tables, self.image
        if len(tables.positions) != len(addresses):
            addresses = addresses[tables.positions]
        operands, scalars = columns.OPERANDS, tables.shape.scalars
        image.set("gradients", addresses[:, columns.GRADIENT], changes_by_step=True)
        tables.tensors[:, :operands] = addresses[:, :operands]
        tables.tensors[:, columns.GRADIENT] = 0
        if tables.shape.rule_rows:
            tables.tensors[:, columns.TENSOR_SUMS] = addresses[:, SUMS]
        image.set("tensors", tables.tensors, changes_by_step=True)
        if scalars and len(tables.sources) > 0:
            self._sources[:, :scalars] = addresses[:, SCALARS : SCALARS + scalars]
        image.set("sources", self._sources, changes_by_step=True)
        image.set("groups", group_numbers, changes_by_step=True)
        self._group_numbers, self._sums_at = group_numbers, addresses[:, SUMS]

    def set_lrs(self, lrs: Sequence[Tensor | None]) -> None:
        """Takes the learning rates that are tensors on the device."""
        if not self.has_lrs and all(lr is None for lr in lrs):
            return
        self.has_lrs = True
        lrs = [None if lr is None else lr.detach().to(self.device, non_blocking=True) for lr in lrs]
        places = [(0, 0) if lr is None else (lr.data_ptr(), lr.dtype is torch.float64) for lr in lrs]
        self.image.set("lrs", torch.tensor(places, dtype=torch.int64, device="cpu"), changes_by_step=True)
        self._held = lrs

    def begin(self, groups: Sequence[dict[str, Any]], fresh: Sequence[int], capturing: bool) -> None:
        """Brings the device up to date for a step.

        Args:
            groups: the param groups.
            fresh: positions of parameters whose state was made for this step.
            capturing: a graph captures this step.
        """
        self._follow_stream()
        shared = numbers_of(groups[0])
        if self._settings.draws:
            key = key_of_seed(int(shared["seed"]))
            self.image.set(
                "draws", torch.tensor([*key, *self._settings.thresholds()], device="cpu"), changes_by_step=True
            )
        if self.sums_units:
            self._set_rule_sums(groups)
        if not self._spec.scalars:
            self._set_host_rows()
        shared_at = [_address(shared.get(name)) for name in SHARED]
        if shared_at != self._shared_at or self.image.is_in_graph:
            check_shared(shared, self._settings.shared_numbers(), self.device)
            self._shared_at = shared_at
            found = dict(zip(SHARED, shared_at, strict=True))
            for which in (FIRST_PASS, RULE_PASS):
                self.image.set(which, self._places(which, found), changes_by_step=True)
        self.image.upload(capturing=capturing, changing=CHANGING)
        if self.tables.shape.fresh:
            self._mark_new(fresh)

    def _mark_new(self, positions: Sequence[int]) -> None:
        """By runs of neighbours: a list of positions would be copied to the device, which waits."""
        begin = 0
        for end in range(1, len(positions) + 1):
            if end == len(positions) or positions[end] != positions[end - 1] + 1:
                self.new[positions[begin] : positions[end - 1] + 1].fill_(1)
                begin = end

    def _follow_stream(self) -> None:
        """The allocator must know of every stream that uses a buffer."""
        if self.device.type == "cpu":
            return
        stream = torch.cuda.current_stream(self.device)
        if stream in self._streams:
            return
        self._streams.append(stream)
        buffers = (
            self.image.memory, self.rows, self.partials, self.step, self.zeros, self.counters, self._done, self.new,
            self.row_gradient_factors, self.row_step_factors, *self.measured.values(),
        )  # fmt: skip
        for buffer in buffers:
            if buffer is not None:
                buffer.record_stream(stream)

    def _set_rule_sums(self, groups: Sequence[dict[str, Any]]) -> None:
        """AdaGradNorm's sums, where they are not taken over rows."""
        places = torch.zeros(self.rule_units, dtype=torch.int64, device="cpu")
        is_double = torch.ones_like(places)
        if self.tables.shape.rule_scope is Scope.TENSOR:
            places[self.tables.positions] = self._sums_at
            doubles = [member.sum_is_double for member in self.tables.members]
            is_double[self.tables.positions] = torch.tensor(doubles, dtype=torch.int64, device="cpu")
        else:
            for unit in self._summed_units:
                shared = numbers_of(groups[unit])
                check_shared(shared, {"sum": 1}, self.device)
                places[unit] = shared["sum"].data_ptr()
        self.image.set("rule_sums", places, changes_by_step=True)
        self.image.set("sum_is_double", is_double)

    def _set_host_rows(self) -> None:
        """The rows as they are before any norm and any number on the device is known: csrc/rows.h."""
        known = self._host_rows_of is not None and torch.equal(self._host_rows_of, self._group_numbers)
        if known and not self.image.is_in_graph:
            return
        self._host_rows_of = self._group_numbers.clone()
        limit = self._settings.numbers["limit"] if self._settings.clip == VALUE_CLIP else torch.inf
        rows = torch.zeros(len(self._group_numbers), columns.ROW_COLUMNS, dtype=torch.float64, device="cpu")
        for row, found in zip(rows, self._group_numbers.tolist(), strict=True):
            lr, decay = found[0], found[columns.GROUP_WEIGHT_DECAY]
            is_decoupled = found[columns.GROUP_DECOUPLED] != 0
            row[columns.ROW_GRADIENT_SCALE] = -1.0 if found[columns.GROUP_MAXIMIZE] != 0 else 1.0
            row[columns.ROW_VALUE_LIMIT] = limit
            row[columns.ROW_WEIGHT_DECAY] = 0.0 if is_decoupled else decay
            row[columns.ROW_SHRINK] = 1.0 - lr * decay if is_decoupled else 1.0
            numbers = iter(found[1:])  # as they were read: the group itself may hold numpy's, of half precision say
            own = {
                name: (next(numbers), next(numbers)) if name == "betas" else next(numbers)
                for name in self._spec.hyperparameters
            }
            rule = list(self._spec.coefficients({**own, "lr": lr}, 1.0, False).values())
            row[columns.ROW_RULE : columns.ROW_RULE + len(rule)] = torch.tensor(rule, dtype=torch.float64, device="cpu")
        self.image.set("host_rows", rows[self._sources[:, columns.SOURCE_GROUP]], changes_by_step=True)

    def _places(self, which: str, shared: Mapping[str, int]) -> Tensor:
        """Where the end of a norm pass finds what it needs."""
        shape, image, tables = self.tables.shape, self.image, self.tables
        first = which == FIRST_PASS
        by_rows = shape.clips_rows if first else shape.rule_rows
        factors = self.row_gradient_factors if first else self.row_step_factors
        prefix = "" if first else "rule_"
        places: dict[str, int | Tensor | None] = {
            **shared,
            "units": 1 if by_rows else self.clip_units if first else self.rule_units,
            "unit_chunks": image.integers("row_unit" if by_rows else "clip_chunks" if first else "rule_chunks"),
            "partials": self.partials,
            "grad_norm": self.measured[prefix + "grad_norm"],
            "clip_factor": self.measured[prefix + "clip_factor"],
            "direction_norm": self.measured["direction_norm"],
            "lr_scale": self.measured["lr_scale"],
            "counters": self.counters,
            "numbers": self.step,
            "rows": self.rows,
            "row_count": len(tables.sources),
            "fresh": self.new,
            "blocks": sum(
                len(run.row_chunks if by_rows else run.chunks) for run in tables.runs if run.is_measured or not first
            ),
            "blocks_done": self._done[0 if first else 4 :],
            "long_row_count": len(tables.long_rows),
            "row_factors": factors,
        }
        for name in (
            "sources", "groups", "lrs", "policy", "group_clips", "long_rows", "tensors", "rule_sums", "sum_is_double",
        ):  # fmt: skip
            places[name] = image.integers(name)
        table = torch.zeros(columns.PLACE_COLUMNS, dtype=torch.int64, device="cpu")
        for name, place in places.items():
            number = place.data_ptr() if isinstance(place, Tensor) else place or 0
            table[getattr(columns, f"PLACE_{name.upper()}")] = number
        return table

    def measure_nothing(self) -> None:
        """No parameter has a gradient."""
        for name, value in self.measured.items():
            if name != "lr_scale":
                value.fill_(1.0 if name.endswith("clip_factor") else 0.0)
