"""The numbers of ``kernels/tables.py`` as integers: there they are Triton's constants, which index no tensor."""

from __future__ import annotations

from torchclip.kernels import tables


def __getattr__(name: str) -> int:
    number: int = getattr(tables, name).value
    return number
