"""Streams, devices, and the same bits every time."""

from __future__ import annotations

import pytest
import torch

import torchclip
from gpu_runs import (
    BACKEND,
    COMBINATIONS,
    DEVICE,
    MANY_BLOCKS,
    assert_same,
    combined,
    loss_of,
    made,
    outcome,
    parameters,
    unfinished_work,
    write_gradients,
)
from torchclip.backends.choice import unavailable_reason

several_devices = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")


@pytest.mark.parametrize("combination", COMBINATIONS)
def test_steps_repeat_bitwise(combination: str) -> None:
    """Tensors of many blocks, whose order the device chooses."""
    ends = []
    for _ in range(2):
        params = parameters(MANY_BLOCKS)
        optimizer = combined(combination, params)
        for step in range(3):
            write_gradients(step, params)
            optimizer.step(loss=loss_of(step))
        ends.append(outcome(optimizer))
    assert_same(*ends)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["sgd", "adamw", "mix_clip", "ada_grad_norm_row", "grda"])
def test_steps_repeat_bitwise_in_every_dtype(name: str, dtype: torch.dtype) -> None:
    ends = []
    for _ in range(2):
        params = parameters(MANY_BLOCKS[1:], dtype)
        optimizer = made(name, params, clip=1.0)
        for step in range(3):
            write_gradients(step, params)
            optimizer.step(loss=loss_of(step))
        ends.append(outcome(optimizer))
    assert_same(*ends)


@pytest.mark.parametrize("name", ["sgd", "adamw", "mix_clip"])
def test_a_step_runs_in_the_current_stream(name: str) -> None:
    ends = []
    for stream in (torch.cuda.current_stream(), torch.cuda.Stream()):
        params = parameters()
        optimizer = made(name, params, clip=1.0)
        torch.cuda.synchronize()
        with torch.cuda.stream(stream):
            optimizer.step()
            optimizer.step()
        torch.cuda.synchronize()
        ends.append(outcome(optimizer))
    assert_same(*ends)


def test_a_step_waits_for_its_own_stream_and_for_no_other() -> None:
    params = parameters()
    optimizer = made("sgd", params, clip=1.0)
    optimizer.step()
    stream, stepped = torch.cuda.Stream(), torch.cuda.Event()
    start = params[0].detach().clone()
    with unfinished_work():  # in the stream that is current here
        with torch.cuda.stream(stream):
            optimizer.step()
            stepped.record()
        stepped.synchronize()
    assert not torch.equal(params[0].detach(), start)
    stopped = params[0].detach().clone()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(400_000_000)
        optimizer.step()
    seen = params[0].detach().clone()  # in the other stream, long before the step
    torch.cuda.synchronize()
    assert torch.equal(seen, stopped)
    assert not torch.equal(params[0].detach(), stopped)


@several_devices
@pytest.mark.parametrize("name", ["sgd", "adamw", "mix_clip", "ada_grad_norm"])
def test_norms_are_taken_over_all_devices(name: str) -> None:
    params, copies = parameters(), parameters()
    if BACKEND == "triton":
        pytest.skip("the Triton backend updates the parameters of one device")
    for position in (1, 3):
        moved = torch.nn.Parameter(params[position].detach().to("cuda:1"))
        moved.grad = params[position].grad.to("cuda:1")
        params[position] = moved
    spread, single = made(name, params, clip=1.0), made(name, copies, clip=1.0)
    for step in range(4):
        write_gradients(step, params, copies)
        spread.step(loss=1.0)
        single.step(loss=1.0)
    torch.testing.assert_close(spread.grad_norm, single.grad_norm)
    for ours, theirs in zip(params, copies):
        torch.testing.assert_close(ours.to(DEVICE), theirs.to(DEVICE))


@several_devices
def test_a_device_that_is_not_the_current_one() -> None:
    params, copies = parameters(device="cuda:1"), parameters()
    ours, theirs = made("adamw", params, clip=1.0), made("adamw", copies, clip=1.0)
    for _ in range(2):
        ours.step()
        theirs.step()
    assert torch.cuda.current_device() == 0
    for left, right in zip(params, copies):
        assert torch.equal(left.cpu(), right.cpu())


def test_cpu_parameters_are_refused() -> None:
    params = [torch.nn.Parameter(torch.ones(3))]
    with pytest.raises(
        RuntimeError, match=f"parameter 0 of param group 0, .* is on cpu, which the {BACKEND} backend does not reach"
    ):
        torchclip.SGD(params, backend=BACKEND)
    with pytest.raises(RuntimeError, match="which the cpu backend does not reach"):
        torchclip.SGD(parameters(), backend="cpu")
    assert torchclip.SGD(parameters()).backend == ("cuda" if unavailable_reason("cuda") is None else "triton")


def test_a_loss_on_another_device_is_refused() -> None:
    optimizer = made("ada_loss", parameters())
    with pytest.raises((ValueError, TypeError), match="cpu"):
        optimizer.step(loss=torch.tensor(1.0))


def test_a_model_that_moves_to_the_gpu_takes_its_optimizer_along() -> None:
    model = torch.nn.Linear(5, 3)
    optimizer = torchclip.SGD(model.parameters(), lr=0.1, clip=1.0)
    assert optimizer.backend in ("cpu", "reference")
    model.to(DEVICE)
    model(torch.ones(2, 5, device=DEVICE)).sum().backward()
    optimizer.step()
    assert optimizer.backend in ("cuda", "triton")
    assert optimizer.grad_norm.is_cuda


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_many_rows_are_made_of_one_step(name: str) -> None:
    """Coefficients for each tensor, by many threads; the number of the step is written by one of them."""
    options = {"extensions": (torchclip.GradientNoise(eta=0.1),), "step_size": torchclip.AdaLossStep()}
    params, copies = parameters(((33,),) * 300), parameters(((33,),) * 300)
    ours, theirs = made(name, params, **options), made(name, copies, **options, backend="reference")
    for step in range(10):
        write_gradients(step, params, copies)
        loss = torch.full((), loss_of(step), device=DEVICE)
        ours.step(loss=loss)
        theirs.step(loss=loss)
    for left, right in zip(params, copies):
        torch.testing.assert_close(left, right)
