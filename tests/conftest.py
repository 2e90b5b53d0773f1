"""Fixtures that every test file shares."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import emulated
from records import BACKENDS
from torchclip.backend import unavailable_reason


@pytest.fixture(scope="session", autouse=True)
def _build_ahead(request: pytest.FixtureRequest) -> Iterator[None]:
    """Where this session comes to the tests that need every build of the emulated kernels, they are made meanwhile."""
    needs_all = any(item.path.name == "test_cuda_sanitized.py" for item in request.session.items)
    if not needs_all or emulated.REQUESTED or emulated.obstacle() is not None:
        yield
        return
    emulated.load()
    building = emulated.build_ahead()
    yield
    building.wait()


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each backend in turn; one that cannot run here is skipped with its own words.

    Without a GPU the CUDA backend is that of the emulated module, which serves tensors on the CPU; with one, too, for
    tests that make their tensors on the CPU."""
    on_gpu = emulated.ON_GPU and request.module.__name__ == "test_conformance"
    if request.param == "cuda" and not on_gpu:
        reason = emulated.obstacle()
        if reason is None:
            with emulated.emulated():
                yield request.param
            return
    else:
        reason = unavailable_reason(request.param)
    if reason is not None:
        pytest.skip(f"backend {request.param!r}: {reason}")
    yield request.param


@pytest.fixture
def emulator() -> Iterator[emulated.Emulator]:
    """The controls of the emulated module, on which backend "cuda" runs meanwhile."""
    reason = emulated.obstacle()
    if reason is not None:
        pytest.skip(reason)
    with emulated.emulated() as controls:
        yield controls


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    """Every test draws the same numbers whatever ran before it, and hands the thread count back."""
    threads = torch.get_num_threads()
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)
