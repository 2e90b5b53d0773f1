"""A run as text for the terminal and as JSON for everything else."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.algorithm import OURS
from bench.bandwidth import COPY, TRIAD, WORDS
from bench.check import Check
from bench.environment import Environment
from bench.measure import Percentiles, Settings
from bench.step import Row

JSON_VERSION = 1

LEGEND = """\
p20 p50 p80  time of one step, clipping included; gradients are written anew before each, outside the time;
             with Lookahead the mean over the k steps of a cycle, for both lines
GB/s         by the words that a fused step must move, for every line, so that lines compare as their times do;
             a share of the triad above 100 % means that the set lives in the cache
ours is      how many times as fast as this line ours is: median (p20 to p80) of the ratios within each round;
             all lines take their turns in one process, and so do triad (in place, 3 words) and copy (2 words)
host         1000 tensors of 1 element: the whole step, Python and C++, with next to no work on elements"""

CUDA_LEGEND = """\
p20 p50 p80  time of one step on the device, clipping included; gradients are written anew before each, outside the time
GB/s         by the words that a fused step must move, for every line, so that lines compare as their times do
host         median time until step() returns, on an idle device
launches     kernels + copies that one step starts
ours is      how many times as fast as this line ours is: median (p20 to p80) of the ratios within each round, from the
             call until the device has finished; all lines take their turns in one process, and so do triad and copy"""


def format_environment(environment: Environment) -> str:
    gpu = "" if environment.gpu is None else f"{environment.gpu}\n"
    return (
        f"torchclip {environment.torchclip} (backend {environment.backend}), torch {environment.torch}, "
        f"Python {environment.python}\n{gpu}{environment.cpu}, {environment.cores} cores, "
        f"{environment.threads} threads, float32, {environment.system}"
    )


def _range(ratio: Percentiles) -> str:
    digits = 2 if ratio.p50 < 10 else 1
    return f"{ratio.p50:.{digits}f} x ({ratio.p20:.{digits}f} to {ratio.p80:.{digits}f})"


def _headline(row: Row) -> str:
    probes = ", ".join(f"{name} {row.gigabytes_per_second(name):.1f} GB/s" for name in (TRIAD, COPY))
    size = f"{row.tensors:,} tensors, {row.elements:,} elements, {row.algorithm.words} words each"
    where = "in cache" if row.in_cache else "from memory"
    return f"{row.set_name}: {row.algorithm.title}   {size}, {where}, {row.rounds} rounds, {probes}"


def format_row(row: Row) -> str:
    """The block of one row: a headline, a line for each contender, and what the check found."""
    unit, factor = ("ms", 1e3) if row.seconds(OURS).p50 >= 1e-3 else ("us", 1e6)
    header = f"  {'':<9}{'p20':>11}{'p50':>11}{'p80':>11}  {unit}{'GB/s':>9}{'% triad':>9}{'% copy':>8}"
    header += f"{'host us':>10}{'launches':>10}   ours is" if row.launches else "   ours is"
    lines = [_headline(row), header]
    for name in row.algorithm.contenders:
        time = row.seconds(name).scaled(factor)
        cells = f"  {name:<9}{time.p20:>11,.2f}{time.p50:>11,.2f}{time.p80:>11,.2f}    "
        cells += f"{row.gigabytes_per_second(name):>9.2f}"
        cells += f"{100 * row.bandwidth_share(name, TRIAD):>9.1f}{100 * row.bandwidth_share(name, COPY):>8.1f}"
        if row.launches:
            count = row.launches[name]
            cells += f"{row.host_seconds(name).p50 * 1e6:>10,.1f}{f'{count.kernels} + {count.copies}':>10}"
        lines.append(cells if name == OURS else f"{cells}   {_range(row.ratio(name))}")
    for name, check in row.checks.items():
        lines += _format_check(check, "results" if len(row.checks) == 1 else f"results of {name}")
    return "\n".join(lines)


def _format_check(check: Check, what: str) -> list[str]:
    failures = check.failures()
    if failures:
        return [f"  WRONG RESULT: {failure}" for failure in failures]
    largest = max(check.differences.values())
    agreement = f"{what} agree after {check.steps} steps: to {largest:.1e} of {check.travel:.1e} moved"
    return [f"  {agreement} (tolerance {check.tolerance:.1e})"]


def _without_nan(value: Any) -> Any:
    # A run that went wrong is still worth reading, and JSON knows no NaN.
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _check_as_json(check: Check) -> dict[str, Any]:
    numbers = {**asdict(check), "errors": dict(check.errors), "differences": dict(check.differences)}
    return {**_without_nan(numbers), "failures": check.failures()}


def _other_checks_as_json(row: Row) -> dict[str, Any]:
    others = {name: _check_as_json(check) for name, check in row.checks.items() if name != OURS}
    return {"other_checks": others} if others else {}


def _row_as_json(row: Row) -> dict[str, Any]:
    contenders: dict[str, dict[str, Any]] = {
        name: {
            "seconds": asdict(row.seconds(name)),
            "speedup_of_ours": asdict(row.ratio(name)),
            "gigabytes_per_second": row.gigabytes_per_second(name),
            "share_of_triad": row.bandwidth_share(name, TRIAD),
            "share_of_copy": row.bandwidth_share(name, COPY),
        }
        for name in row.algorithm.contenders
    }
    for name, count in row.launches.items():
        contenders[name] |= {
            "wall_seconds": asdict(row.wall_seconds(name)),
            "host_seconds": asdict(row.host_seconds(name)),
            "launches": asdict(count),
        }
    return {
        "set": row.set_name,
        "algorithm": row.algorithm.name,
        "tensors": row.tensors,
        "elements": row.elements,
        "words_per_element": row.algorithm.words,
        "rounds": row.rounds,
        "in_cache": row.in_cache,
        "contenders": contenders,
        "bandwidth": {name: {"bytes": row.bytes_of(name), "seconds": asdict(row.seconds(name))} for name in WORDS},
        "check": _check_as_json(row.checks[OURS]),
        **_other_checks_as_json(row),
        **_samples_as_json(row),
    }


def _samples_as_json(row: Row) -> dict[str, Any]:
    series = {"samples_seconds": row.measured.device}
    if row.launches:  # on the CPU all three are one
        series |= {"samples_wall_seconds": row.measured.wall, "samples_host_seconds": row.measured.host}
    return {key: {name: list(values) for name, values in samples.items()} for key, samples in series.items()}


def write_json(path: Path, environment: Environment, settings: Settings, rows: Sequence[Row]) -> None:
    """Write the run so far; whoever reads the file sees the old run or the new one, never half of one."""
    document = {
        "version": JSON_VERSION,
        "command": "step",
        "environment": asdict(environment),
        "settings": asdict(settings),
        "rows": [_row_as_json(row) for row in rows],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".part")
    draft.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")
    draft.replace(path)
