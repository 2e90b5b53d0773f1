"""Addresses of tensors in a table that a kernel reads, written without a loop over its rows."""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from torchclip.state.reachable import unreachable_reason

ABSENT = torch.empty(0, device="cpu")
"""Stands for a tensor that is not there: its address is 0."""


def addresses_of(tensors: Iterable[Tensor]) -> array[int]:
    """Of their first elements; 0 for a tensor without elements.

    Raises:
        RuntimeError: for one that has elements and no memory.
    """
    tensors = list(tensors)
    addresses = array("q", list(map(Tensor.data_ptr, tensors)))
    if 0 in addresses:
        for position, (tensor, address) in enumerate(zip(tensors, addresses, strict=True)):
            if address == 0 and tensor.numel() > 0:
                raise RuntimeError(f"parameter {position}, its gradient or its state {unreachable_reason(tensor)}")
    return addresses


def write_columns(into: Tensor, columns: Mapping[int, array[int]]) -> None:
    """Writes an int64 table on the CPU: zeros, but for these columns."""
    rows, width = into.shape
    if rows == 0:
        return
    # A tensor made from a list would take several times as long.
    memory = (ctypes.c_int64 * (rows * width)).from_address(into.data_ptr())
    table = memoryview(memory).cast("B").cast("q")
    zeros = array("q", bytes(8 * rows))
    for column in range(width):
        table[column::width] = columns.get(column, zeros)


def check_table(into: Tensor, what: str, dtype: torch.dtype, shape: tuple[int, int]) -> None:
    """Raises unless ``into`` is a contiguous tensor on the CPU of that type and shape."""
    fits = into.device.type == "cpu" and into.dtype is dtype and into.shape == shape
    if not (fits and into.layout is torch.strided and into.is_contiguous()):
        wanted = type_name(torch.empty(0, dtype=dtype, device="cpu"))
        raise RuntimeError(
            f"{what} are written into a contiguous {wanted} tensor of shape {list(shape)} on the CPU, and this one is "
            f"{type_name(into)} of shape {list(into.shape)} on {into.device}"
        )


def type_name(tensor: Tensor) -> str:
    """The element type as C++ calls it, so that errors read alike."""
    return tensor.type().rpartition(".")[2].removesuffix("Tensor")
