"""The guard against getting slower: a run beside an earlier one, by ratios, which machines share better than seconds.

What is compared is how many times as fast as torch's fastest form ours is; where torch has no form, as the papers'
authors' loop or our own step without the feature.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.algorithm import AUTHORS, PLAIN, TORCH_FORMS
from bench.triton_cases import PREFERRED

FALL = 0.10
"""The part of a ratio that may be lost: beyond it lie changes of the code, short of it the noise of a quiet machine."""

Entry = Mapping[str, Any]


@dataclass(frozen=True)
class Change:
    """One row of both runs, as medians of ratios."""

    set_name: str
    algorithm: str
    rival: str  # the fastest one, now
    before: float
    now: float

    @property
    def fell(self) -> bool:
        return not self.now >= (1 - FALL) * self.before

    def line(self) -> str:
        verdict = "FELL" if self.fell else "kept"
        ratios = f"{self.before:8.2f} x -> {self.now:8.2f} x  ({100 * (self.now / self.before - 1):+.0f} %)"
        return f"{verdict}  {self.set_name:<10}{self.algorithm:<24}{ratios}  beside {self.rival}"


def _rivals(entry: Entry, names: Iterable[str]) -> dict[str, float]:
    """How many times as fast as each of them ours is."""
    contenders = entry["contenders"]
    return {name: contenders[name]["speedup_of_ours"]["p50"] for name in names if name in contenders}


def _change(before: Entry, now: Entry) -> Change | None:
    """None where the two have no competitor in common."""
    for names in (TORCH_FORMS, (AUTHORS,), (PLAIN,), (PREFERRED,)):
        # Forms that one run alone has are left out: it may have been asked for another one.
        common = [name for name in names if name in before["contenders"] and name in now["contenders"]]
        if common:
            earlier, later = _rivals(before, common), _rivals(now, common)
            rival = min(common, key=lambda name: later[name])
            return Change(now["set"], now["algorithm"], rival, min(earlier.values()), later[rival])
    return None


def compare(baseline: Sequence[Entry], entries: Sequence[Entry]) -> tuple[list[str], bool]:
    """The lines to print, and whether nothing fell.

    Args:
        baseline: the rows of the earlier run.
        entries: the rows of this one.
    """
    before = {(entry["set"], entry["algorithm"]): entry for entry in baseline}
    pairs = [(before.pop(key), entry) for entry in entries if (key := (entry["set"], entry["algorithm"])) in before]
    changes = [change for pair in pairs if (change := _change(*pair)) is not None]
    lines = [change.line() for change in changes]
    if before:
        lines.append(f"{len(before)} rows of the baseline were not measured by this run.")
    fallen = [change for change in changes if change.fell]
    lines.append(f"{len(fallen)} of {len(changes)} rows fell by more than {100 * FALL:.0f} %.")
    # A comparison of nothing has guarded nothing.
    return lines, bool(changes) and not fallen


def names_of(baseline: Sequence[Entry]) -> list[tuple[str, str]]:
    """The set and the algorithm of each row."""
    return [(entry["set"], entry["algorithm"]) for entry in baseline]
