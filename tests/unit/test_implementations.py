"""foreach=, fused= and what runs without them: one another's results, in every type."""

from __future__ import annotations

import inspect

import pytest
import torch

from builders import LOSS, OPTIMIZERS, assert_same_params, build, each_optimizer
from of_every_type import LR, starts, write_gradients
from records import DTYPES, dtype_name


@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
@each_optimizer
def test_the_fused_step_agrees_with_the_loop(name: str, dtype: torch.dtype, backend: str) -> None:
    if backend == "reference":
        pytest.skip("it is the loop that the others are compared with")
    params, copies = starts(dtype), starts(dtype)
    before = [param.detach().clone() for param in params]
    options = {"clip": 8.0, "lr": LR}
    fused, loop = build(name, params, **options, backend=backend), build(name, copies, **options, backend="reference")
    for step in range(2):
        write_gradients(step, params, copies)
        fused.step(loss=LOSS)
        loop.step(loss=LOSS)
    eps = torch.finfo(dtype).eps
    for param, other, start in zip(params, copies, before):
        scale = float(other.detach().double().abs().max())
        torch.testing.assert_close(param, other, rtol=4 * eps, atol=8 * eps * scale)
        assert not torch.equal(param, start)


@each_optimizer
def test_flags_choose_among_them(name: str) -> None:
    """To the bit: fused=False is the reference path; foreach, whatever it says, chooses nothing."""
    known = inspect.signature(OPTIMIZERS[name][0]).parameters
    chosen = [({"foreach": True}, None), ({"fused": False}, "reference"), ({"foreach": False}, None)]
    chosen = [(flags, wanted) for flags, wanted in chosen if flags.keys() <= known.keys()]
    if not chosen:
        pytest.skip("it has no namesake in torch, and no flags")
    for flags, wanted in chosen:
        params, copies = starts(torch.float32), starts(torch.float32)
        by_flag, by_name = build(name, params, lr=LR, **flags), build(name, copies, lr=LR, backend=wanted)
        assert by_flag.backend == by_name.backend
        for step in range(2):
            write_gradients(step, params, copies)
            by_flag.step(loss=LOSS)
            by_name.step(loss=LOSS)
        assert_same_params(params, copies)
