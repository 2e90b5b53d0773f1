"""The launches of one step."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from torchclip.backends.codes import LOSS_STEP_SIZE
from torchclip.backends.triton import columns
from torchclip.backends.triton.blocks import block_for
from torchclip.backends.triton.launches import Compiled, FirstUse, launch
from torchclip.backends.triton.memory import FIRST_PASS, RULE_PASS, Memory
from torchclip.backends.triton.settings import Settings
from torchclip.backends.triton.tables import RunTables
from torchclip.kernels import finish_rule, finish_step, norms, row_norms, update
from torchclip.kernels.tables import Run
from torchclip.rules.rule_spec import RuleSpec

FINISH_WARPS = 4

Kind = tuple[torch.dtype | bool | None, ...]
"""What besides the plan decides about the kernels of a step: the types of what it was handed, and whether numbers on
the device decide about the rows first."""

WIDTHS = {"chunks": columns.CHUNK_COLUMNS, "row_chunks": columns.ROW_CHUNK_COLUMNS}


@dataclass(frozen=True)
class Inputs:
    """What a caller of ``step`` hands over, each on the device: read there, and not by the host."""

    grad_scale: Tensor | None
    found_inf: Tensor | None
    loss: Tensor | None

    @classmethod
    def on(
        cls, device: torch.device, grad_scale: Tensor | None, found_inf: Tensor | None, loss: Tensor | None
    ) -> Inputs:
        """The arguments of ``step``, moved and cast where they must be."""

        def single(value: Tensor | None) -> Tensor | None:
            return None if value is None else value.detach().to(device, torch.float32, non_blocking=True)

        if loss is not None:
            kept = loss.dtype if loss.dtype in (torch.float32, torch.float64) else torch.float32
            loss = loss.detach().to(device, kept, non_blocking=True)
        return cls(single(grad_scale), single(found_inf), loss)


class Passes:
    """The kernels of a step over one device's memory.

    Args:
        spec: the rule.
        settings: the modifiers.
        memory: what they read and write.
    """

    def __init__(self, spec: RuleSpec, settings: Settings, memory: Memory) -> None:
        self._spec = spec
        self._settings = settings
        self._memory = memory
        self._shape = memory.tables.shape
        self._block = block_for(memory.device)
        image, shape = memory.image, self._shape
        single = memory.clip_units == 1 or shape.clips_rows
        self._finish = settings.finish(spec, is_single=single, fresh=shape.fresh, sums_units=memory.sums_units)
        self._finish_rule = self._finish._replace(is_single=memory.rule_units == 1 or shape.rule_rows)
        self._tensors = tuple(image.integers(name) for name in ("tensors", "gradients", "layouts"))
        self._draws, self._policy = image.integers("draws"), image.numbers("policy")
        self._places = {which: image.integers(which) for which in (FIRST_PASS, RULE_PASS)}
        self._host_rows = image.numbers("host_rows")
        self._updates = self._cut_chunks()
        self._norms = self._by_type("row_chunks" if shape.clips_rows else "chunks")
        self._directions = [
            (self._direction_of(tables.run), chunks)
            for tables, chunks in self._by_run("row_chunks" if shape.rule_rows else "chunks")
        ]
        self._compiled: Compiled = {}
        self._kind: Kind = ()
        self._used: set[Kind] = set()
        self.has_updated = False
        """Whether the last step came as far as writing parameters."""

    def _by_run(self, name: str) -> list[tuple[RunTables, Tensor]]:
        """The chunks of each run, on the device."""
        table = self._memory.image.integers(name).view(-1, WIDTHS[name])
        result, begin = [], 0
        for tables in self._memory.tables.runs:
            end = begin + len(getattr(tables, name))
            if end > begin:
                result.append((tables, table[begin:end]))
            begin = end
        return result

    def _cut_chunks(self) -> list[tuple[Run, int, int, Tensor, Tensor]]:
        """For each launch of the update what it is compiled for, its programs, how many of them share a chunk, the
        chunks, and where it counts zeros."""
        result, begin = [], 0
        for tables, chunks in self._by_run("chunks"):
            pieces, end = tables.pieces, begin + tables.zero_counts
            zeros = self._memory.zeros[begin:end]  # empty where nothing is counted
            result.append((tables.run, len(chunks) * pieces, pieces, chunks, zeros))
            begin = end
        return result

    def _direction_of(self, run: Run) -> Run:
        """What the pass that measures directions is compiled for: without what is not looked at there."""
        return run._replace(slots=run.slots & 1, lookahead=False, block=self._block.elements, piece=0)

    def _by_type(self, name: str) -> list[tuple[int, int, Tensor]]:
        """Type, access and chunks: norms of the raw gradients ask for no more, and neighbouring runs share a launch."""
        table = self._memory.image.integers(name).view(-1, WIDTHS[name])
        result: list[tuple[int, int, Tensor]] = []
        begin = 0
        for tables, chunks in self._by_run(name):
            access = tables.run.access
            if name == "row_chunks" and access == columns.ALIGNED:
                access = columns.ANYHOW  # rows begin anywhere
            end = begin + len(chunks)
            if not tables.is_measured:
                break  # they come last
            if result and result[-1][:2] == (tables.run.dtype, access):
                begin -= len(result.pop()[2])
            result.append((tables.run.dtype, access, table[begin:end]))
            begin = end
        return result

    def _finishes_first(self, inputs: Inputs) -> bool:
        """Whether numbers on the device decide about the rows before a rule measures anything itself."""
        if self._settings.measures or self._settings.counts_steps or self._settings.step_size != 0:
            return True
        if inputs.grad_scale is not None or inputs.found_inf is not None:
            return True
        if self._spec.clips_itself:  # its own pass comes first, which needs no lr
            return False
        return bool(self._spec.scalars) or self._shape.fresh or self._memory.has_lrs

    def _given(self, inputs: Inputs) -> tuple[Tensor | None, ...]:
        """What the end of a norm pass is handed."""
        return inputs.grad_scale, inputs.found_inf, inputs.loss if self._settings.step_size == LOSS_STEP_SIZE else None

    def _kind_of(self, inputs: Inputs) -> Kind:
        given = (None if value is None else value.dtype for value in self._given(inputs))
        return (*given, self._finishes_first(inputs))

    def has_run(self, inputs: Inputs) -> bool:
        """Whether a step with such inputs has been taken, and no kernel is compiled for another."""
        return self._kind_of(inputs) in self._used

    def measure_and_update(self, inputs: Inputs) -> None:
        """The step: what is measured and decided first, what the rule measures itself, and the update."""
        self.has_updated = False
        self._kind = self._kind_of(inputs)
        finished = bool(self._kind[-1])
        amp = self._given(inputs)
        with self._first_use() if self._kind not in self._used else nullcontext():
            if self._settings.measures:
                self._norm_pass(amp)
            elif finished:
                self._finish_alone(amp)
            if self._spec.clips_itself:
                self._direction_pass(finished)
            self._update_pass(finished)
        self._used.add(self._kind)

    def _first_use(self) -> FirstUse:
        runs = tuple(tables.run for tables in self._memory.tables.runs)
        return FirstUse((runs, self._finish, self._finish_rule, self._kind))

    def _finish_alone(self, amp: tuple[Tensor | None, ...]) -> None:
        launch(
            self._compiled, ("finish", self._kind), finish_step.finish_step_kernel, 1, FINISH_WARPS,
            self._places[FIRST_PASS], *amp, self._finish,
        )  # fmt: skip

    def _norm_pass(self, amp: tuple[Tensor | None, ...]) -> None:
        memory = self._memory
        kernel = row_norms.row_norm_kernel if self._shape.clips_rows else norms.gradient_norm_kernel
        factors = (memory.row_gradient_factors,) if self._shape.clips_rows else ()
        for dtype, access, chunks in self._norms:
            launch(
                self._compiled, ("norm", dtype, access, self._kind), kernel, len(chunks), self._block.warps,
                *self._tensors, chunks, memory.partials, *factors, self._places[FIRST_PASS], *amp, dtype, access,
                self._block.elements, self._finish,
            )  # fmt: skip
        if not self._norms:  # nothing but empty tensors
            self._finish_alone(amp)

    def _direction_pass(self, finished: bool) -> None:
        memory, by_rows = self._memory, self._shape.rule_rows
        kernel = row_norms.row_direction_norm_kernel if by_rows else norms.direction_norm_kernel
        factors = (memory.row_step_factors,) if by_rows else ()
        rows = memory.rows if finished else self._host_rows
        numbers, places = memory.step if finished else None, self._places[RULE_PASS]
        for run, chunks in self._directions:
            launch(
                self._compiled, ("direction", run, finished), kernel, len(chunks), self._block.warps,
                *self._tensors, chunks, rows, numbers, self._draws, memory.row_gradient_factors, memory.partials,
                *factors, places, run, self._finish_rule,
            )  # fmt: skip
        if not self._directions:
            launch(
                self._compiled, ("finish rule", finished), finish_rule.finish_rule_kernel, 1, FINISH_WARPS, places,
                numbers, by_rows, self._finish_rule,
            )  # fmt: skip

    def _update_pass(self, finished: bool) -> None:
        memory = self._memory
        rows = memory.rows if finished or self._spec.clips_itself else self._host_rows
        numbers = memory.step if finished else None
        for run, programs, pieces, chunks, zeros in self._updates:
            launch(
                self._compiled, ("update", run, pieces, finished), update.update_kernel, programs, self._block.warps,
                *self._tensors, chunks, rows, numbers, self._draws, self._policy, memory.row_gradient_factors,
                memory.row_step_factors, zeros, pieces, run,
            )  # fmt: skip
            self.has_updated = True
