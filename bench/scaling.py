"""`python -m bench scaling`: time over parameters, tensors and threads; imports and first steps."""

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch

from bench.algorithm import OURS, Algorithm
from bench.bandwidth import BandwidthProbe
from bench.cases import ALGORITHMS, CUDA_ALGORITHMS
from bench.machine import ROOT
from bench.measure import Settings, percentiles
from bench.measurement import Measurement, Planned
from bench.options import option, positive
from bench.results import Entry, Found
from bench.row import Tensors, measure_row, required_bytes
from bench.shapes import Shapes, element_count

PARAMETERS, TENSORS, STARTUP = "parameters", "tensors", "startup"

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


FORMS = (OURS, "foreach", "fused")
PARTS = ("import torch", "import torchclip", "first step", "second step")

# resnet50's tensors, AdamW, clipping at 1. The device is woken up before the first step is timed.
_SCRIPT = """
import json, sys, time
form, device, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
begin = time.perf_counter()
import torch
torch_there = time.perf_counter()
if form == "ours":
    import torchclip
there = time.perf_counter()
torch.set_num_threads(threads)
from bench.shapes import resnet50
parameters = [torch.nn.Parameter(torch.ones(shape, device=device)) for shape in resnet50()]
for parameter in parameters:
    parameter.grad = torch.ones_like(parameter)
wait = torch.cuda.synchronize if device == "cuda" else lambda: None
def timed(step):
    wait()
    start = time.perf_counter()
    step()
    wait()
    return time.perf_counter() - start
made = []
def first():
    if form == "ours":
        made.append(torchclip.AdamW(parameters, lr=1e-3, clip=1.0))
    else:
        made.append(torch.optim.AdamW(parameters, lr=1e-3, **{form: True}))
    step()
def step():
    if form != "ours":
        torch.nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
    made[0].step()
seconds = {"import torch": torch_there - begin, "first step": timed(first), "second step": timed(step)}
if form == "ours":
    seconds["import torchclip"] = there - torch_there
moved = max(float((parameter - 1).abs().max()) for parameter in parameters)
print(json.dumps({"seconds": seconds, "moved": moved}))
"""
_MOVED = (1.9e-3, 2.1e-3)  # two steps of AdamW by lr and a little decay


def measure_startup(form: str, device: str, threads: int, repeats: int) -> Entry:
    """Imports and first steps of one form, each in a fresh process, since a process has only one of them.

    Raises:
        RuntimeError: when a process fails or its two steps did not move the parameters as AdamW does.
    """
    runs: list[Mapping[str, float]] = []
    for _ in range(repeats):
        command = [sys.executable, "-c", _SCRIPT, form, device, str(threads)]
        finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if finished.returncode != 0:
            raise RuntimeError(f"the first step of {form} failed: {finished.stderr.strip()[-500:]}")
        found = json.loads(finished.stdout.splitlines()[-1])
        if not _MOVED[0] <= found["moved"] <= _MOVED[1]:
            raise RuntimeError(f"two steps of {form} moved a parameter by {found['moved']}, expected {_MOVED}")
        runs.append(found["seconds"])
    samples = {part: [round(run[part], 9) for run in runs] for part in PARTS if part in runs[0]}
    seconds = {part: percentiles(values) for part, values in samples.items()}
    return {"set": STARTUP, "algorithm": form, "threads": threads, "seconds": seconds, "samples_seconds": samples}


@dataclass(kw_only=True)
class Scaling(Measurement):
    """time over parameters, tensors and threads; imports and first steps"""

    name: ClassVar[str] = "scaling"
    keys: ClassVar[Sequence[str]] = ("set", "algorithm", "threads")
    seconds: float = option(1.0, "time for one row, of ten rounds at least", positive(float))
    threads: Sequence[int] = option((), "numbers of threads (default: 1 and 2; on cuda 1)", positive(int), metavar="N")
    sets: Sequence[str] = option(
        (), "sets (default: all; on the CPU without parameters-1e9)", choices=[*scaling_sets("cuda"), STARTUP]
    )
    repeats: int = option(5, "fresh processes for each first step", positive(int))

    def settings(self) -> Settings:
        return Settings(seconds=self.seconds, min_rounds=10, max_rounds=500)

    def more_settings(self) -> Mapping[str, Any]:
        return {"repeats": self.repeats}

    def set_threads(self) -> None:
        """Each row has its own."""

    def plan(self, probe: BandwidthProbe) -> Iterable[Planned]:
        sets = scaling_sets(self.device)
        for name in self.sets or (*sets, STARTUP):
            for threads in self.threads or ((1,) if self.device == "cuda" else (1, 2)):
                if name == STARTUP:
                    yield from (self._startup(form, threads) for form in FORMS)
                elif name in sets:
                    yield from (
                        self._step(name, sets[name], row, threads, probe) for row in scaling_algorithms(self.device)
                    )

    def _startup(self, form: str, threads: int) -> Planned:
        measure = partial(measure_startup, form, self.device, threads, max(2, self.repeats))
        return Planned((STARTUP, form, threads), lambda: (measure(), ()))

    def _step(self, name: str, shapes: Shapes, algorithm: Algorithm, threads: int, probe: BandwidthProbe) -> Planned:
        def measure() -> Found:
            before = torch.get_num_threads()
            torch.set_num_threads(threads)
            try:
                entry, wrong = measure_row(name, algorithm, probe, self.settings(), Tensors(shapes))
            finally:
                torch.set_num_threads(before)
            return {**entry, "threads": threads}, wrong

        return Planned((name, algorithm.name, threads), measure, required_bytes(algorithm, element_count(shapes)))
