"""One row of `python -m bench step`: build the competitors, time them in turn, check that they agree."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.nn import Parameter

from bench.algorithm import OURS, Algorithm
from bench.bandwidth import TRIAD, WORDS, BandwidthProbe, last_level_cache_bytes
from bench.check import Check, Sample, Snapshot, check_against_yardsticks, check_agreement
from bench.clock import clock_of
from bench.launches import Launches, count_launches
from bench.measure import (
    Measured,
    Percentiles,
    Samples,
    Settings,
    Timed,
    interleave,
    interleave_queued,
    round_ratios,
    warm_host_seconds,
)
from bench.memory import temporary_bytes
from bench.shapes import SHAPE_SETS, Shapes, element_count
from bench.workload import GRADIENT_AMPLITUDE, Workload

# A model that fits into the cache finds its optimizer there when it trains alone. Here the other competitors and the
# bandwidth probe have swept it out since its last turn, so untimed steps bring it back. One does not suffice: a
# last-level cache that fills with what the inner caches evict needs two or three passes.
_LEAD_IN = 3


@dataclass(frozen=True)
class Row:
    """All that was measured for one algorithm on one set of shapes."""

    set_name: str
    algorithm: Algorithm
    tensors: int
    elements: int
    measured: Measured  # by contender and by bandwidth probe
    probe_bytes: Mapping[str, int]  # by bandwidth probe, per round
    in_cache: bool  # whether a timed step found its tensors in the cache
    checks: Mapping[str, Check]  # ours first; one for all contenders where they compute the same
    launches: Mapping[str, Launches]  # by contender; empty where nothing is launched
    warm_host: Mapping[str, float]  # seconds, see warm_host_seconds; empty as well
    temporary_bytes: Mapping[str, int]  # by contender
    queued: Samples  # see interleave_queued: by contender and by bandwidth probe; empty where nothing is launched

    @property
    def samples(self) -> Samples:
        """Seconds on the device per round, by contender and by bandwidth probe."""
        return self.measured.device

    @property
    def rounds(self) -> int:
        return len(self.samples[OURS])

    @property
    def failures(self) -> list[str]:
        """What is wrong with the results, one sentence each."""
        return [failure for check in self.checks.values() for failure in check.failures()]

    def seconds(self, name: str) -> Percentiles:
        return Percentiles.of(self.samples[name])

    def wall_seconds(self, name: str) -> Percentiles:
        return Percentiles.of(self.measured.wall[name])

    def host_seconds(self, name: str) -> Percentiles:
        return Percentiles.of(self.measured.host[name])

    def ratio(self, contender: str) -> Percentiles:
        """How many times ours is as fast as the contender, from the call until its end, within rounds."""
        return round_ratios(self.measured.wall[contender], self.measured.wall[OURS])

    def bytes_of(self, name: str) -> int:
        """Bytes one turn must move: for every contender the words of a fused step, whatever it really moves."""
        return self.probe_bytes[name] if name in WORDS else round(self.elements * self.algorithm.bytes_per_element)

    def gigabytes_per_second(self, name: str) -> float:
        return self.bytes_of(name) / self.seconds(name).p50 * 1e-9

    def bandwidth_share(self, name: str, probe: str = TRIAD) -> float:
        """Bandwidth as a fraction of the probe's, median over rounds."""
        return self._share(self.samples, name, probe)

    def queued_share(self, name: str) -> float:
        """The same of the triad's, with the host's time hidden."""
        return self._share(self.queued, name, TRIAD)

    def _share(self, samples: Samples, name: str, probe: str) -> float:
        share = round_ratios(samples[probe], samples[name]).p50
        return share * self.bytes_of(name) / self.bytes_of(probe)


@dataclass(frozen=True)
class Tensors:
    """The parameters of a row."""

    shapes: Shapes
    dtype: torch.dtype = torch.float32
    amplitude: float = GRADIENT_AMPLITUDE


def required_bytes(algorithm: Algorithm, set_name: str) -> int:
    """Memory that a row needs at its peak."""
    shared = 2  # gradients and their source
    each = 1 + algorithm.state_words
    # A foreach step makes some that are as large as all the parameters, the others of one tensor at a time.
    temporary = 2 if "foreach" in algorithm.contenders else 0.25
    words = shared + len(algorithm.contenders) * each + temporary
    return round(4 * element_count(SHAPE_SETS[set_name]()) * words)


def _fits_into_cache(algorithm: Algorithm, elements: int, device: torch.device) -> bool:
    words = 2 + algorithm.state_words  # parameter, gradient, state
    return 4 * words * elements <= last_level_cache_bytes(device)


def measure_row(
    set_name: str,
    algorithm: Algorithm,
    probe: BandwidthProbe,
    settings: Settings,
    on_round: Callable[[float], None],
    tensors: Tensors | None = None,
) -> Row:
    """Measure one row on the probe's device. What it allocates is free again when it returns.

    Args:
        set_name: of the shapes.
        algorithm: the row.
        probe: takes its turns between the contenders.
        settings: how long.
        on_round: hears the fraction done.
        tensors: what is stepped; None takes the set of that name, in float32.
    """
    tensors = tensors or Tensors(SHAPE_SETS[set_name]())
    workload = Workload.create(tensors.shapes, probe.device, tensors.dtype, tensors.amplitude)
    elements = element_count(workload.shapes)
    parameters = {name: workload.parameters() for name in algorithm.contenders}
    lead_in = _LEAD_IN if not settings.cold and _fits_into_cache(algorithm, elements, probe.device) else 0
    # Contenders that a yardstick is there for are looked at in passing; the others are compared at the end.
    snapshots: dict[str, Snapshot] = {}
    if algorithm.yardsticks:
        sample = Sample.of_beginnings(workload)
        snapshots = {name: Snapshot(sample, parameters[name]) for name in algorithm.yardsticks}
    entries = []
    for name, build in algorithm.contenders.items():
        step = build(parameters[name], workload.source_norm)
        prepare = _prepare(workload, snapshots.get(name), probe if settings.cold else None)
        entries.append(Timed(name, prepare, step, lead_in, algorithm.cycle))
    clock = clock_of(probe.device)
    in_turn = [*entries, *probe.entries()]
    measured = interleave(in_turn, settings, on_round, clock)
    checks = _check(algorithm, workload, parameters, snapshots, measured.rounds * entries[0].runs)
    # After the checks, for which every step counts.
    queued = interleave_queued(in_turn, settings) if probe.device.type == "cuda" else {}
    counts = {entry.name: count_launches(entry.run, probe.device) for entry in entries}
    launches = {name: count for name, count in counts.items() if count is not None}
    warm_host = {entry.name: warm_host_seconds(entry.run, clock) for entry in entries} if launches else {}
    temporaries = {entry.name: temporary_bytes(entry.run, probe.device) for entry in entries}
    return Row(
        set_name=set_name,
        algorithm=algorithm,
        tensors=len(workload.shapes),
        elements=elements,
        measured=measured,
        probe_bytes={name: probe.bytes_moved(name) for name in WORDS},
        in_cache=lead_in > 0,
        checks=checks,
        launches=launches,
        warm_host=warm_host,
        temporary_bytes=temporaries,
        queued=queued,
    )


def _check(
    algorithm: Algorithm,
    workload: Workload,
    parameters: Mapping[str, Sequence[Parameter]],
    snapshots: Mapping[str, Snapshot],
    steps: int,
) -> Mapping[str, Check]:
    """Compares the contenders after so many steps, with their yardsticks where there are some."""
    if algorithm.yardsticks:
        return check_against_yardsticks(algorithm, snapshots, steps)
    same = {name: values for name, values in parameters.items() if name not in algorithm.different}
    return {OURS: check_agreement(algorithm, workload, same, steps)}


def _prepare(workload: Workload, snapshot: Snapshot | None, sweeper: BandwidthProbe | None) -> Callable[[int], object]:
    """What comes before each step, outside the time."""

    def prepare(steps: int) -> None:
        if snapshot is not None:
            snapshot.look(steps)
        workload.refill(steps)
        if sweeper is not None:
            sweeper.sweep()

    return prepare
