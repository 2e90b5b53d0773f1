"""`python -m bench step` and `scaling`: optimizer steps of ours beside torch's and the papers' authors', in one run."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch

from bench.algorithm import Algorithm
from bench.bandwidth import BandwidthProbe
from bench.cases import ALGORITHMS, CUDA_ALGORITHMS
from bench.competitors import GRAPHS, KINDS, PEERS_KIND, peers_here, with_contenders
from bench.floors import CUDA_FLOORS, FLOORS, check_floors, compare
from bench.measure import Settings
from bench.measurement import Measurement, Planned
from bench.options import Refused, option, positive
from bench.precision import measure_precision
from bench.results import Entry, Found, read_document
from bench.row import Tensors, measure_row, required_bytes
from bench.shapes import CPU_SETS, CUDA_SETS, SHAPE_SETS, Shapes, element_count, scaling_sets
from bench.sharded import measure_sharded

# Times on a GPU that nobody else uses hardly vary, and the authors' loops take a fifth of a second for 2,000 tensors;
# the check repeats every step of the reference.
_CUDA_ROUNDS = {"min_rounds": 10, "max_rounds": 200}


@dataclass(kw_only=True)
class Step(Measurement):
    """whole optimizer steps over named sets of parameter shapes

    examples:
      python -m bench step                                        # every row of every set: half an hour
      python -m bench step --sets large --algorithms clip_sgd mixclip
      python -m bench step --sets host small medium large --check-floors --json results/step.json
      python -m bench step --against bench/results/cpu-baseline.json   # the rows and the seconds of that file
      python -m bench step --device cuda --check-floors           # a minute or two
    """

    name: ClassVar[str] = "step"
    seconds: float | None = option(  # type: ignore[assignment]
        None, f"time for one row (default: {Settings.seconds}, or that of --against)", positive(float)
    )
    sets: Sequence[str] = option((), "sets of shapes (default: those of the device)", choices=list(SHAPE_SETS))
    algorithms: Sequence[str] = option(
        (), "rows (default: all of the device)", choices=list(dict.fromkeys([*ALGORITHMS, *CUDA_ALGORITHMS]))
    )
    sharded: bool = option(False, "nothing but DTensors of two processes, beside torch's forms with their clipping")
    precision: bool = option(
        False, "nothing but AdamW in fewer bytes, on one set (default: large), beside what other libraries have of it"
    )
    cold: bool = option(False, "sets that fit into the cache start each timed step outside it")
    beside: Sequence[str] = option(
        (),
        "more competitors: torch's foreach form compiled, steps replayed from CUDA graphs, other libraries that are "
        "installed",
        choices=KINDS,
    )
    check_floors: bool = option(False, "exit with 1 when a speed that must be reached is missed")
    against: Path | None = option(
        None,
        "exit with 1 when ours, beside torch's fastest form, fell by more than 10 % since that run; without --sets and "
        "--algorithms its rows are measured, for its time",
        Path,
        metavar="PATH",
    )

    def __post_init__(self) -> None:
        self._baseline = None if self.against is None else read_document(self.against, "step")

    def run(self) -> int:
        if self.sharded and self.precision:
            raise Refused("--sharded and --precision are two measurements: ask for one")
        if self.sharded:
            return measure_sharded()
        if self.precision:
            if len(self.sets) > 1:
                raise Refused(f"--precision measures one set, got --sets {' '.join(self.sets)}")
            self.set_threads()
            return measure_precision((*self.sets, "large")[0], torch.device(self.device), self.settings())
        return super().run()

    def settings(self) -> Settings:
        seconds = self.seconds or (self._baseline["settings"]["seconds"] if self._baseline else Settings.seconds)
        return Settings(seconds=seconds, cold=self.cold, **(_CUDA_ROUNDS if self.device == "cuda" else {}))

    def more_settings(self) -> Mapping[str, Any]:
        return {"beside": sorted(self.beside)}

    def _rows(self) -> list[tuple[str, Algorithm]]:
        """The rows asked for."""
        algorithms = CUDA_ALGORITHMS if self.device == "cuda" else ALGORITHMS
        if self._baseline is not None and not self.sets and not self.algorithms:
            names = [(row["set"], row["algorithm"]) for row in self._baseline["rows"]]
            if here := [(name, algorithms[other]) for name, other in names if other in algorithms]:
                return here
            raise Refused(f"{self.against} has no row that --device {self.device} has")
        if unknown := sorted(set(self.algorithms) - set(algorithms)):
            raise Refused(f"--device {self.device} has no row {', '.join(unknown)}: choose of {', '.join(algorithms)}")
        return [
            (name, algorithms[algorithm])
            for name in self.sets or (CUDA_SETS if self.device == "cuda" else CPU_SETS)
            for algorithm in self.algorithms or algorithms
            # Where nobody asks for more, backends are compared on the largest set alone.
            if self.algorithms or name == CUDA_SETS[0] or not algorithm.endswith("_triton")
        ]

    def plan(self, probe: BandwidthProbe) -> Iterable[Planned]:
        if GRAPHS in self.beside and self.device != "cuda":
            raise Refused(f"--beside {GRAPHS} needs --device cuda")
        for name, reason in peers_here(probe.device)[1].items() if PEERS_KIND in self.beside else ():
            print(f"Left out: {name}: {reason}")
        for name, row in self._rows():
            shapes = SHAPE_SETS[name]()
            algorithm = with_contenders(row, self.beside, len(shapes), probe.device)
            measure = partial(measure_row, name, algorithm, probe, self.settings(), Tensors(shapes))
            yield Planned((name, algorithm.name), measure, required_bytes(algorithm, element_count(shapes)))

    def judge(self, entries: Sequence[Entry]) -> bool:
        reached = kept = True
        if self.check_floors:
            lines, reached = check_floors(entries, CUDA_FLOORS if self.device == "cuda" else FLOORS)
            print("\nFloors", *lines, sep="\n")
        if self._baseline is not None:
            lines, kept = compare(self._baseline["rows"], entries)
            then = self._baseline["environment"]
            print(f"\nAgainst {self.against}: {then['gpu'] or then['cpu']}, {then['threads']} threads,",
                  f"torch {then['torch']}, commit {self._baseline['commit'][:12]}", *lines, sep="\n")  # fmt: skip
        return reached and kept


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
    limits: ClassVar[Mapping[str, Any]] = {"min_rounds": 10, "max_rounds": 500}
    keys: ClassVar[Sequence[str]] = ("set", "algorithm", "threads")
    seconds: float = option(1.0, "time for one row, of ten rounds at least", positive(float))
    threads: Sequence[int] = option((), "numbers of threads (default: 1 and 2; on cuda 1)", positive(int), metavar="N")
    sets: Sequence[str] = option(
        (), "sets (default: all; on the CPU without parameters-1e9)", choices=list(scaling_sets("cuda"))
    )

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
