"""What the commands that measure have in common: their options, and rows that are measured or found in the file."""

import gc
import sys
import traceback
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from tqdm import tqdm

from bench.bandwidth import BandwidthProbe
from bench.measure import Settings
from bench.options import Command, Refused, option, positive
from bench.report import LEGEND, RECORDS, described
from bench.results import Entry, Found, Results, available_bytes, header_of
from torchclip.backends.choice import unavailable_reason


class Planned(NamedTuple):
    """A row to come: its entries under the keys of the results, what measures it, and the memory that takes."""

    key: tuple[str | int, ...]
    measure: Callable[[], Found]
    bytes: float = 0.0


@dataclass(kw_only=True)
class Measurement(Command):
    """A command that measures rows."""

    keys: ClassVar[Sequence[str]] = ("set", "algorithm")  # what tells one row from another
    limits: ClassVar[Mapping[str, Any]] = {}  # of its Settings, beside the seconds
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
        return Settings(seconds=self.seconds, **self.limits)

    def more_settings(self) -> Entry:
        """What else a file is not continued without."""
        return {}

    def set_threads(self) -> None:
        """Before anything is measured."""
        if len(self.threads) > 1:
            raise Refused(f"{self.name} runs with one number of threads, got --threads {self.threads}")
        if self.threads:
            torch.set_num_threads(self.threads[0])

    @abstractmethod
    def plan(self, probe: BandwidthProbe) -> Iterable[Planned]:
        """The rows; raises `Refused` when there is one that cannot be had."""

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
        where = header["environment"]
        print(*filter(None, (where["gpu"], described(where), LEGEND + "\n")), sep="\n\n", flush=True)
        entries = measure_rows(planned, results, self.name, device)
        return 0 if self.judge(entries) and len(entries) == len(planned) else 1


def measure_rows(planned: Sequence[Planned], results: Results, command: str, device: torch.device) -> list[Entry]:
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
                cells = RECORDS[command](entry).items()
                known = ("", *map(str, each.key))
                said = "; ".join(f"{name} {value}" for name, value in cells if name and value not in known) + said
            bar.write(f"{title}  {said}")
            sys.stdout.flush()
    return entries


def _measure(planned: Planned, results: Results, device: torch.device) -> tuple[Entry | None, str]:
    """The row's entry, or None and why there is none. What comes after is worth having all the same."""
    gc.collect()  # what the row before has left
    if torch.cuda.is_initialized():  # blocks that torch keeps are of the wrong sizes for this row
        torch.cuda.empty_cache()
    if planned.bytes > (free := available_bytes(device)):
        return None, f"FAILED: it needs {planned.bytes / 1e9:.1f} GB of memory and {free / 1e9:.1f} GB are available"
    try:
        entry, wrong = planned.measure()
    except RuntimeError:
        return None, f"FAILED\n{traceback.format_exc()}"
    if wrong:
        return None, f"WRONG RESULT: {'; '.join(wrong)}"
    results.add(entry)
    return entry, ""
