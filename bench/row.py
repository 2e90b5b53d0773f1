"""One row: build the competitors, time them in turn, check that they agree; what is kept of it as plain values."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from bench.algorithm import OURS, Algorithm
from bench.bandwidth import COPY, TRIAD, WORDS, BandwidthProbe, last_level_cache_bytes
from bench.check import Check, Checker
from bench.clock import clock_of
from bench.counts import count_launches, temporary_bytes
from bench.measure import (
    Measured,
    Samples,
    Settings,
    Timed,
    interleave,
    interleave_further,
    interleave_queued,
    percentiles,
    round_ratios,
    warm_host_seconds,
)
from bench.results import Entry
from bench.shapes import Shapes, element_count
from bench.workload import GRADIENT_AMPLITUDE, Workload

KEYS = ("set", "algorithm")
"""What tells one row from another."""

# A model that fits into the cache finds its optimizer there when it trains alone. Here the other competitors and the
# bandwidth probe have swept it out since its last turn, so untimed steps bring it back. One does not suffice: a
# last-level cache that fills with what the inner caches evict needs two or three passes.
_LEAD_IN = 3
_DIGITS = 9  # of seconds: clocks tick in nanoseconds


@dataclass(frozen=True)
class Tensors:
    """The parameters of a row, and the size of their gradients."""

    shapes: Shapes
    dtype: torch.dtype = torch.float32
    amplitude: float = GRADIENT_AMPLITUDE


@dataclass(frozen=True)
class Row:
    """All that was measured for one algorithm on one set of shapes; `entry` is what is kept of it."""

    set_name: str
    algorithm: Algorithm
    shapes: Shapes
    probe: BandwidthProbe
    measured: Measured  # by contender and by bandwidth probe
    checks: Mapping[str, Check]  # ours first; one for all contenders where they compute the same
    temporary_bytes: Mapping[str, int]
    in_cache: bool = False  # whether a timed step found its tensors in the cache
    launches: Mapping[str, Any] = field(default_factory=dict)  # empty where nothing is launched
    warm_host: Mapping[str, float] = field(default_factory=dict)  # as well
    queued: Samples = field(default_factory=dict)  # as well; see interleave_queued
    swept: Samples = field(default_factory=dict)  # where in_cache on the CPU: each step after a write of 64 MB

    @property
    def failures(self) -> list[str]:
        """What is wrong with the results, one sentence each."""
        return [failure for check in self.checks.values() for failure in check.failures()]

    def _bytes(self, name: str) -> int:
        """Bytes one turn must move: for every contender the words of a fused step, whatever it really moves."""
        if name in WORDS:
            return self.probe.bytes_moved(name)
        return round(element_count(self.shapes) * 4 * self.algorithm.words)

    def _share(self, samples: Samples, name: str, probe: str) -> float:
        """Bandwidth as a fraction of the probe's, median over rounds."""
        return round_ratios(samples[probe], samples[name])["p50"] * self._bytes(name) / self._bytes(probe)

    def _contender(self, name: str) -> dict[str, Any]:
        device, wall, host = self.measured.device, self.measured.wall, self.measured.host
        seconds = percentiles(device[name])
        entry: dict[str, Any] = {
            "seconds": seconds,
            # From the call until its end, within rounds.
            "speedup_of_ours": round_ratios(wall[name], wall[OURS]),
            "gigabytes_per_second": self._bytes(name) / seconds["p50"] * 1e-9,
            "share_of_triad": self._share(device, name, TRIAD),
            "share_of_copy": self._share(device, name, COPY),
            "temporary_bytes": self.temporary_bytes[name],
        }
        if self.launches:
            entry["wall_seconds"], entry["host_seconds"] = percentiles(wall[name]), percentiles(host[name])
            entry["warm_host_seconds"] = self.warm_host[name]
            entry["launches"] = asdict(self.launches[name])
        if name in self.queued:
            entry["queued_seconds"] = percentiles(self.queued[name])
            entry["queued_share_of_triad"] = self._share(self.queued, name, TRIAD)
        if self.swept:
            entry["swept_seconds"] = percentiles(self.swept[name])
            entry["swept_speedup_of_ours"] = round_ratios(self.swept[name], self.swept[OURS])
        return entry

    def entry(self) -> Entry:
        """Statistics for whoever reads the file, raw samples for whoever doubts them."""
        series = {"samples_seconds": self.measured.device}
        if self.launches:  # on the CPU all three are one
            series |= {"samples_wall_seconds": self.measured.wall, "samples_host_seconds": self.measured.host}
        series |= {f"samples_{form}_seconds": found for form in ("queued", "swept") if (found := getattr(self, form))}
        rounds = len(self.measured.device[OURS])
        return {
            "set": self.set_name,
            "algorithm": self.algorithm.name,
            "title": self.algorithm.title,
            "tensors": len(self.shapes),
            "elements": element_count(self.shapes),
            "words_per_element": self.algorithm.words,
            "rounds": rounds,
            "warmup_rounds": self.measured.rounds - rounds,
            "in_cache": self.in_cache,
            "contenders": {name: self._contender(name) for name in self.algorithm.contenders},
            "bandwidth": {
                name: {"bytes": self._bytes(name), "seconds": percentiles(self.measured.device[name])} for name in WORDS
            },
            "different": dict(self.algorithm.different),
            "checks": {name: asdict(check) for name, check in self.checks.items()},
            **{
                key: {name: [round(value, _DIGITS) for value in values] for name, values in samples.items()}
                for key, samples in series.items()
            },
        }


def required_bytes(algorithm: Algorithm, elements: int) -> float:
    """Memory that a row needs at its peak: gradients and their source, and what each contender has.

    A foreach step makes temporaries that are as large as all the parameters, the others of one tensor at a time.
    """
    temporary = 2 if "foreach" in algorithm.contenders else 0.25
    return 4 * elements * (2 + len(algorithm.contenders) * (1 + algorithm.state_words) + temporary)


def measure_row(
    set_name: str, algorithm: Algorithm, probe: BandwidthProbe, settings: Settings, tensors: Tensors
) -> Row:
    """Measures a row on the probe's device. What it allocates is free again when the row is dropped."""
    device, shapes = probe.device, tensors.shapes
    workload = Workload.create(shapes, device, tensors.dtype, tensors.amplitude)
    parameters = {name: workload.parameters() for name in algorithm.contenders}
    checker = Checker(algorithm, workload, parameters)
    words = 2 + algorithm.state_words  # parameter, gradient, state
    in_cache = not settings.cold and 4 * words * element_count(shapes) <= last_level_cache_bytes(device)
    steps = {name: build(parameters[name], workload.source_norm) for name, build in algorithm.contenders.items()}

    def entries(lead_in: int, before: Callable[[], object]) -> list[Timed]:
        def prepare(name: str, taken: int) -> None:
            checker.look(name, taken)
            workload.refill(taken)
            before()

        return [
            Timed(name, lambda taken, name=name: prepare(name, taken), step, lead_in, algorithm.cycle)  # type: ignore[misc]
            for name, step in steps.items()
        ]

    clock = clock_of(device)
    contenders = entries(_LEAD_IN if in_cache else 0, probe.sweep if settings.cold else lambda: None)
    in_turn = [*contenders, *probe.entries()]
    measured = interleave(in_turn, settings, clock)
    checks = checker.checks(measured.rounds * contenders[0].runs)
    # After the checks, for which every step counts.
    on_cuda = device.type == "cuda"
    swept = interleave_further(entries(0, probe.write), settings, clock) if in_cache and not on_cuda else {}
    return Row(
        set_name,
        algorithm,
        shapes,
        probe,
        measured,
        checks,
        queued=interleave_queued(in_turn, settings) if on_cuda else {},
        launches={name: count_launches(step, device) for name, step in steps.items()} if on_cuda else {},
        warm_host={name: warm_host_seconds(step, clock) for name, step in steps.items()} if on_cuda else {},
        temporary_bytes={name: temporary_bytes(step, device) for name, step in steps.items()},
        in_cache=in_cache,
        swept=swept,
    )
