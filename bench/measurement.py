"""What the commands that measure have in common: their options, and rows that are measured or found in the file."""

import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
from tabulate import tabulate
from tqdm import tqdm

from bench.algorithm import OURS
from bench.bandwidth import COPY, TRIAD, BandwidthProbe
from bench.check import Check
from bench.machine import available_bytes
from bench.measure import Percentiles, Settings
from bench.options import Command, Refused, option, positive
from bench.results import Entry, Found, Results, header_of
from torchclip.backends.choice import unavailable_reason

LEGEND = """\
p20 p50 p80  time of one step, clipping included; gradients are written anew before each, outside the time; on cuda on
             the device; with Lookahead the mean over the k steps of a cycle, for both lines
GB/s         by the words that a fused step must move, for every line, so that lines compare as their times do;
             a share of the triad above 100 % means that the set lives in the cache
temp. MB     memory that a step takes beside what is there before it, at its most
swept        of sets in the cache: median time after a write of 64 MB, as a training step finds the caches, in rounds of
             their own; for other lines how many times as fast ours is then
queued       median time on the device behind a kernel that keeps it busy until the host has queued all of the step, in
             rounds of their own with the triad, of whose bandwidth % is the share: what the device takes of itself;
             nothing where a step waits for the device, or has more launches than a queue holds
host         median time until step() returns, on an idle device: after the others' turns, which have swept the
             processor's caches, and warm, after steps of the same line
launches     kernels + copies that one step starts
ours is      how many times as fast as this line ours is: median (p20 to p80) of the ratios within each round, on cuda
             from the call until the device has finished; all lines take their turns in one process, and so do triad
             (in place, 3 words) and copy (2 words)"""


class Planned(NamedTuple):
    """A row to come: its entries under the keys of the results, what measures it, and the memory that takes."""

    key: tuple[str | int, ...]
    measure: Callable[[], Found]
    bytes: float = 0.0


@dataclass(kw_only=True)
class Measurement(Command):
    """A command that measures rows."""

    keys: ClassVar[Sequence[str]] = ("set", "algorithm")  # what tells one row from another
    legend: ClassVar[str] = LEGEND
    seconds: float = option(Settings.seconds, "time for one row", positive(float))
    device: str = option("cpu", "where the parameters lie", choices=("cpu", "cuda"))
    threads: Sequence[int] = option(
        (), "threads for torch and ours (default: torch's own choice)", positive(int), metavar="N"
    )
    json: Path | None = option(
        None, "write versions, commit, settings and samples; rows that are there already are kept", Path, metavar="PATH"
    )
    fresh: bool = option(False, "replace what the file of --json holds")

    def settings(self) -> Settings:
        """How rows are measured."""
        return Settings(seconds=self.seconds)

    def more_settings(self) -> Entry:
        """What else a file is not continued without."""
        return {}

    def set_threads(self) -> None:
        """Before anything is measured."""
        if len(self.threads) > 1:
            raise Refused(f"{self.name} runs with one number of threads, got --threads {self.threads}")
        if self.threads:
            torch.set_num_threads(self.threads[0])

    def plan(self, probe: BandwidthProbe) -> Iterable[Planned]:
        """The rows; raises `Refused` when there is one that cannot be had."""
        raise NotImplementedError

    def format(self, entry: Entry) -> str:
        """What is printed of a row."""
        return format_contenders(entry)

    def judge(self, entries: Sequence[Entry]) -> bool:
        """Whether what was measured, now or before, is as it must be."""
        return True

    def run(self) -> int:
        if self.device == "cuda" and (reason := unavailable_reason("cuda")) is not None:
            raise Refused(f"--device cuda would time the reference path: backend='cuda' is not available: {reason}")
        self.set_threads()
        device = torch.device(self.device)
        header = header_of(self.name, device, {**asdict(self.settings()), **self.more_settings()})
        results = Results(header, self.json, self.keys, self.fresh)
        planned = list(self.plan(BandwidthProbe(device)))
        print(format_environment(header["environment"]), self.legend, sep="\n\n", flush=True)
        entries = measure_rows(planned, results, self.format, device)
        return 0 if self.judge(entries) and len(entries) == len(planned) else 1


def measure_rows(
    planned: Sequence[Planned], results: Results, form: Callable[[Entry], str], device: torch.device
) -> list[Entry]:
    """The rows that could be measured, now or before, each printed as it comes; the others say why."""
    entries = []
    with tqdm(planned, disable=None, leave=False) as bar:  # no bar where the output is no terminal
        for each in bar:
            title = " ".join(map(str, each.key))
            bar.set_description(title)
            entry, said = results.find(each.key), "  measured before"
            if entry is None:
                entry, said = _measure(each, results, device)
            if entry is not None:
                entries.append(entry)
            bar.write(f"\n{title} {said}" if entry is None else f"\n{form(entry)}{said}")
            sys.stdout.flush()
    return entries


def _measure(planned: Planned, results: Results, device: torch.device) -> tuple[Entry | None, str]:
    """The row's entry, or None and why there is none. What comes after is worth having all the same."""
    if planned.bytes > (free := available_bytes(device)):
        return None, f"FAILED: it needs {planned.bytes / 1e9:.1f} GB of memory and {free / 1e9:.1f} GB are available"
    try:
        entry, wrong = planned.measure()
    except RuntimeError:
        return None, f"FAILED\n{traceback.format_exc()}"
    finally:
        if torch.cuda.is_initialized():  # blocks that torch keeps from one row are of the wrong sizes for the next
            torch.cuda.empty_cache()
    if wrong:
        results.add_wrong(planned.key, wrong)
        return None, f"WRONG RESULT: {'; '.join(wrong)}"
    results.add(entry)
    return entry, ""


def format_environment(environment: Entry) -> str:
    """Where and with what a run is made."""
    machine = "{cpu}, {cores} cores, {threads} threads, {system}".format(**environment)
    versions = "torchclip {torchclip} (backend {backend}), torch {torch}, Python {python}".format(**environment)
    return "\n".join(line for line in (versions, environment["gpu"], machine) if line)


def spread(time: Percentiles, factor: float, digits: int) -> str:
    """Median and, in brackets, p20 to p80."""
    return "{p50:,.{d}f} ({p20:,.{d}f} to {p80:,.{d}f})".format(d=digits, **{k: factor * v for k, v in time.items()})


def ratio(found: Percentiles) -> str:
    """How many times as fast."""
    return spread(found, 1, 2 if found["p50"] < 10 else 0)


def about_set(entry: Entry) -> str:
    """What a row steps over."""
    where = "in cache" if entry["in_cache"] else "from memory"
    return "{set}: {tensors:,} tensors, {elements:,} parameters, {where}".format(**entry, where=where)


def format_contenders(entry: Entry) -> str:
    """The block of one row: a headline, a line for each contender, and what the check found."""
    contenders = entry["contenders"]
    unit, factor = ("ms", 1e3) if contenders[OURS]["seconds"]["p50"] >= 1e-3 else ("us", 1e6)
    bandwidth = {name: probe["bytes"] / probe["seconds"]["p50"] * 1e-9 for name, probe in entry["bandwidth"].items()}
    headline = (
        f"{entry['title']} on {about_set(entry)}, {entry['words_per_element']:g} words each, "
        f"{entry['rounds']} rounds, triad {bandwidth[TRIAD]:.1f} GB/s, copy {bandwidth[COPY]:.1f} GB/s"
    )
    lines = [_cells(name, each, unit, factor) for name, each in contenders.items()]
    checks = {name: Check(**found) for name, found in entry["checks"].items()}
    return "\n".join([
        headline,
        tabulate(lines, headers="keys", tablefmt="plain", disable_numparse=True, colglobalalign="right"),
        *(f"{name} computes something else: {how}" for name, how in entry["different"].items()),
        *(
            f"{f'results of {name}' if len(checks) > 1 else 'results'} agree after {check.steps} steps: to "
            f"{max([*check.differences.values(), *check.errors.values()]):.1e} of {check.travel:.1e} moved "
            f"(tolerance {check.tolerance:.1e})"
            for name, check in checks.items()
        ),
    ])  # fmt: skip


def _cells(name: str, contender: Entry, unit: str, factor: float) -> dict[str, str]:
    cells = {"": name} | {f"{p} {unit}": f"{factor * value:,.2f}" for p, value in contender["seconds"].items()}
    cells["GB/s"] = f"{contender['gigabytes_per_second']:.2f}"
    cells |= {f"% {probe}": f"{100 * contender[f'share_of_{probe}']:.1f}" for probe in (TRIAD, COPY)}
    cells["temp. MB"] = f"{contender['temporary_bytes'] / 1e6:.2f}"
    if "queued_seconds" in contender:
        cells[f"queued {unit}"] = f"{factor * contender['queued_seconds']['p50']:,.2f}"
        cells["% queued"] = f"{100 * contender['queued_share_of_triad']:.1f}"
    if "launches" in contender:
        cells["host us"] = f"{1e6 * contender['host_seconds']['p50']:,.1f}"
        cells["warm us"] = f"{1e6 * contender['warm_host_seconds']:,.1f}"
        cells["launches"] = "{kernels} + {copies}".format(**contender["launches"])
    cells["ours is"] = "" if name == OURS else ratio(contender["speedup_of_ours"])
    if "swept_seconds" in contender:
        cells[f"swept {unit}"] = f"{factor * contender['swept_seconds']['p50']:,.2f}"
        cells["ours is, swept"] = "" if name == OURS else ratio(contender["swept_speedup_of_ours"])
    return cells
