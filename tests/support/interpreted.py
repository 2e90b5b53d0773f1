"""Triton's interpreter without its greatest costs, and quiet.

It prepares ``triton.language`` anew for every call of a function within a kernel, which takes three times as long as
all the arithmetic; here what is prepared already is left alone. Of the rest most goes into describing values: the names
and shapes of their types, worked out for every one of them. Here each is worked out once.
"""

from __future__ import annotations

import functools
import math
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
    describe_once(tl.core, interpreter)


def describe_once(core: Any, interpreter: Any) -> None:
    """Keeps what Triton finds out about a type."""
    dtype_of = interpreter._get_np_dtype
    make_block = core.block_type.__init__
    unwrap = core._unwrap_if_constexpr
    wrapped = (core.constexpr, core.tuple, list, tuple)
    dtypes: dict[str, Any] = {}
    blocks: dict[tuple[Any, ...], dict[str, Any]] = {}

    def kept_dtype(value_type: Any) -> Any:
        name = value_type.scalar.name
        if name not in dtypes:
            dtypes[name] = dtype_of(value_type)
        return dtypes[name]

    def kept_block(self: Any, element_ty: Any, shape: Any) -> None:
        key = (element_ty.name, *map(core._unwrap_if_constexpr, shape))
        if key not in blocks:
            make_block(self, element_ty, shape)
            blocks[key] = dict(vars(self))
        else:
            vars(self).update(blocks[key])

    @functools.cache
    def described(sizes: tuple[int, ...]) -> tuple[Any, Any]:
        return core.constexpr(math.prod(sizes)), core.tuple([core.constexpr(size) for size in sizes])

    def make_tensor(self: Any, handle: Any, type: Any) -> None:
        core.base_value.__init__(self)
        self.handle, self.type, self.dtype = handle, type, type.scalar
        self.numel, self.shape = described(tuple(type.shape) if type.is_block() else ())

    def unwrapped(value: Any) -> Any:
        if type(value) is core.constexpr:
            return value.value
        return unwrap(value) if isinstance(value, wrapped) else value

    core._unwrap_if_constexpr = unwrapped
    interpreter._get_np_dtype = kept_dtype
    core.block_type.__init__ = kept_block
    core.tensor.__init__ = make_tensor
