"""The rows of a run: each is measured, or found in the file, and printed as it comes."""

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.progress import Progress
from bench.store import Entry, Results

Hear = Callable[[float], None]
"""Told the share of the row that is done."""


@dataclass(frozen=True)
class Planned:
    """A row to come."""

    key: tuple[str | int, ...]
    """Its entries under the keys of the results."""
    measure: Callable[[Hear], tuple[Entry, Sequence[str]]]
    """The entry, and what is wrong with it."""

    @property
    def title(self) -> str:
        return " ".join(map(str, self.key))


def measure_rows(planned: Sequence[Planned], results: Results, form: Callable[[Entry], str]) -> int:
    """Measures what the file does not have yet and prints every row.

    Args:
        planned: the rows, in order.
        results: takes them in.
        form: the line of a row.

    Returns:
        The number of rows that could not be measured or whose results were wrong.
    """
    failed = 0
    with Progress(len(planned)) as progress:
        for done, each in enumerate(planned):
            entry = results.find(*each.key)
            if entry is None:
                progress.describe(each.title)
                entry = _measure(each, results, progress, done)
            if entry is None:
                failed += 1
            else:
                progress.write(form(entry))
    if results.wrong:
        print(f"\n{len(results.wrong)} of {len(planned)} rows ended with wrong results: see above.")
    return failed


def _measure(planned: Planned, results: Results, progress: Progress, done: int) -> Entry | None:
    """The row's entry; None, having said why, when there is none. What comes after is worth having all the same."""
    try:
        entry, wrong = planned.measure(lambda fraction: progress.reach(done + fraction))
    except MemoryError as error:
        progress.write(f"{planned.title} FAILED: {error}")
        return None
    except RuntimeError:
        progress.write(f"{planned.title} FAILED\n{traceback.format_exc()}")
        return None
    if wrong:
        progress.write(f"{planned.title}  WRONG RESULT: {'; '.join(wrong)}")
        results.add_wrong(planned.key, wrong)
        return None
    results.add(entry)
    return entry
