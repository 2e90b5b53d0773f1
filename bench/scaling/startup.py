"""Imports and first steps, each in a fresh process, since a process has only one of them."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from bench.algorithm import OURS
from bench.measure import Percentiles

_ROOT = Path(__file__).resolve().parent.parent.parent
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
# Two steps of AdamW by lr and a little decay.
_MOVED = (1.9e-3, 2.1e-3)


def measure_startup(
    form: str, device: torch.device, threads: int, repeats: int, on_repeat: Callable[[float], None]
) -> dict[str, Any]:
    """The entry of one form.

    Raises:
        RuntimeError: when a process fails or its two steps did not move the parameters as AdamW does.
    """
    runs: list[Mapping[str, float]] = []
    for repeat in range(repeats):
        command = [sys.executable, "-c", _SCRIPT, form, device.type, str(threads)]
        finished = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)
        if finished.returncode != 0:
            raise RuntimeError(f"the first step of {form} failed: {finished.stderr.strip()[-500:]}")
        found = json.loads(finished.stdout.splitlines()[-1])
        if not _MOVED[0] <= found["moved"] <= _MOVED[1]:
            raise RuntimeError(f"two steps of {form} moved a parameter by {found['moved']}, expected {_MOVED}")
        runs.append(found["seconds"])
        on_repeat((repeat + 1) / repeats)
    return startup_entry(form, threads, runs)


def startup_entry(form: str, threads: int, runs: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    samples = {part: [round(run[part], 9) for run in runs] for part in PARTS if part in runs[0]}
    seconds = {part: vars(Percentiles.of(values)) for part, values in samples.items()}
    return {
        "set": "startup",
        "algorithm": form,
        "threads": threads,
        "seconds": seconds,
        "samples_seconds": samples,
    }


def format_startup(entry: Mapping[str, Any]) -> str:
    """One line."""
    parts = ", ".join(
        f"{part} {time['p50'] * 1e3:.1f} ms ({time['p20'] * 1e3:.1f} to {time['p80'] * 1e3:.1f})"
        for part, time in entry["seconds"].items()
    )
    return f"startup, {entry['algorithm']}, {entry['threads']} threads: {parts}"
