"""State under a precision policy between steps: what stays wide, and what steps that are not taken leave behind."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
import torch

import torchclip
from torchclip import Blockwise8bit, ClipByGlobalNorm, Precision, SplitMaster

BLOCKS = Blockwise8bit(min_elements=0)

THRESHOLDS: dict[str, tuple[Precision, torch.dtype]] = {
    "largest_integer": (Blockwise8bit(min_elements=sys.maxsize), torch.float32),
    "more_bytes_than_there_are": (Blockwise8bit(min_elements=2**62), torch.float32),
    "larger_than_an_integer": (Blockwise8bit(min_elements=10**30), torch.float32),
    "within_another": (SplitMaster(state=Blockwise8bit(min_elements=10**30)), torch.float32),
    "rows": (Blockwise8bit(min_elements=0, embedding_rows=2**64), torch.uint8),
}


@pytest.mark.parametrize("policy, held", THRESHOLDS.values(), ids=THRESHOLDS)
def test_thresholds_beyond_every_tensor(policy: Precision, held: torch.dtype, backend: str) -> None:
    weight = torch.nn.Parameter(torch.ones(20, 30, dtype=torch.bfloat16))
    optimizer = torchclip.AdamW([weight], precision=policy, backend=backend)
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    assert optimizer.state[weight]["exp_avg"].dtype is held


def moments_of(optimizer: torchclip.FusedOptimizer) -> list[torch.Tensor]:
    return [held["momentum_buffer"] for held in optimizer.float32_state_dict()["state"].values()]


def with_codes_in_another_order(backend: str, **options: object) -> tuple[torchclip.SGD, list[torch.nn.Parameter]]:
    """Two parameters after a step, which alone is not damped; the first lies in another order since."""
    params = [torch.nn.Parameter(torch.randn(4, 8, 5, 6)) for _ in range(2)]
    optimizer = torchclip.SGD(params, lr=0.1, momentum=0.9, dampening=0.5, precision=BLOCKS, backend=backend, **options)
    for param in params:
        param.grad = torch.randn_like(param)
    optimizer.step()
    params[0].data = params[0].data.contiguous(memory_format=torch.channels_last)
    params[0].grad = torch.randn_like(params[0])
    return optimizer, params


def test_codes_follow_their_parameter(backend: str) -> None:
    """On every backend into the same blocks, from which the step is taken: no first one."""
    both = []
    for each in (backend, "reference"):
        torch.manual_seed(1)
        optimizer, params = with_codes_in_another_order(each)
        optimizer.step()
        assert optimizer.state[params[0]]["momentum_buffer"].stride() == params[0].stride()
        both.append([*params, *moments_of(optimizer)])
    for ours, theirs in zip(*both):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_a_step_that_raises_leaves_codes_as_they_are(backend: str) -> None:
    optimizer, params = with_codes_in_another_order(backend, clip=ClipByGlobalNorm(1.0, nonfinite="error"))
    before, held = moments_of(optimizer), dict(optimizer.state[params[0]])
    good = params[1].grad
    without_memory = torch.ones_like(params[1])
    without_memory.untyped_storage().resize_(0)
    for wrong in (torch.full_like(params[1], torch.inf), torch.ones_like(params[1]).to_sparse(), without_memory):
        if backend == "reference" and wrong is without_memory:
            continue  # torch itself would read it
        params[1].grad = wrong
        with pytest.raises(RuntimeError, match="not finite|sparse gradient|no memory"):
            optimizer.step()
        assert all(map(torch.equal, moments_of(optimizer), before))
        assert all(optimizer.state[params[0]][name] is value for name, value in held.items())
    params[1].grad = good
    optimizer.step()


def test_sizes_of_one_are_in_no_order(backend: str) -> None:
    """Codes of a convolution over single points stay as they are when it becomes channels_last."""
    weight = torch.nn.Parameter(torch.randn(64, 32, 1, 1))
    optimizer = torchclip.AdamW([weight], precision=BLOCKS, backend=backend)
    weight.grad = torch.randn_like(weight)
    optimizer.step()
    codes, strides = optimizer.state[weight]["exp_avg"], weight.stride()
    weight.data = weight.data.to(memory_format=torch.channels_last)
    assert weight.stride() != strides
    weight.grad = torch.randn_like(weight)
    optimizer.step()
    assert optimizer.state[weight]["exp_avg"] is codes


ASSIGNED: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], str]] = {
    "negated": (torch._neg_view, "is lazily negated"),
    "in_a_row": (lambda absmax: absmax.reshape(1, -1), r"is torch.float32 of shape \(1, 3\) on cpu, and 'exp_avg' in"),
}


@pytest.mark.parametrize("change, words", ASSIGNED.values(), ids=ASSIGNED)
def test_an_absmax_that_is_assigned(change: Callable[[torch.Tensor], torch.Tensor], words: str, backend: str) -> None:
    """It is refused by its name before anything is written."""
    params = [torch.nn.Parameter(torch.ones(20, 30)) for _ in range(2)]
    optimizer = torchclip.AdamW(params, precision=BLOCKS, backend=backend)
    for param in params:
        param.grad = torch.ones_like(param)
    optimizer.step()
    held, before = optimizer.state[params[1]], params[0].detach().clone()
    kept, held["exp_avg_absmax"] = held["exp_avg_absmax"], change(held["exp_avg_absmax"])
    with pytest.raises(RuntimeError, match=f"^state 'exp_avg_absmax' of parameter 1 .* {words}"):
        optimizer.step()
    assert torch.equal(params[0], before)
    held["exp_avg_absmax"] = kept
    optimizer.step()


def test_a_skipped_first_step_saves_no_absmax(backend: str) -> None:
    """That of a buffer which is left out, since the next step is a first one."""
    weight = torch.nn.Parameter(torch.ones(20, 30))
    clip = ClipByGlobalNorm(1e9, nonfinite="skip")
    optimizer = torchclip.SGD([weight], momentum=0.9, dampening=0.5, precision=BLOCKS, clip=clip, backend=backend)
    weight.grad = torch.full_like(weight, torch.inf)
    optimizer.step()
    assert optimizer.state_dict()["state"] == {}
