"""One row: build the competitors, time them in turn, check that they agree; what is kept of it as plain values."""

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

from bench import measure
from bench.algorithm import OURS, Algorithm
from bench.bandwidth import TRIAD, WORDS, BandwidthProbe, last_level_cache_bytes
from bench.check import Check, Checker
from bench.measure import Measured, Samples, Settings, Timed, clock_of, percentiles, round_ratios
from bench.results import Found
from bench.shapes import Shapes, element_count
from bench.workload import GRADIENT_AMPLITUDE, Workload

# A model that fits into the cache finds its optimizer there when it trains alone. Here the other competitors and the
# bandwidth probe have swept it out since its last turn, so untimed steps bring it back. One does not suffice: a
# last-level cache that fills with what the inner caches evict needs two or three passes.
_LEAD_IN = 3
_DIGITS = 9  # of seconds: clocks tick in nanoseconds


class Tensors(NamedTuple):
    """The parameters of a row, and the size of their gradients."""

    shapes: Shapes
    dtype: torch.dtype = torch.float32
    amplitude: float = GRADIENT_AMPLITUDE


_MARK = "the step whose memory is measured"


def temporary_bytes(step: Callable[[], object], device: torch.device) -> int:
    """The most that a further step, which should not be the first, holds at once of what it allocates through torch."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    # Kineto announces every start and stop on stderr, at a level that only this silences.
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        step()  # the profiler hears only of blocks given back that it has seen allocated
        with record_function(_MARK):
            step()
    assert profiler.profiler is not None and profiler.profiler.kineto_results is not None
    events = sorted(profiler.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    begin = next(event.start_ns() for event in events if event.name() == _MARK)
    held = largest = 0
    for event in events:
        if event.name() == "[memory]" and event.start_ns() >= begin:
            held += event.nbytes()  # negative where memory is given back
            largest = max(largest, held)
    return largest


@dataclass(frozen=True)
class Launches:
    """What one step starts on the device."""

    kernels: int
    copies: int  # memory copied or filled


def count_launches(step: Callable[[], object]) -> Launches:
    """Those of one more step on a CUDA device, after one that the profiler warms up with."""
    for _ in range(2):
        with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as profiler:
            step()
            torch.cuda.synchronize()
    names = [event.name for event in profiler.events() if event.device_type == DeviceType.CUDA]
    copies = sum(name.startswith(("Memcpy", "Memset")) for name in names)
    return Launches(len(names) - copies, copies)


def entry_of(
    names: tuple[str, Algorithm, Shapes],
    probe: BandwidthProbe,
    measured: Measured,
    checks: Mapping[str, Check],
    counts: Mapping[str, Mapping[str, Any]],
    forms: Mapping[str, Samples] | None = None,
    in_cache: bool = False,
) -> Found:
    """Statistics for whoever reads the file, raw samples for whoever doubts them; and what is wrong with the results.

    Args:
        names: of the set and of the row, and the shapes.
        probe: what has taken its turns between the contenders.
        measured: by contender and by bandwidth probe.
        checks: ours first; one for all contenders where they compute the same.
        counts: by contender, what else is known of a step.
        forms: further samples by the name of their form, `queued` or `swept`.
        in_cache: whether a timed step found its tensors in the cache.
    """
    set_name, algorithm, shapes = names
    elements, device, forms = element_count(shapes), measured.device, forms or {}
    # What one turn must move: for every contender the words of a fused step, whatever it really moves.
    moved = {name: round(elements * 4 * algorithm.words) for name in algorithm.contenders}
    moved |= {name: probe.bytes_moved(name) for name in WORDS}

    def share(samples: Samples, name: str, of: str) -> float:
        """Bandwidth as a fraction of the probe's, median over rounds."""
        return round_ratios(samples[of], samples[name])["p50"] * moved[name] / moved[of]

    def contender(name: str) -> dict[str, Any]:
        entry = {
            "seconds": percentiles(device[name]),
            # From the call until its end, within rounds.
            "speedup_of_ours": round_ratios(measured.wall[name], measured.wall[OURS]),
            "gigabytes_per_second": moved[name] / percentiles(device[name])["p50"] * 1e-9,
            **{f"share_of_{of}": share(device, name, of) for of in WORDS},
            **counts[name],
        }
        if "launches" in entry:
            entry["wall_seconds"], entry["host_seconds"] = (
                percentiles(s[name]) for s in (measured.wall, measured.host)
            )
        if name in (queued := forms.get("queued", {})):
            entry["queued_seconds"] = percentiles(queued[name])
            entry["queued_share_of_triad"] = share(queued, name, TRIAD)
        if swept := forms.get("swept"):
            entry["swept_seconds"] = percentiles(swept[name])
            entry["swept_speedup_of_ours"] = round_ratios(swept[name], swept[OURS])
        return entry

    series = {"": device, **{f"{form}_": samples for form, samples in forms.items() if samples}}
    if "launches" in counts[OURS]:  # on the CPU all three are one
        series |= {"wall_": measured.wall, "host_": measured.host}
    rounds = len(device[OURS])
    entry = {
        "set": set_name,
        "algorithm": algorithm.name,
        "title": algorithm.title,
        "tensors": len(shapes),
        "elements": elements,
        "words_per_element": algorithm.words,
        "rounds": rounds,
        "warmup_rounds": measured.rounds - rounds,
        "in_cache": in_cache,
        "contenders": {name: contender(name) for name in algorithm.contenders},
        "bandwidth": {name: {"bytes": moved[name], "seconds": percentiles(device[name])} for name in WORDS},
        "different": dict(algorithm.different),
        "checks": {name: asdict(check) for name, check in checks.items()},
        **{
            f"samples_{form}seconds": {name: [round(value, _DIGITS) for value in values] for name, values in s.items()}
            for form, s in series.items()
        },
    }
    return entry, [failure for check in checks.values() for failure in check.failures()]


def required_bytes(algorithm: Algorithm, elements: int) -> float:
    """Memory that a row needs at its peak: gradients and their source, and what each contender has.

    A foreach step makes temporaries that are as large as all the parameters, the others of one tensor at a time.
    """
    temporary = 2 if "foreach" in algorithm.contenders else 0.25
    return 4 * elements * (2 + len(algorithm.contenders) * (1 + algorithm.state_words) + temporary)


def measure_row(
    set_name: str, algorithm: Algorithm, probe: BandwidthProbe, settings: Settings, tensors: Tensors
) -> Found:
    """A row on the probe's device. What it allocates is free again when it returns."""
    device, shapes = probe.device, tensors.shapes
    workload = Workload(shapes, device, tensors.dtype, tensors.amplitude)
    parameters = {name: workload.parameters() for name in algorithm.contenders}
    checker = Checker(algorithm, workload, parameters)
    words = 2 + algorithm.state_words  # parameter, gradient, state
    in_cache = not settings.cold and 4 * words * element_count(shapes) <= last_level_cache_bytes(device)
    steps = {name: build(parameters[name], workload.source_norm) for name, build in algorithm.contenders.items()}

    def timed(name: str, lead_in: int, before: Callable[[], object]) -> Timed:
        def prepare(taken: int) -> None:
            checker.look(name, taken)
            workload.refill(taken)
            before()

        return Timed(name, prepare, steps[name], lead_in, algorithm.cycle)

    clock, on_cuda = clock_of(device), device.type == "cuda"
    before = probe.sweep if settings.cold else lambda: None
    entries = [*(timed(name, _LEAD_IN if in_cache else 0, before) for name in steps), *probe.entries()]
    measured = measure.interleave(entries, settings, clock)
    checks = checker.checks(measured.rounds * entries[0].runs)
    # After the checks, for which every step counts.
    forms: dict[str, Samples] = {}
    if on_cuda:
        forms["queued"] = measure.interleave_queued(entries, settings)
    elif in_cache:
        forms["swept"] = measure.interleave_further([timed(name, 0, probe.write) for name in steps], settings, clock)
    counts: dict[str, dict[str, Any]] = {name: {} for name in steps}
    for name, step in steps.items() if on_cuda else ():
        counts[name] = {
            "launches": asdict(count_launches(step)),
            "warm_host_seconds": measure.warm_host_seconds(step, clock),
        }
    for name, step in steps.items():
        counts[name]["temporary_bytes"] = temporary_bytes(step, device)
    return entry_of((set_name, algorithm, shapes), probe, measured, checks, counts, forms, in_cache)
