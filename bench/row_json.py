"""A row as plain values, and back: statistics for whoever reads the file, raw samples for whoever doubts them."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from bench.algorithm import Algorithm
from bench.bandwidth import COPY, TRIAD, WORDS
from bench.check import Check
from bench.launches import Launches
from bench.measure import Measured, Percentiles, Samples
from bench.step import Row

KEYS = ("set", "algorithm")
"""What tells one row from another."""

_DIGITS = 9  # of seconds: clocks tick in nanoseconds


def _check_as_json(check: Check) -> dict[str, Any]:
    return {**asdict(check), "errors": dict(check.errors), "differences": dict(check.differences)}


def _check_from_json(entry: Mapping[str, Any]) -> Check:
    return Check(**entry)


def _contender_as_json(row: Row, name: str) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "seconds": asdict(row.seconds(name)),
        "speedup_of_ours": asdict(row.ratio(name)),
        "gigabytes_per_second": row.gigabytes_per_second(name),
        "share_of_triad": row.bandwidth_share(name, TRIAD),
        "share_of_copy": row.bandwidth_share(name, COPY),
        "temporary_bytes": row.temporary_bytes[name],
    }
    if row.launches:
        entry["wall_seconds"] = asdict(row.wall_seconds(name))
        entry["host_seconds"] = asdict(row.host_seconds(name))
        entry["warm_host_seconds"] = row.warm_host[name]
        entry["launches"] = asdict(row.launches[name])
    if name in row.queued:
        entry["queued_seconds"] = asdict(Percentiles.of(row.queued[name]))
        entry["queued_share_of_triad"] = row.queued_share(name)
    return entry


def row_as_json(row: Row) -> dict[str, Any]:
    """Everything that `row_from_json` needs, and the statistics over it."""
    probes = {name: {"bytes": row.bytes_of(name), "seconds": asdict(row.seconds(name))} for name in WORDS}
    series = {"samples_seconds": row.measured.device}
    if row.launches:  # on the CPU all three are one
        series |= {"samples_wall_seconds": row.measured.wall, "samples_host_seconds": row.measured.host}
    if row.queued:
        series["samples_queued_seconds"] = row.queued
    return {
        "set": row.set_name,
        "algorithm": row.algorithm.name,
        "title": row.algorithm.title,
        "tensors": row.tensors,
        "elements": row.elements,
        "words_per_element": row.algorithm.words,
        "rounds": row.rounds,
        "warmup_rounds": row.measured.rounds - row.rounds,
        "in_cache": row.in_cache,
        "contenders": {name: _contender_as_json(row, name) for name in row.algorithm.contenders},
        "bandwidth": probes,
        "different": dict(row.algorithm.different),
        "checks": {name: _check_as_json(check) for name, check in row.checks.items()},
        **{key: _rounded(samples) for key, samples in series.items()},
    }


def _rounded(samples: Samples) -> dict[str, list[float]]:
    return {name: [round(value, _DIGITS) for value in values] for name, values in samples.items()}


def row_from_json(entry: Mapping[str, Any], algorithm: Algorithm) -> Row:
    """The row that an entry of this algorithm was made of."""
    device = entry["samples_seconds"]
    wall, host = (entry.get(f"samples_{part}_seconds", device) for part in ("wall", "host"))
    contenders = entry["contenders"]
    return Row(
        set_name=entry["set"],
        algorithm=algorithm,
        tensors=entry["tensors"],
        elements=entry["elements"],
        measured=Measured(device, wall, host, entry["rounds"] + entry["warmup_rounds"]),
        probe_bytes={name: entry["bandwidth"][name]["bytes"] for name in WORDS},
        in_cache=entry["in_cache"],
        checks={name: _check_from_json(check) for name, check in entry["checks"].items()},
        launches={name: Launches(**each["launches"]) for name, each in contenders.items() if "launches" in each},
        warm_host={name: each["warm_host_seconds"] for name, each in contenders.items() if "launches" in each},
        temporary_bytes={name: each["temporary_bytes"] for name, each in contenders.items()},
        queued=entry.get("samples_queued_seconds", {}),
    )
