"""Launching kernels: the one place that calls Triton."""

from __future__ import annotations

import sys
import time
from collections.abc import Hashable
from typing import Any

import triton

WORTH_TELLING = 1.0
"""Seconds of compilation that a user is told of."""

_seen: set[Hashable] = set()
_told = False


Compiled = dict[Hashable, Any]
"""Kernels that have been launched, by what tells one launch of a plan from another."""


def launch(compiled: Compiled, key: Hashable, kernel: Any, programs: int, warps: int, *arguments: Any) -> None:
    """Runs a kernel on torch's current stream.

    Triton looks at every argument of a launch to find what it was compiled to, which takes longer than the launch. A
    plan's tables stay where they are: the second launch goes to the compiled kernel itself.

    Args:
        compiled: the kernels of this plan, added to here.
        key: what besides the plan decides about types, alignment and constants of the arguments.
        kernel: the kernel.
        programs: how many, at least 1.
        warps: of each program.
        arguments: all of them in their order, constants too.
    """
    known = compiled.get(key)
    if known is not None:
        known[(programs, 1, 1)](*arguments)
        return
    # Products and sums are rounded each for itself, as on the other backends: the draws' bits depend on it.
    made = kernel[(programs,)](*arguments, num_warps=warps, enable_fp_fusion=False)
    if made is not None:  # by the compiler, and not by the interpreter
        compiled[key] = made


class FirstUse:
    """A step whose kernels may have to be compiled: says so on stderr, once, where that took a while.

    Args:
        kinds: what the kernels of the step are compiled for.
    """

    def __init__(self, kinds: Hashable) -> None:
        self._is_new = kinds not in _seen and not triton.knobs.runtime.interpret
        _seen.add(kinds)

    def __enter__(self) -> None:
        self._begin = time.perf_counter()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        global _told
        took = time.perf_counter() - self._begin
        if kind is not None or _told or not self._is_new or took < WORTH_TELLING:
            return
        _told = True
        print(
            f"torchclip: compiled Triton kernels in {took:.1f} s; they are kept in {triton.knobs.cache.dir} for the "
            "next time",
            file=sys.stderr,
        )
