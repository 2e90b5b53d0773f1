"""A run as text for the terminal."""

from bench.algorithm import OURS
from bench.bandwidth import COPY, TRIAD
from bench.check import Check
from bench.environment import Environment
from bench.measure import Percentiles
from bench.step import Row

LEGEND = """\
p20 p50 p80  time of one step, clipping included; gradients are written anew before each, outside the time;
             with Lookahead the mean over the k steps of a cycle, for both lines
GB/s         by the words that a fused step must move, for every line, so that lines compare as their times do;
             a share of the triad above 100 % means that the set lives in the cache
temp. MB     memory that a step takes beside what is there before it, at its most
ours is      how many times as fast as this line ours is: median (p20 to p80) of the ratios within each round;
             all lines take their turns in one process, and so do triad (in place, 3 words) and copy (2 words)
host         1000 tensors of 1 element: the whole step, Python and C++, with next to no work on elements"""

CUDA_LEGEND = """\
p20 p50 p80  time of one step on the device, clipping included; gradients are written anew before each, outside the time
GB/s         by the words that a fused step must move, for every line, so that lines compare as their times do
temp. MB     memory that a step takes beside what is there before it, at its most
queued       median time on the device behind a kernel that keeps it busy until the host has queued all of the step, in
             rounds of their own with the triad, of whose bandwidth % is the share: what the device takes of itself;
             - where a step waits for the device, or has more launches than a queue holds
host         median time until step() returns, on an idle device: after the others' turns, which have swept the
             processor's caches, and warm, after steps of the same line
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
    header = f"  {'':<12}{'p20':>11}{'p50':>11}{'p80':>11}  {unit}{'GB/s':>9}{'% triad':>9}{'% copy':>8}"
    header += f"{'temp. MB':>10}"
    if row.queued:
        header += f"{f'queued {unit}':>11}{'%':>7}"
    header += f"{'host us':>10}{'warm us':>10}{'launches':>10}   ours is" if row.launches else "   ours is"
    lines = [_headline(row), header]
    for name in row.algorithm.contenders:
        time = row.seconds(name).scaled(factor)
        cells = f"  {name:<12}{time.p20:>11,.2f}{time.p50:>11,.2f}{time.p80:>11,.2f}    "
        cells += f"{row.gigabytes_per_second(name):>9.2f}"
        cells += f"{100 * row.bandwidth_share(name, TRIAD):>9.1f}{100 * row.bandwidth_share(name, COPY):>8.1f}"
        cells += f"{row.temporary_bytes[name] / 1e6:>10.2f}"
        cells += _queued_cells(row, name, factor) if row.queued else ""
        if row.launches:
            count = row.launches[name]
            cells += f"{row.host_seconds(name).p50 * 1e6:>10,.1f}{row.warm_host[name] * 1e6:>10,.1f}"
            cells += f"{f'{count.kernels} + {count.copies}':>10}"
        lines.append(cells if name == OURS else f"{cells}   {_range(row.ratio(name))}")
    lines += [f"  {name} computes something else: {how}" for name, how in row.algorithm.different.items()]
    for name, check in row.checks.items():
        lines += _format_check(check, "results" if len(row.checks) == 1 else f"results of {name}")
    return "\n".join(lines)


def _queued_cells(row: Row, name: str, factor: float) -> str:
    if name not in row.queued:
        return f"{'-':>11}{'-':>7}"
    return f"{Percentiles.of(row.queued[name]).p50 * factor:>11,.2f}{100 * row.queued_share(name):>7.1f}"


def _format_check(check: Check, what: str) -> list[str]:
    failures = check.failures()
    if failures:
        return [f"  WRONG RESULT: {failure}" for failure in failures]
    largest = max(check.differences.values())
    agreement = f"{what} agree after {check.steps} steps: to {largest:.1e} of {check.travel:.1e} moved"
    return [f"  {agreement} (tolerance {check.tolerance:.1e})"]
