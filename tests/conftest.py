"""Fixtures that every test file shares."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # which Triton looks at when it is imported

import emulated
import interpreted
import tiers
from records import BACKENDS
from torchclip.backends.choice import unavailable_reason

# Most tensors here are tiny: several threads would wait for one another, which takes ten times as long. A test that
# wants more asks for them.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that tests start


@pytest.fixture(scope="session", autouse=True)
def _build_ahead(request: pytest.FixtureRequest) -> Iterator[None]:
    """Where this session comes to the tests that need every build of the emulated kernels, they are made meanwhile."""
    needs_all = any(item.path.name == "test_cuda_sanitized.py" for item in request.session.items)
    if not needs_all or emulated.REQUESTED or emulated.unbuilt_reason() is not None:
        yield
        return
    emulated.load()
    building = emulated.build_ahead()
    yield
    # Tests that need a build wait for it; one that none has waited for is not wanted.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(building.pid, signal.SIGTERM)
    building.wait()


if unavailable_reason("triton") is None:
    interpreted.hasten()

INTERPRETED = {
    "test_between_steps",
    "test_conformance",
    "test_group_clip",
    "test_group_clip_changes",
    "test_group_keys",
    "test_modifiers",
    "test_target_sparsity",
    "test_torch_faults",
}
"""The modules whose tests of each backend run Triton's interpreter too, in which a step takes a tenth of a second.
TORCHCLIP_INTERPRET_ALL=1 in the environment lets all of them."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Of ``--dist loadgroup``; None leaves the choice to pytest-xdist."""
    if config.getoption("dist") != "loadgroup":
        return None
    from scheduling import Chunks  # which needs pytest-xdist

    return Chunks(config, log)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection() -> Iterator[object]:
    """What is collected stays: looking for garbage meanwhile takes an eighth of the time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the cases that other cases stand for, before ``-m`` selects."""
    for item in tiers.thorough_of(items):
        item.add_marker(pytest.mark.thorough)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Gives a test that takes a backend each of them in turn."""
    if "backend" not in metafunc.fixturenames or any(
        "backend" in marker.args[0] for marker in metafunc.definition.iter_markers("parametrize")
    ):
        return
    slow = not emulated.ON_GPU and metafunc.definition.path.stem not in INTERPRETED
    left_out = {"triton"} if slow and os.environ.get("TORCHCLIP_INTERPRET_ALL") != "1" else set()
    metafunc.parametrize("backend", [name for name in BACKENDS if name not in left_out], indirect=True)


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each backend in turn; one that cannot run here is skipped with its own words.

    Without a GPU the CUDA backend is that of the emulated module, which serves tensors on the CPU; with one, too, for
    tests that make their tensors on the CPU. The Triton backend is interpreted without a GPU, and serves no tensor on
    the CPU with one."""
    on_gpu = emulated.ON_GPU and request.path.stem == "test_conformance"
    if request.param == "cuda" and not on_gpu:
        reason = emulated.unbuilt_reason()
        if reason is None:
            with emulated.emulated():
                yield request.param
            return
    elif request.param == "triton" and emulated.ON_GPU and not on_gpu:
        reason = "it does not reach the CPU's tensors here"
    else:
        reason = unavailable_reason(request.param)
    if reason is not None:
        pytest.skip(f"backend {request.param!r}: {reason}")
    yield request.param


@pytest.fixture
def emulator() -> Iterator[emulated.Emulator]:
    """The controls of the emulated module, on which backend "cuda" runs meanwhile."""
    reason = emulated.unbuilt_reason()
    if reason is not None:
        pytest.skip(reason)
    with emulated.emulated() as controls:
        yield controls


seed = torch.manual_seed if torch.cuda.is_available() else torch.default_generator.manual_seed
"""Without a GPU torch.manual_seed keeps three tracebacks, in case a device is used later, which takes milliseconds."""


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    """Every test draws the same numbers whatever ran before it, and hands the thread count back."""
    threads = torch.get_num_threads()
    seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that are written from here on."""
    from matplotlib.figure import Figure  # which few tests need

    written: list[Figure] = []
    save = Figure.savefig

    def keep(self: Figure, *arguments: Any, **options: Any) -> None:
        written.append(self)
        save(self, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    return written


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small set of images for recipes."""
    from recipe_runs import write_images  # which imports the recipes

    folder = tmp_path_factory.mktemp("data")
    write_images(folder)
    return folder


@pytest.fixture
def tiny_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recipes on images train a model of few parameters."""
    from recipe_runs import tiny

    monkeypatch.setattr("recipes.image.make_model", tiny)


@pytest.fixture
def forget_graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """For a test that compiles: the graphs of a line of code count towards one limit, whichever test they are of.

    A graph of the compiler "eager" that raises leaves autograd as it was within. How long guards take is not measured:
    torch empties the caches for that, at every graph."""
    monkeypatch.setattr("torch._dynamo.guards.profile_guard_manager", lambda *_: 0.0)
    torch._dynamo.reset()
    with torch.enable_grad():
        yield
    torch._dynamo.reset()


@pytest.fixture(scope="module", autouse=True)
def _small_heap() -> None:
    """What stays to the end, a million objects, is not looked through again at every full collection."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    gc.unfreeze()
