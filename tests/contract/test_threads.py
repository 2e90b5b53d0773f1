"""A step wakes as many threads as torch says in the thread that takes it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from places import ROOT
from torchclip.backends.choice import unavailable_reason

TASKS = Path("/proc/self/task")

# Threads that torch.set_num_threads allows in the main thread and in the one that takes the step, and how many wake.
CASES = {
    "one of the process": (1, None, 0),
    "one of the thread": (3, 1, 0),
    "three of the process": (3, None, 2),
    "three of the thread": (1, 3, 2),
}

# More parameters than one thread refreshes by itself, and more elements than one updates by itself.
SCRIPT = """
import os, threading, torch, torchclip

def tasks():
    return len(os.listdir("/proc/self/task"))

def step(name, threads):
    if threads is not None:
        torch.set_num_threads(threads)
    parameters = [torch.nn.Parameter(torch.ones(1000)) for _ in range(600)]
    for parameter in parameters:
        parameter.grad = parameter.detach().clone()
    optimizer = torchclip.AdamW(parameters, clip=1.0, backend="cpu")
    before = tasks()
    torchclip.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
    optimizer.step()
    print(name, tasks() - before, sep=": ")

for name, (of_main, of_thread, _) in CASES.items():
    torch.set_num_threads(of_main)
    thread = threading.Thread(target=step, args=(name, of_thread))
    thread.start()
    thread.join()
"""


@pytest.mark.skipif(unavailable_reason("cpu") is not None, reason="the CPU passes are not built")
@pytest.mark.skipif(not TASKS.exists(), reason="threads are counted in /proc/self/task")
def test_threads_are_those_of_the_calling_thread() -> None:
    command = [sys.executable, "-c", f"CASES = {CASES}\n{SCRIPT}"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert printed.splitlines() == [f"{name}: {woken}" for name, (_, _, woken) in CASES.items()]


# As where a process has used up the threads that its user may have.
FEWER = """
import torch, torchclip

def stepped(threads):
    torch.set_num_threads(threads)
    parameters = [torch.nn.Parameter(torch.ones(1000)) for _ in range(3000)]
    for index, parameter in enumerate(parameters):
        parameter.grad = torch.full_like(parameter, 1.0 + index)
    optimizer = torchclip.AdamW(parameters, lr=0.1, clip=100.0, backend="cpu")
    optimizer.step()
    optimizer.step()
    return torch.stack([parameter.detach() for parameter in parameters])

alone = stepped(1)
assert (alone != 1).all()
print(torch.equal(stepped(4), alone))
"""


@pytest.mark.skipif(unavailable_reason("cpu") is not None, reason="the CPU passes are not built")
def test_fewer_threads_than_were_asked_for_do_all() -> None:
    environment = {**os.environ, "OMP_THREAD_LIMIT": "3"}
    command = [sys.executable, "-c", FEWER]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "True\n"
