"""A step whose sums other processes have parts of, on the emulator: torch's fake process group stands for the others,
which adds nothing up, so that a step is that of one process; ``tests/distributed`` runs several."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist

import torchclip
from builders import LOSS, OPTIMIZERS
from cuda_pairs import assert_close, counted
from emulated import Emulator
from torchclip.distributed import agreed, device_flag
from torchclip.distributed.cells import Addition

SHAPES = ((300, 7), (5,), (), (0, 3), (1000,), (2, 3))
STEPS = 3


@pytest.fixture
def others() -> Iterator[None]:
    """Two processes, of which this is one."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    yield
    dist.destroy_process_group()


def parameters() -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(1)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def made(name: str, params: list[torch.nn.Parameter], **options: Any) -> Any:
    cls, given = OPTIMIZERS[name]
    groups = [{"params": params[:3]}, {"params": params[3:]}]
    return cls(groups, **{**given, **options, "backend": "cuda"})


def values(params: list[torch.nn.Parameter]) -> dict[str, torch.Tensor]:
    return {str(index): param.detach().clone() for index, param in enumerate(params)}


def give(params: list[torch.nn.Parameter], step: int) -> None:
    generator = torch.Generator().manual_seed(100 + step)
    for param in params:
        param.grad = torch.randn(param.shape, generator=generator)


POLICIES: dict[str, dict[str, Any]] = {
    "global": {"clip": 0.5},
    "group": {"clip": torchclip.ClipByGlobalNorm(0.5, scope="group", nonfinite="skip")},
    "tensor": {"clip": torchclip.ClipByTensorNorm(0.5)},
    "row": {"clip": torchclip.AdaptiveGradientClip(0.1)},
    "spikes": {"skip": torchclip.SkipSpikes(window=4, sigma=0.1)},
    "polyak": {"clip": 0.5, "step_size": torchclip.PolyakStep(growth=2.0)},
}
CASES = [("adamw", options) for options in POLICIES.values()]
CASES += [("mix_clip", {}), ("mix_clip", {"clip": 0.5}), ("ada_grad_norm", {"scope": "row"})]
CASES += [("lin_breg", {"target_sparsity": 0.05}), ("sgd", {"step_size": torchclip.AdaLossStep()})]
IDS = [f"{name}-{'-'.join(options) or 'plain'}-{index}" for index, (name, options) in enumerate(CASES)]


@pytest.mark.usefixtures("others")
@pytest.mark.parametrize("name, options", CASES, ids=IDS)
def test_step_is_that_of_one_process(name: str, options: dict[str, Any], emulator: Emulator) -> None:
    alone, together = parameters(), parameters()
    mine = dist.new_group([0])
    single = made(name, alone, norm_group=mine, **options)
    shared = made(name, together, norm_group=dist.group.WORLD, loss_group=mine, **options)
    assert shared.backend == "cuda"
    for step in range(STEPS):
        for params, optimizer in ((alone, single), (together, shared)):
            give(params, step)
            optimizer.step(loss=LOSS)
    assert_close(values(together), values(alone), 3e-7)
    assert shared.metrics().keys() == single.metrics().keys()
    for key, value in single.metrics().items():
        torch.testing.assert_close(shared.metrics()[key], value, rtol=1e-12, atol=0)


@pytest.mark.usefixtures("others")
def test_launches_and_sums_of_a_step(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the norm pass and the update: what fills the numbers, one sum over processes, and what reads them."""
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(Addition, "__call__", lambda self, numbers, counters: seen.append(numbers))
    params = parameters()
    optimizer = made("adamw", params, clip=0.5, norm_group=dist.group.WORLD)
    for step in range(2):
        give(params, step)
        optimizer.step()
        optimizer.clip = 0.25  # of which a number goes out
    give(params, 2)
    optimizer.step()
    seen.clear()
    assert counted(emulator, optimizer.step) == 4
    (numbers,) = seen
    square = sum(float(param.grad.double().square().sum()) for param in params)
    assert numbers.dtype == torch.float64 and numbers.shape == (10,)
    torch.testing.assert_close(numbers[0].item(), square, rtol=1e-6, atol=0)
    number = optimizer._processes.known.agreed.numbers[1]
    assert number > 0
    assert numbers[2:].tolist() == [len(SHAPES), 0, 0, 1, 0, 1, number, number**2]


@pytest.mark.usefixtures("others")
def test_what_others_have_counts(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three times as many squares as here, as if two processes more had the same gradients; and the last numbers."""
    add: dict[int, float] = {}

    def added(self: Addition, numbers: torch.Tensor, counters: torch.Tensor) -> None:
        numbers[:3].mul_(4)
        for place, value in add.items():
            numbers[place] += value

    monkeypatch.setattr(Addition, "__call__", added)
    params = parameters()
    clip = torchclip.ClipByTensorNorm(1e9, nonfinite="skip")
    optimizer = made("sgd", params, clip=0.5, norm_group=dist.group.WORLD)
    give(params, 0)
    optimizer.step()
    whole = torch.cat([param.grad.flatten() for param in params]).double().norm()
    torch.testing.assert_close(optimizer.grad_norm.double(), 2 * whole, rtol=1e-6, atol=0)
    optimizer = made("sgd", params, clip=clip, norm_group=dist.group.WORLD)
    for place, skips in ((None, False), (-7, True), (-6, True)):
        add.clear()
        if place is not None:
            add[place] = 1.0
        before = [param.detach().clone() for param in params]
        optimizer.step()
        assert optimizer.step_was_skipped is skips
        assert all(map(torch.equal, before, params)) is skips
    add.clear()
    for param in params:
        param.grad = None
    fraction = optimizer.metrics()["skipped_fraction"]
    optimizer.step()
    assert not optimizer.step_was_skipped  # nobody has a gradient: it is no step
    assert torch.equal(optimizer.metrics()["skipped_fraction"], fraction)


@pytest.mark.usefixtures("others")
def test_graph_that_the_group_cannot_be_in(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    params = parameters()
    optimizer = made("adamw", params, clip=0.5, norm_group=dist.group.WORLD)
    give(params, 0)
    optimizer.step()
    give(params, 1)
    emulator.begin_capture()
    with pytest.raises(RuntimeError, match='cannot send within a graph .* make it with backend="nccl"'):
        optimizer.step()
    emulator.end_capture()
    monkeypatch.setattr(Addition, "is_capturable", True)
    beside = parameters()
    expected = made("adamw", beside, clip=0.5, norm_group=dist.new_group([0]))
    give(beside, 0)
    expected.step()
    optimizer.step()
    give(beside, 1)
    expected.step()
    emulator.begin_capture()
    optimizer.step()
    emulator.end_capture()
    for step in (2, 3):
        for own, other in zip(params, beside):
            own.grad.copy_(torch.full_like(own, float(step)))
            other.grad = own.grad.clone()
        assert emulator.replay() == 0
        expected.step()
        assert_close(values(params), values(beside), 3e-7)


@pytest.mark.usefixtures("others")
def test_replays_are_left_out(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the processes have disagreed; and the first step outside of the graph says so, however few there were."""
    monkeypatch.setattr(Addition, "is_capturable", True)
    monkeypatch.setattr(agreed, "disagreement", lambda *of: None)  # which asks all, and nobody answers here
    params = parameters()
    optimizer = made("adamw", params, clip=0.5, norm_group=dist.group.WORLD)
    for step in range(2):
        give(params, step)
        optimizer.step()
    with monkeypatch.context() as patch:
        patch.setattr(device_flag, "_is_capturing", lambda tensor: True)
        emulator.begin_capture()
        optimizer.step()
        emulator.end_capture()
    before = values(params)
    assert emulator.replay() == 0
    assert not all(map(torch.equal, before.values(), values(params).values()))
    optimizer._processes.known.agreed._flag._counters[-1] = 1
    before = values(params)
    assert emulator.replay() == 0
    assert optimizer.step_was_skipped
    assert all(map(torch.equal, before.values(), values(params).values()))
    with pytest.raises(RuntimeError, match="disagree in a step before this one"):
        optimizer.step()
    optimizer.step()
    assert not optimizer.step_was_skipped
    assert not all(map(torch.equal, before.values(), values(params).values()))


@pytest.mark.usefixtures("others")
def test_sum_that_fails_writes_nothing(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even the number of the step, where the second of two sums does."""
    params = parameters()
    optimizer = made("mix_clip", params, clip=0.5, extensions=(torchclip.Lookahead(k=2),), norm_group=dist.group.WORLD)
    for step in range(2):
        give(params, step)
        optimizer.step()
    before = values(params)
    step_before = optimizer.param_groups[0]["shared"]["step"].clone()
    calls: list[None] = []

    def failing(self: Addition, numbers: torch.Tensor, counters: torch.Tensor) -> None:
        calls.append(None)
        if len(calls) == 2:
            raise RuntimeError("a process has left")

    monkeypatch.setattr(Addition, "__call__", failing)
    with pytest.raises(RuntimeError, match="a process has left"):
        optimizer.step()
    assert_close(values(params), before, 0.0)
    assert torch.equal(optimizer.param_groups[0]["shared"]["step"], step_before)


def test_devices_and_processes_together(emulator: Emulator) -> None:
    """Refused in words."""
    from torchclip.distributed import checks

    parts = [torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2, device="meta"))]
    optimizer = made("sgd", parts[:1], clip=1.0)
    groups = [{**optimizer.param_groups[0], "params": parts, "norm_group": (0, 1)}]
    about = optimizer._modifiers, optimizer.spec, optimizer.clips_by, None
    assert "on several devices" in str(checks.compiled_reason("cuda", groups, *about))
