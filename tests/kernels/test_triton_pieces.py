"""Chunks that several programs of a Triton update share, on the interpreter, which takes them whole otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

import torchclip
from builders import assert_same_params, build, draw_gradients
from torchclip.backends import choice as backends
from torchclip.backends.triton import columns
from torchclip.backends.triton.blocks import BLOCKS, Block

REASON = backends.unavailable_reason("triton")
IS_INTERPRETED = REASON is None and backends.served_device("triton") == "cpu"

needs_interpreter = pytest.mark.skipif(not IS_INTERPRETED, reason=REASON or "Triton is not interpreted here")

SIZES = (1, 1024, 2049, 4095, 5003)
"""Around pieces and chunks."""


@contextmanager
def pieces_of(piece_bytes: int) -> Iterator[None]:
    """Meanwhile plans cut chunks of 4096 elements into pieces, of 1024 elements for float64."""
    before = BLOCKS["cpu"]
    BLOCKS["cpu"] = Block(1024, before.warps, 1024, piece_bytes)
    try:
        yield
    finally:
        BLOCKS["cpu"] = before


def parameters(dtypes: tuple[torch.dtype, ...]) -> list[torch.nn.Parameter]:
    """Of each type every size, one that is not aligned, and one with gaps."""
    generator = torch.Generator().manual_seed(0)
    values: list[Tensor] = []
    for dtype in dtypes:
        values += [torch.randn(size, generator=generator).to(dtype) for size in SIZES]
        values.append(torch.randn(1502, generator=generator).to(dtype)[1:])
        values.append(torch.randn(30, 80, generator=generator).to(dtype)[:, ::2])
    return [torch.nn.Parameter(value) for value in values]


@needs_interpreter
def test_exact_zeros_are_counted_in_every_piece() -> None:
    dtypes = (torch.float32, torch.float64, torch.bfloat16)
    params, copies = parameters(dtypes), parameters(dtypes)
    ours = torchclip.GRDA(params, lr=0.1, c=0.5, clip=10.0, backend="triton")
    theirs = torchclip.GRDA(copies, lr=0.1, c=0.5, clip=10.0, backend="reference")
    with pieces_of(8192):
        for step in range(3):
            draw_gradients(step, params, copies)
            if step == 1:  # other chunks, whose counts must not be among those of the step before
                params[3].grad = copies[3].grad = None
            ours.step()
            theirs.step()
            written = ours._plan.zeros
            assert (written is None) == (step == 1)
            assert float(ours.sparsity()) == float(theirs.sparsity())
            if written is not None:
                assert int(written) == sum(int((param == 0).sum()) for param in params)
    assert 0.05 < float(ours.sparsity()) < 0.95
    for param, copy in zip(params, copies):
        torch.testing.assert_close(param, copy)


@needs_interpreter
@pytest.mark.parametrize("name", ("sgd", "rmsprop", "mix_clip", "ada_grad_norm_row"))
def test_pieces_change_no_bit(name: str) -> None:
    draws = (torchclip.GradientNoise(0.01), torchclip.LRDropout(0.5), torchclip.Lookahead(2))
    extensions = draws if name == "sgd" else ()
    results = []
    for piece_bytes in (8192, BLOCKS["cpu"].piece_bytes):
        params = parameters((torch.float64,))
        made = build(name, params, extensions=extensions, seed=5, backend="triton")
        with pieces_of(piece_bytes):
            for step in range(2):
                draw_gradients(step, params)
                made.step()
        results.append(params)
    assert_same_params(*results)
    assert not any(torch.equal(param, before) for param, before in zip(params[1:], parameters((torch.float64,))[1:]))


@pytest.mark.parametrize("kind", BLOCKS)
def test_pieces_begin_at_a_multiple_of_the_grain_in_every_type(kind: str) -> None:
    block = BLOCKS[kind]
    assert block.piece_bytes % (8 * columns.CHUNK_GRAIN) == 0
    assert block.piece_bytes >= 4 * block.elements
