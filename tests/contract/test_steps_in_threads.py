"""One optimizer in several threads: a step beside a step is an error in words, and nothing crashes."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch

import torchclip
from records import BACKENDS

pytestmark = pytest.mark.parametrize("backend", BACKENDS, indirect=True)


def together(count: int, work: Callable[[int], None]) -> list[BaseException]:
    """Runs ``work`` in that many threads, and returns what they raised."""
    raised: list[BaseException] = []
    barrier = threading.Barrier(count)

    def run(number: int) -> None:
        barrier.wait()
        try:
            work(number)
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised


def test_four_threads_step_one_optimizer(backend: str) -> None:
    size, steps = {"triton": (64, 3), "cuda": (5_000, 10)}.get(backend, (300_000, 25))
    params = [torch.nn.Parameter(torch.zeros(size)) for _ in range(3)]
    optimizer = torchclip.SGD(params, lr=1.0, momentum=0.5, clip=1e9, backend=backend)
    for param in params:
        param.grad = torch.ones_like(param)
    norm = float(sum(param.numel() for param in params)) ** 0.5
    taken = [0] * 4

    def work(number: int) -> None:
        for _ in range(steps):
            try:
                optimizer.step()
                taken[number] += 1
            except RuntimeError as error:
                assert "in a step already" in str(error)
            for param in params:  # which frees the memory that another thread may be reading
                param.grad = torch.ones_like(param)
            if sum(taken) > 0 and backend != "reference":
                optimizer.metrics()

    assert not together(4, work)
    assert sum(taken) > 0
    # As many steps as were taken, one after the other.
    value, buffer = 0.0, 0.0
    for _ in range(sum(taken)):
        buffer = 0.5 * buffer + 1.0
        value -= buffer
    for param in params:
        torch.testing.assert_close(param.detach(), torch.full_like(param, value), rtol=1e-5, atol=1e-5)
    optimizer.step()
    assert float(optimizer.grad_norm) == pytest.approx(norm)


def test_a_step_within_a_step(backend: str) -> None:
    """A closure runs before the step, and may take one; what the step itself calls may not, and ends in an error."""
    param = torch.nn.Parameter(torch.zeros(3))
    optimizer = torchclip.SGD([param], lr=1.0, momentum=0.5, backend=backend)
    param.grad = torch.ones_like(param)
    optimizer.step(lambda: optimizer.step())
    assert torch.equal(param.detach(), torch.full((3,), -2.5))

    if backend in ("cpu", "cuda"):  # where hyperparameters are read by calls of Python's
        before = param.detach().clone()
        optimizer.param_groups[0]["weight_decay"] = _Calling(optimizer)
        with pytest.raises((RuntimeError, TypeError)):
            optimizer.step()
        assert torch.equal(param.detach(), before)
        optimizer.param_groups[0]["weight_decay"] = 0.0
    optimizer.step()


class _Calling:
    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer

    def __float__(self) -> float:
        self.optimizer.step()
        return 0.0
