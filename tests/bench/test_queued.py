"""The queued form of a row: a run's time on the device alone, with a device whose times are known."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import pytest
import torch

from bench import measure
from bench.bandwidth import COPY, TRIAD
from bench.cases import CUDA_ALGORITHMS
from bench.measure import Measured, NeverQueuedError, QueuedCudaClock, Settings, Timed, clock_of, interleave_queued
from bench.report import tables_of
from bench.row import entry_of
from tiny_bench import shrink

US = 1e-6


class Device:
    """A CUDA device in seconds: the host's time, and when the device will have done what is queued until now."""

    hertz = 2e9

    def __init__(self) -> None:
        self.now = self.idle = 0.0

    def launch(self, host: float, device: float) -> None:
        """A kernel of so many seconds, by a call of so many."""
        self.now += host
        self.idle = max(self.now, self.idle) + device

    def synchronize(self) -> None:
        self.now = max(self.now, self.idle)

    def keep_busy(self, cycles: int) -> None:
        self.launch(1 * US, cycles / self.hertz)

    def step(self, host: float, device: float, kernels: int = 2) -> Callable[[], None]:
        """A run of kernels, each of so many seconds of the host and of the device."""

        def run() -> None:
            for _ in range(kernels):
                self.launch(host, device)

        return run


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    """Stands in for torch.cuda and for the host's clock."""
    found = Device()

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            self.at = math.inf

        def record(self) -> None:
            self.at = max(found.now, found.idle)

        def query(self) -> bool:
            return self.at <= found.now

        def synchronize(self) -> None:
            found.now = max(found.now, self.at)

        def elapsed_time(self, later: Event) -> float:
            return (later.at - self.at) * 1e3

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", found.synchronize)
    monkeypatch.setattr(torch.cuda, "_sleep", found.keep_busy)
    monkeypatch.setattr(measure.time, "perf_counter_ns", lambda: round(found.now * 1e9))
    return found


def test_the_hosts_time_is_hidden(device: Device) -> None:
    """Two kernels of 70 us, each 40 us late on an idle device: the first waits for its launch, the second does not."""
    run = device.step(host=40 * US, device=70 * US)
    assert clock_of(torch.device("cuda"))(run).device == pytest.approx(180 * US)
    queued = QueuedCudaClock()
    elapsed = queued(run)
    assert elapsed.device == pytest.approx(140 * US)
    assert elapsed.host == pytest.approx(80 * US)
    assert queued.cycles == QueuedCudaClock().cycles


def test_a_run_that_the_device_came_to_too_early_is_made_again(device: Device) -> None:
    queued = QueuedCudaClock()
    runs = 0
    step = device.step(host=1.5e-3, device=70 * US)

    def run() -> None:
        nonlocal runs
        runs += 1
        step()

    assert queued(run).device == pytest.approx(140 * US)
    assert runs == 3  # behind 1, 2 and 4 ms, for 3 ms of the host
    assert queued(run).device == pytest.approx(140 * US)
    assert runs == 4


def test_what_waits_for_the_device_or_takes_too_long_is_never_queued(device: Device) -> None:
    def waits() -> None:
        device.launch(40 * US, 70 * US)
        device.synchronize()

    for run in (waits, device.step(host=40e-3, device=70 * US)):
        queued = QueuedCudaClock()
        with pytest.raises(NeverQueuedError):
            queued(run)
        assert queued.cycles == 32 * QueuedCudaClock().cycles


def test_a_row_leaves_out_what_is_never_queued(device: Device) -> None:
    prepared: list[int] = []
    entries = [
        Timed("ours", prepared.append, device.step(40 * US, 70 * US), counted=2),
        Timed("authors", lambda index: None, device.synchronize),
        Timed("fused", lambda index: None, device.step(2e-3, 70 * US, kernels=3)),
    ]
    samples = interleave_queued(entries, Settings(seconds=1e-9, warmup=1, min_rounds=4, max_rounds=4))
    assert list(samples) == ["ours", "fused"]
    assert samples["ours"] == pytest.approx([140 * US] * 4)
    assert samples["fused"] == pytest.approx([210 * US] * 4)
    assert len(prepared) == 2 * (1 + 1 + 4)  # the trial, the warm-up, the rounds


def test_a_row_on_a_gpu_has_more_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Launches, the host's time, and the queued form of what can be queued: here ours, at four fifths of the triad."""
    algorithm, shapes, probe = CUDA_ALGORITHMS["mixclip"], ((1000,),), shrink(monkeypatch)
    samples = {name: [1e-3] * 4 for name in ("ours", "authors", TRIAD, COPY)}
    counts = {"launches": {"kernels": 2, "copies": 0}, "warm_host_seconds": 1e-5, "temporary_bytes": 0}
    queued = 1e-3 * 4 * algorithm.words * 1000 / probe.bytes_moved(TRIAD) / 0.8
    forms = {"queued": {"ours": [queued] * 4, TRIAD: [1e-3] * 4, COPY: [1e-3] * 4}}
    measured = Measured(samples, samples, samples, 5)
    entry, _ = entry_of(("set", algorithm, shapes), probe, measured, {}, dict.fromkeys(samples, counts), forms)
    ours, authors = entry["contenders"].values()
    assert ours["queued_seconds"]["p50"] == pytest.approx(queued)
    assert ours["queued_share_of_triad"] == pytest.approx(0.8)
    assert "queued_seconds" not in authors and "swept_seconds" not in ours
    assert {f"samples_{form}seconds" for form in ("", "wall_", "host_", "queued_")} <= set(entry)
    header, _, first = [line for line in tables_of("step", [entry]) if line.startswith("|")]
    cells = dict(zip(re.split(r" +\| +", header), re.split(r" +\| +", first), strict=True))
    assert cells["% of triad, queued"] == "80" and cells["host, warm"] == "10 µs"
    assert cells["kernels + copies"] == "2 + 0"
