"""`python -m bench scaling`: time over parameters, tensors and threads."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch

from bench.algorithm import Algorithm
from bench.bandwidth import BandwidthProbe
from bench.cases import ALGORITHMS, CUDA_ALGORITHMS
from bench.measure import Settings
from bench.measurement import Measurement, Planned
from bench.options import option, positive
from bench.results import Found
from bench.row import Tensors, measure_row, required_bytes
from bench.shapes import Shapes, element_count

PARAMETERS, TENSORS = "parameters", "tensors"

_TENSORS = 10  # enough to be a model, few enough for a thousand parameters
_LARGEST = 10**6  # parameters of a tensor: whole tensors are what results are checked on
_SIZE = 64  # elements: next to nothing to do for each
_COUNTS = (1, 10, 100, 1000, 10_000)


def scaling_sets(device: str) -> Mapping[str, Shapes]:
    """By name: so many parameters in ten tensors or in more of a million, and so many tensors of a few parameters."""
    sizes = {e: min(10**e // _TENSORS, _LARGEST) for e in range(3, 10 if device == "cuda" else 9)}
    sets = {f"{PARAMETERS}-1e{e}": ((size,),) * (10**e // size) for e, size in sizes.items()}
    return {**sets, **{f"{TENSORS}-{count}": ((_SIZE,),) * count for count in _COUNTS}}


def scaling_algorithms(device: str) -> list[Algorithm]:
    """Clipping rows beside the forms of torch's that are fast; its loop takes a second for ten thousand tensors."""
    rows = [(CUDA_ALGORITHMS if device == "cuda" else ALGORITHMS)[name] for name in ("clip_sgd", "clip_adamw")]
    if device == "cuda":
        return rows
    fast = ({name: build for name, build in row.contenders.items() if name != "loop"} for row in rows)
    return [replace(row, contenders=builds, reference="foreach") for row, builds in zip(rows, fast, strict=True)]


@dataclass(kw_only=True)
class Scaling(Measurement):
    """time over parameters, tensors and threads"""

    name: ClassVar[str] = "scaling"
    keys: ClassVar[Sequence[str]] = ("set", "algorithm", "threads")
    seconds: float = option(1.0, "time for one row, of ten rounds at least", positive(float))
    threads: Sequence[int] = option((), "numbers of threads (default: 1 and 2; on cuda 1)", positive(int), metavar="N")
    sets: Sequence[str] = option(
        (), "sets (default: all; on the CPU without parameters-1e9)", choices=list(scaling_sets("cuda"))
    )

    def settings(self) -> Settings:
        return Settings(seconds=self.seconds, min_rounds=10, max_rounds=500)

    def set_threads(self) -> None:
        """Each row has its own."""

    def plan(self, probe: BandwidthProbe) -> Iterable[Planned]:
        sets = scaling_sets(self.device)
        for name in self.sets or sets:
            for threads in self.threads or ((1,) if self.device == "cuda" else (1, 2)):
                for row in scaling_algorithms(self.device) if name in sets else ():
                    measure = partial(self._measure, name, row, threads, probe, sets[name])
                    bytes_needed = required_bytes(row, element_count(sets[name]))
                    yield Planned((name, row.name, threads), measure, bytes_needed)

    def _measure(self, name: str, row: Algorithm, threads: int, probe: BandwidthProbe, shapes: Shapes) -> Found:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            entry, wrong = measure_row(name, row, probe, self.settings(), Tensors(shapes))
        finally:
            torch.set_num_threads(before)
        return {**entry, "threads": threads}, wrong
