"""The launches of a step on Triton's kernels, for the plan in C++: ``csrc/triton/plan.h``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from torchclip.backends.triton import columns
from torchclip.backends.triton.blocks import block_for
from torchclip.backends.triton.launches import Compiled, FirstUse, launch
from torchclip.backends.triton.plan_tables import (
    NOTHING,
    POLICY,
    RULE,
    DeviceExchange,
    RunTables,
    Tables,
    Types,
)
from torchclip.kernels import finish_rule, finish_step, norms, operands, row_norms, share, update
from torchclip.kernels.constants import Finish, Run
from torchclip.rules.rule_spec import RuleSpec

FINISH_WARPS = 4
GROUP: int = operands.GROUP.value
"""Elements that are read together where nothing is in blocks."""
DRAWS = columns.GRADIENT_DROPOUT | columns.GRADIENT_NOISE | columns.LR_DROPOUT
"""The stages that draw, which take registers."""

Given = tuple[Tensor | None, Tensor | None, Tensor | None]
"""grad_scale, found_inf and loss of a step, on the device: read there, and not by the host."""


class Launcher:
    """The launches over one device's tables.

    Args:
        spec: the rule.
        device: where the tables lie.
    """

    def __init__(self, spec: RuleSpec, device: torch.device) -> None:
        self._spec = spec
        self._device = device
        self.has_updated = False
        """Whether the last step came as far as writing parameters."""

    @property
    def piece_bytes(self) -> int:
        """Of the parameter that a program of the update takes."""
        return block_for(self._device).piece_bytes

    def place(
        self,
        tables: Sequence[Tensor | None],
        runs: Sequence[Sequence[Any]],
        constants: Mapping[str, Any],
        exchanges: Sequence[Sequence[Any] | None],
    ) -> None:
        """Takes new tables.

        Args:
            tables: the fields of ``Tables``.
            runs: the fields of ``RunTables``.
            constants: what ``Finish`` has besides the rule's name; ``rule_is_single``, ``clips_rows``, ``rule_rows``,
                ``in_parts`` of ``Run``, and ``takes_loss``: others are asked for their losses.
            exchanges: the fields of ``DeviceExchange`` by whose sums it asks for; None where it does not.
        """
        self._tables = Tables(*tables)  # type: ignore[arg-type]
        given = [RunTables(*run) for run in runs]
        self._runs = [each._replace(types=Types(*each.types)) for each in given]
        self._block = block_for(self._device)
        self._clips_rows, self._rule_rows = constants["clips_rows"], constants["rule_rows"]
        self._in_parts, self._takes_loss = constants["in_parts"], constants["takes_loss"]
        self._exchanges = [None if each is None else DeviceExchange(*each) for each in exchanges]
        self._finish = Finish(self._spec.name, **{name: constants[name] for name in Finish._fields[1:-1]})
        self._finish_rule = self._finish._replace(is_single=constants["rule_is_single"])
        self._updates = [self._update_of(run) for run in self._runs if run.chunks > 0]
        self._norms = self._norm_launches()
        self._directions = self._direction_launches()
        self._compiled: Compiled = {}
        self._used: set[tuple[Any, ...]] = set()

    def _chunks(self, first: int, count: int, by_rows: bool) -> Tensor:
        table, words = (
            (self._tables.row_chunks, columns.ROW_CHUNK_WORDS)
            if by_rows
            else (self._tables.chunks, columns.CHUNK_WORDS)
        )
        return table[words * first : words * (first + count)]

    def _run_of(self, tables: RunTables) -> Run:
        """What the update is compiled for."""
        size = (4, 8, 2, 2)[tables.dtype]
        types = tables.types
        has_blocks = any(form in (columns.BLOCKS, columns.UNSIGNED_BLOCKS) for form in types.state_forms)
        draws = tables.stages & DRAWS != 0 or columns.STOCHASTIC in (types.form, *types.state_forms)
        dtype0, dtype1, dtype2 = types.state
        form0, form1, form2 = types.state_forms
        run = Run(
            self._spec.family, tables.slots, tables.stages, tables.dtype, tables.state_dtype, tables.access,
            self._finish.lookahead, self._spec.family == "soft_threshold", self._block.elements,
            self._block.piece_bytes // size, self._finish.averages, group=columns.BLOCK if has_blocks else GROUP,
            gradient_dtype=types.gradient, parameter_dtype=types.parameter, form=types.form,
            dtype0=dtype0, dtype1=dtype1, dtype2=dtype2, form0=form0, form1=form1, form2=form2,
            in_parts=self._in_parts and draws,
        )  # fmt: skip
        few = run.slots.bit_count() <= 1 and run.state_dtype == run.dtype and not run.lookahead
        whole = run.access == columns.ALIGNED and run.stages & DRAWS == 0 and not (self._clips_rows or self._rule_rows)
        # There are registers for more elements of half precision at a time, and they are read by groups.
        return run._replace(block=self._block.half_elements) if size == 2 and few and whole else run

    def _update_of(self, run: RunTables) -> tuple[Run, int, int, Tensor, Tensor]:
        """What a launch is compiled for, its programs, how many share a chunk, the chunks, and the counts of zeros."""
        programs = run.chunks * run.pieces
        zeros = self._tables.zeros[run.first_piece : run.first_piece + programs]  # empty where nothing is counted
        return self._run_of(run), programs, run.pieces, self._chunks(run.first, run.chunks, False), zeros

    def _norm_launches(self) -> list[tuple[tuple[Any, ...], Tensor]]:
        """What a launch is compiled for, and its chunks: norms of the raw gradients ask for their type and how they are
        reached alone, those by rows for those of the parameters too, and neighbouring runs share a launch."""
        result: list[tuple[tuple[Any, ...], int, int]] = []
        for run in self._runs:
            first, count = (run.first_row, run.row_chunks) if self._clips_rows else (run.first, run.chunks)
            if count == 0 or not run.is_measured:
                continue
            raw = (run.types.gradient, run.access, self._block.elements)
            constants = (self._weights_of(run),) if self._clips_rows else raw
            if result and result[-1][0] == constants and sum(result[-1][1:]) == first:
                _, first, before = result.pop()
                count += before
            result.append((constants, first, count))
        return [(constants, self._chunks(first, count, self._clips_rows)) for constants, first, count in result]

    def _weights_of(self, tables: RunTables) -> Run:
        """What norms of gradients and weights by rows are compiled for."""
        access = columns.ANYHOW if tables.access == columns.ALIGNED else tables.access  # rows begin anywhere
        types = tables.types
        return Run(
            "", 0, 0, tables.dtype, tables.dtype, access, False, False, self._block.elements, 0,
            gradient_dtype=types.gradient, parameter_dtype=types.parameter, form=types.form,
        )  # fmt: skip

    def _direction_launches(self) -> list[tuple[Run, int, Tensor]]:
        """What a launch is compiled for, without what is not looked at there; its programs, and their chunks."""
        result = []
        for tables in self._runs:
            first, count = (tables.first_row, tables.row_chunks) if self._rule_rows else (tables.first, tables.chunks)
            run = self._run_of(tables)
            run = run._replace(
                slots=run.slots & 1, lookahead=False, averages=False, block=self._block.elements, piece=0
            )
            if count > 0:
                result.append((run, count, self._chunks(first, count, self._rule_rows)))
        return result

    def run(
        self,
        measures: bool,
        first: bool,
        waits: bool,
        grad_scale: Tensor | None,
        found_inf: Tensor | None,
        loss: Tensor | None,
    ) -> None:
        """The step: what is measured and decided first, what the rule measures itself, and the update.

        Args:
            measures: a clip policy takes norms.
            first: numbers on the device decide about the coefficients before a rule measures anything itself.
            waits: a step that measures nothing has to hear of other processes.
            grad_scale, found_inf: float32 [1], on the device, as ``loss``: float32 or float64 [1].
        """
        self.has_updated = False
        given = (grad_scale, found_inf, loss)
        finished = measures or first
        kind = (*(None if value is None else value.dtype for value in given), finished)
        with nullcontext() if kind in self._used else self._first_use(kind):
            if measures:
                self._norm_pass(given, kind)
            elif first and waits:
                self._finish_behind(NOTHING, given)
            elif first:
                self._finish_alone(given, self._finish)
            if self._spec.clips_itself:
                self._direction_pass(finished, is_first=not (measures or waits))
            self._update_pass(finished)
        self._used.add(kind)

    def _beside_of(self, run: Run) -> Tensor | None:
        """What is kept beside operands, where the run looks at it: without it Triton sees that it need not."""
        return self._tables.beside if run.form in (columns.SPLIT, columns.MASTER) or run.group != GROUP else None

    def _first_use(self, kind: tuple[Any, ...]) -> FirstUse:
        runs = tuple(run for run, *_ in self._updates)
        return FirstUse((runs, self._finish, self._finish_rule, kind))

    def _finish_alone(self, given: Given, finish: Finish) -> None:
        kind = tuple(None if value is None else value.dtype for value in given)
        launch(
            self._compiled, ("finish", kind, finish.shares), finish_step.finish_step_kernel, 1, FINISH_WARPS,
            self._tables.finish, *given, finish,
        )  # fmt: skip

    def _finish_behind(self, asked: int, given: Given) -> None:
        """Behind an exchange, by what all processes have."""
        grad_scale, found_inf, loss = given
        shared = loss if self._takes_loss else None
        common = self._ask(asked, found_inf, shared, self._tables.finish, None)
        overflows, mean = (common[place : place + 1] for place in (columns.COMMON_OVERFLOWS, columns.COMMON_LOSS))
        given = (grad_scale, overflows, loss if shared is None else mean)
        self._finish_alone(given, self._finish._replace(shares=True))

    def _ask(
        self,
        asked: int,
        found_inf: Tensor | None,
        loss: Tensor | None,
        places: Tensor,
        decided: Tensor | None,
        *,
        is_first: bool = True,
    ) -> Tensor:
        """The common numbers of an exchange, of all processes.

        Args:
            asked: whose sums.
            found_inf, loss: this process's.
            places: the tables of the finish.
            decided: StepNumbers, where there was a first finish.
            is_first: it is the first of the step.
        """
        exchange = self._exchanges[asked]
        assert exchange is not None, "an exchange is made where the plan was told of other processes"
        exchange.numbers.zero_()
        if asked != NOTHING and (self._clips_rows if asked == POLICY else self._rule_rows):
            launch(
                self._compiled, ("rows", asked, decided is None), share.share_rows_kernel, 1, FINISH_WARPS,
                exchange.table, places, decided, asked == POLICY,
            )  # fmt: skip
        kind = tuple(None if value is None else value.dtype for value in (found_inf, loss))
        launch(
            self._compiled, ("share", asked, kind, is_first), share.share_kernel, exchange.cells + 1, FINISH_WARPS,
            exchange.table, None if asked == NOTHING else places, found_inf, loss, is_first,
        )  # fmt: skip
        exchange.add_up()
        return exchange.numbers[-columns.COMMON_NUMBERS :]

    def _norm_pass(self, given: Given, kind: tuple[Any, ...]) -> None:
        tables = self._tables
        kernel = row_norms.row_norm_kernel if self._clips_rows else norms.gradient_norm_kernel
        words = columns.ROW_CHUNK_WORDS if self._clips_rows else columns.CHUNK_WORDS
        factors = (tables.row_gradient_factors,) if self._clips_rows else ()
        for constants, chunks in self._norms:
            held = (self._beside_of(*constants),) if self._clips_rows else ()
            launch(
                self._compiled, ("norm", constants, kind), kernel, len(chunks) // words, self._block.warps,
                tables.tensors, tables.gradients, chunks, tables.partials, *factors, tables.finish, *given, *held,
                *constants, self._finish,
            )  # fmt: skip
        if self._exchanges[POLICY] is not None:
            self._finish_behind(POLICY, given)
        elif not self._norms:  # nothing but empty tensors
            self._finish_alone(given, self._finish)

    def _direction_pass(self, finished: bool, *, is_first: bool) -> None:
        tables, by_rows = self._tables, self._rule_rows
        kernel = row_norms.row_direction_norm_kernel if by_rows else norms.direction_norm_kernel
        factors = (tables.row_step_factors,) if by_rows else ()
        coefficients = tables.coefficients if finished else tables.host_coefficients
        numbers = tables.numbers if finished else None
        for run, programs, chunks in self._directions:
            launch(
                self._compiled, ("direction", run, finished), kernel, programs, self._block.warps, tables.tensors,
                tables.gradients, chunks, coefficients, numbers, tables.draws, tables.row_gradient_factors,
                tables.partials, *factors, tables.finish_rule, self._beside_of(run), run, self._finish_rule,
            )  # fmt: skip
        shares = self._exchanges[RULE] is not None
        if shares:
            self._ask(RULE, None, None, tables.finish_rule, numbers, is_first=is_first)
        if shares or not self._directions:
            launch(
                self._compiled, ("finish rule", finished), finish_rule.finish_rule_kernel, 1, FINISH_WARPS,
                tables.finish_rule, numbers, by_rows, self._finish_rule._replace(shares=shares),
            )  # fmt: skip

    def _update_pass(self, finished: bool) -> None:
        tables = self._tables
        made = finished or self._spec.clips_itself
        coefficients = tables.coefficients if made else tables.host_coefficients
        is_decided = finished or self._exchanges[RULE] is not None
        numbers = tables.numbers if is_decided else None
        for run, programs, pieces, chunks, zeros in self._updates:
            before, self.has_updated = self.has_updated, True  # before: Ctrl-C may come between any two lines
            try:
                launch(
                    self._compiled, ("update", run, pieces, is_decided), update.update_kernel, programs,
                    self._block.warps, tables.tensors, tables.gradients, chunks, coefficients, numbers,
                    tables.draws, tables.row_gradient_factors, tables.row_step_factors, zeros,
                    self._beside_of(run), pieces, run,
                )  # fmt: skip
            except Exception:  # it was refused
                self.has_updated = before
                raise
