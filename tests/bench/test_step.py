"""Rows of `python -m bench step`: contenders agree, what differs is found; CUDA's on the CPU, on tiny shapes."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from torch.autograd import DeviceType

from bench import __main__ as command
from bench import measure, measurement, row
from bench.algorithm import OURS
from bench.bandwidth import BandwidthProbe
from bench.cases import ALGORITHMS, CUDA_ALGORITHMS, RULES, SCALED
from bench.kernels import MODIFIERS
from bench.kernels import RULES as KERNEL_RULES
from bench.report import RECORDS
from bench.row import Launches
from bench.shapes import SHAPE_SETS, element_count
from tiny_bench import SETTINGS, measured, shrink


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> BandwidthProbe:
    return shrink(monkeypatch)


# Triton's kernels are interpreted here, and two of the rows stand for all.
CUDA_ROWS = [name for name in CUDA_ALGORITHMS if not name.endswith("_triton")] + ["clip_adamw_triton", "grda_triton"]


@pytest.mark.parametrize("name", [*ALGORITHMS, *(f"cuda-{name}" for name in CUDA_ROWS)])
def test_contenders_agree(name: str, probe: BandwidthProbe) -> None:
    on_cuda, name = name.startswith("cuda-"), name.removeprefix("cuda-")
    # In a cold row no step leads in to the one that counts.
    algorithms = CUDA_ALGORITHMS if on_cuda else ALGORITHMS
    entry, failures = measured(algorithms[name], probe, cold=name.endswith("_triton"))
    assert not failures
    assert next(iter(entry["contenders"])) == OURS
    assert len(entry["samples_seconds"][OURS]) == entry["rounds"] == 4
    assert (SCALED in entry["contenders"]) == (on_cuda and name in ("clip_sgd", "clip_adamw"))


@pytest.mark.parametrize("name", ["clip_sgd", "sgd_gradient_noise", "sgd_lookahead"])
def test_a_wrong_contender_is_found(name: str, probe: BandwidthProbe) -> None:
    wrong = {**ALGORITHMS[name].contenders, OURS: ALGORITHMS["sgd"].contenders[OURS]}
    _, failures = measured(dataclasses.replace(ALGORITHMS[name], contenders=wrong), probe)
    assert any(failure.startswith("ours is") for failure in failures)


def test_a_step_that_writes_nothing_is_found(probe: BandwidthProbe) -> None:
    still = dict.fromkeys(ALGORITHMS["sgd"].contenders, lambda parameters, norm: lambda: None)
    _, (failure,) = measured(dataclasses.replace(ALGORITHMS["sgd"], contenders=still), probe)
    assert "parameters moved only 0: agreement" in failure


def test_sets_in_the_cache_have_a_swept_form(probe: BandwidthProbe, monkeypatch: pytest.MonkeyPatch) -> None:
    """In which every step follows a write: here of a known number of steps."""
    writes: list[None] = []
    monkeypatch.setattr(probe, "write", lambda: writes.append(None))
    entry, _ = measured(ALGORITHMS["grda"], probe)
    assert len(writes) == 2 * (SETTINGS.warmup + SETTINGS.max_rounds)
    assert entry["in_cache"] and entry["contenders"]["authors"]["swept_speedup_of_ours"]["p50"] > 0
    assert len(entry["samples_swept_seconds"][OURS]) == 4
    assert "swept" in RECORDS["step"](entry) and "authors, swept" in RECORDS["step"](entry)
    entry, _ = measured(ALGORITHMS["grda"], probe, cold=True)
    assert not entry["in_cache"] and "samples_swept_seconds" not in entry


def test_launches_are_kernels_and_copies_of_the_last_step(monkeypatch: pytest.MonkeyPatch) -> None:
    class Profiler:
        def __init__(self, activities: object, acc_events: bool) -> None: ...

        def __enter__(self) -> Profiler:
            return self

        def __exit__(self, *raised: object) -> None: ...

        def events(self) -> list[SimpleNamespace]:
            names = ["norm_kernel", "Memcpy HtoD (Pageable -> Device)", "update_kernel", "Memset (Device)"]
            on_host = SimpleNamespace(name="cudaLaunchKernel", device_type=DeviceType.CPU)
            return [on_host, *(SimpleNamespace(name=name, device_type=DeviceType.CUDA) for name in names)]

    monkeypatch.setattr(row, "profile", Profiler)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    steps: list[int] = []
    assert row.count_launches(lambda: steps.append(1)) == Launches(2, 2)
    assert len(steps) == 2


def test_the_device_is_timed_by_its_own_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            calls.append("record")

        def synchronize(self) -> None:
            calls.append("wait")

        def elapsed_time(self, later: Event) -> float:
            return 3.0

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: calls.append("idle"))
    elapsed = measure.clock_of(torch.device("cuda"))(lambda: calls.append("run"))
    assert calls == ["idle", "record", "run", "record", "wait"]
    assert elapsed.device == pytest.approx(3e-3)
    assert 0 < elapsed.host <= elapsed.wall


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--device", "cuda"], "would time the reference path: backend='cuda' is not available: "),
        (["--algorithms", "clip_sgd_triton"], "--device cpu has no row clip_sgd_triton"),
        (["--beside", "graphs"], "--beside graphs needs --device cuda"),
        (["--seconds", "0"], "expected a positive number, got 0"),
        (["--threads", "1", "2"], "step runs with one number of threads"),
        (["--precision", "--sets", "host", "small"], "--precision measures one set, got --sets host small"),
        (["--precision", "--sharded"], "--sharded and --precision are two measurements"),
    ],
)
def test_what_the_command_refuses(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["step", *arguments])
    assert words in capsys.readouterr().err


def test_what_does_not_fit_is_a_failure(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(measurement, "available_bytes", lambda device: 1)
    assert command.main(["scaling", "--sets", "tensors-1", "--threads", "1", "--seconds", "0.001"]) == 1
    assert "tensors-1 clip_sgd 1  FAILED: it needs 0.0 GB of memory" in capsys.readouterr().out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_state_that_is_counted_is_there(dtype: torch.dtype) -> None:
    """As each optimizer itself has made it."""
    for rule in (*RULES.values(), *KERNEL_RULES.values()):
        parameter = torch.nn.Parameter(torch.ones(8, 2, dtype=dtype))
        parameter.grad = torch.ones_like(parameter)
        optimizer = rule.cls([parameter], **rule.of(1.0))
        optimizer.step(**({"loss": 2.0} if rule.title == "AdaLoss" else {}))
        state = sum(
            value.element_size()
            for value in optimizer.state[parameter].values()
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape
        )
        moved = (3 + rule.own_norm - rule.accumulates) * dtype.itemsize + (2 + rule.own_norm) * state
        assert rule.bytes_per_element(MODIFIERS["plain"], dtype) == moved, rule.title


def test_named_models_have_their_parameters() -> None:
    found = {name: (len(make()), element_count(make())) for name, make in SHAPE_SETS.items()}
    assert found == {
        "host": (1000, 1000),
        "small": (1000, 512_000),
        "medium": (300, 6_000_000),
        "large": (50, 50_000_000),
        "resnet50": (161, 25_557_032),
        "gpt2": (148, 124_439_808),
        "thousands": (2000, 1_024_000),
        "gpt2_xl": (580, 1_557_611_200),
        "vit_s16": (152, 22_050_664),
        "llama_1b": (146, 1_235_814_400),
    }
