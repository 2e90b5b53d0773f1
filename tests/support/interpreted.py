"""Triton's interpreter without its greatest cost, and quiet.

It prepares ``triton.language`` anew for every call of a function within a kernel, which takes three times as long as
all the arithmetic. Here what is prepared already is left alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any


def hasten() -> None:
    """For the rest of the process; nothing where Triton is not installed, or its interpreter is made otherwise."""
    try:
        import numpy
        import triton.language as tl
        from triton.runtime import interpreter
    except ImportError:
        return
    prepare: Callable[[Any], Any] | None = getattr(interpreter, "_patch_lang", None)
    nothing_to_restore = getattr(interpreter, "_LangPatchScope", None)
    if prepare is None or nothing_to_restore is None:
        return

    # A kernel computes beside its masks too, where a GPU says nothing of a division by zero.
    numpy.seterr(all="ignore")

    @functools.cache
    def languages_of(function: Any) -> list[Any]:
        return [value for value in function.__globals__.values() if value is tl or value is tl.core]

    def prepare_once(function: Any) -> Any:
        is_prepared = not any(tl.core.is_builtin(language.load) for language in languages_of(function))
        return nothing_to_restore() if is_prepared else prepare(function)

    interpreter._patch_lang = prepare_once
