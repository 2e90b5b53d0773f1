"""The benchmark of CUDA devices, as far as a machine without one shows it: the same code on the CPU, on tiny shapes."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.autograd import DeviceType

from bench import __main__ as command
from bench import bandwidth, blocks, clock, gpu, launches, step
from bench.algorithm import OURS
from bench.commands.step import _run as run_rows
from bench.cuda_cases import CUDA_ALGORITHMS, SCALED
from bench.environment import describe_environment
from bench.floors import CUDA_FLOORS, Quantity, check_floors
from bench.launches import Launches
from bench.measure import interleave
from bench.row_json import KEYS, row_as_json
from bench.shapes import CUDA_SETS
from bench.store import Header, Results
from bench.text import format_row
from bench.triton_cases import TRITON_ALGORITHMS
from tiny_bench import CPU, SETTINGS, as_on_cuda, shrink
from torchclip.backends.choice import unavailable_reason


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> bandwidth.BandwidthProbe:
    return shrink(monkeypatch)


def measured(set_name: str, algorithm: str, probe: bandwidth.BandwidthProbe) -> step.Row:
    return step.measure_row(set_name, CUDA_ALGORITHMS[algorithm], probe, SETTINGS, lambda fraction: None)


@pytest.mark.parametrize("algorithm", CUDA_ALGORITHMS)
def test_contenders_agree(algorithm: str, probe: bandwidth.BandwidthProbe) -> None:
    # Triton's kernels are interpreted here, and in a cold row no step leads in to the one that counts.
    settings = dataclasses.replace(SETTINGS, cold=algorithm in TRITON_ALGORITHMS)
    row = step.measure_row("thousands", CUDA_ALGORITHMS[algorithm], probe, settings, lambda fraction: None)
    assert not row.failures
    assert next(iter(row.algorithm.contenders)) == OURS
    assert row.rounds == 4
    assert (SCALED in row.algorithm.contenders) == (algorithm in ("clip_sgd", "clip_adamw"))


def test_a_row_is_reported_with_launches_and_host_time(probe: bandwidth.BandwidthProbe) -> None:
    row = as_on_cuda(measured("medium", "clip_sgd", probe))
    text = format_row(row)
    assert "host us" in text
    assert text.count("2 + 0") == len(row.algorithm.contenders)
    written = row_as_json(row)
    assert written["contenders"][OURS]["launches"] == {"kernels": 2, "copies": 0}
    assert len(written["samples_host_seconds"][OURS]) == len(written["samples_wall_seconds"][OURS]) == 4


@pytest.mark.thorough
def test_every_floor_is_checked(probe: bandwidth.BandwidthProbe) -> None:
    wanted = {(floor.set_name, floor.algorithm) for floor in CUDA_FLOORS}
    rows = [as_on_cuda(measured(set_name, algorithm, probe)) for set_name, algorithm in sorted(wanted)]
    lines, _ = check_floors(rows, CUDA_FLOORS)
    assert len(lines) == len(CUDA_FLOORS)
    assert all(line.startswith(("pass", "MISS")) for line in lines)
    assert {set_name for set_name, _ in wanted} <= set(CUDA_SETS)


@pytest.mark.parametrize(("kernels", "holds"), [(0, False), (1, True), (2, True), (3, False)])
def test_launches_have_a_floor_and_none_seen_is_no_count(
    probe: bandwidth.BandwidthProbe, kernels: int, holds: bool
) -> None:
    floor = next(floor for floor in CUDA_FLOORS if floor.quantity is Quantity.LAUNCHES)
    row = as_on_cuda(measured(floor.set_name, floor.algorithm, probe), kernels)
    assert floor.holds(floor.value(row)) == holds


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

    monkeypatch.setattr(launches, "profile", Profiler)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    steps: list[int] = []
    assert launches.count_launches(lambda: steps.append(1), torch.device("cuda")) == Launches(2, 2)
    assert launches.count_launches(lambda: steps.append(1), CPU) is None
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
    elapsed = clock.clock_of(torch.device("cuda")).time(lambda: calls.append("run"))
    assert calls == ["idle", "record", "run", "record", "wait"]
    assert elapsed.device == pytest.approx(3e-3)
    assert 0 < elapsed.host <= elapsed.wall


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["step", "--device", "cuda"])
    assert "would time the reference path, since backend='cuda' is not available: " in capsys.readouterr().err


def test_a_row_that_cuda_does_not_have_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["step", "--device", "cuda", "--algorithms", "clip_sgd", "nadam"])
    assert "--device cuda has no row nadam" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command.main(["step", "--algorithms", "clip_sgd_triton"])
    assert "--device cpu has no row clip_sgd_triton" in capsys.readouterr().err


def test_a_row_that_fails_stops_no_other(
    probe: bandwidth.BandwidthProbe, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def build(*arguments: object) -> None:
        raise RuntimeError("launch failed")

    broken = dataclasses.replace(CUDA_ALGORITHMS["grda"], contenders={OURS: build, "authors": build})
    results = Results(Header("step", describe_environment(CPU), "commit", {}), keys=KEYS)
    rows = run_rows([("medium", broken), ("medium", CUDA_ALGORITHMS["sgd"])], SETTINGS, probe, results)
    assert [row.algorithm.name for row in rows] == ["sgd"]
    assert "medium: gRDA FAILED" in capsys.readouterr().out


def test_stages_go_on_after_failures_and_are_summed_up(tmp_path: Path) -> None:
    python = sys.executable
    stages = [
        gpu.Stage("build", [python, "-c", "print('compiling'); raise SystemExit(1)"], 60),
        gpu.Stage("hangs", [python, "-c", "import time; print('started', flush=True); time.sleep(60)"], 2),
        gpu.Stage("absent", ["nothing"], 60, reason="no compute-sanitizer"),
        gpu.Stage("benchmark", [python, "-c", "print('rows\\n\\nFloors\\npass  one\\nMISS  two')"], 60),
    ]
    outcomes = gpu.run_all([stages[:1], stages[1:3], stages[3:]], tmp_path / "log")
    assert [outcome.verdict for outcome in outcomes] == ["FAIL", "TIME OUT", "not run", "pass"]
    assert [outcome.failed for outcome in outcomes] == [True, True, False, False]
    machine = {"gpu": "GPU", "torch": "2.13", "cuda": "13.0"}
    text = gpu.summarise(outcomes, machine, tmp_path / "log", tmp_path / "rows.json")
    assert "MISS  two" in text and "rows\n" not in text
    assert "----- build\ncompiling\n" in text and "----- hangs\nstarted\n" in text
    assert text.endswith("results: none")
    assert "compiling" in (tmp_path / "log").read_text()


def test_the_time_limits_add_up_to_less_than_ten_minutes() -> None:
    machine = {"capability": "90", "setuptools": 80}
    limits = [stage.limit for stage in gpu.build_stages(machine)]
    limits += [max(stage.limit for stage in gpu.check_stages()), gpu.benchmark_stage(Path("results")).limit]
    assert sum(limits) < 600


def test_blocks_are_compared(probe: bandwidth.BandwidthProbe, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    reason = unavailable_reason("triton")
    if reason is not None:
        pytest.skip(reason)
    monkeypatch.setattr(blocks, "SHAPE_SETS", step.SHAPE_SETS)
    monkeypatch.setattr(blocks, "interleave", lambda entries, _, *others: interleave(entries, SETTINGS, *others))
    small = ["--sets", "gpt2", "--steps", "clip_sgd", "--elements", "64", "128", "--warps", "1", "--seconds", "0.01"]
    assert blocks.main(small) == 0
    lines = capsys.readouterr().out.splitlines()[-2:]
    assert sorted(line[22:42].strip() for line in lines) == ["(128, 1, 16384)", "(64, 1, 16384)"]
    assert all(line.endswith(" % of copy") for line in lines)
