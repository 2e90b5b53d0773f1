"""KeyboardInterrupt by a signal at random moments of many steps: each step is taken once or not at all."""

from __future__ import annotations

import random
import signal

import pytest
import torch

import torchclip
from memory_guard import same_bits
from torchclip import GradientDropout

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no interval timers"),
]

ROUNDS = 1_500
LONGEST = 4e-4
"""Seconds until the signal: some steps are over by then."""


def test_a_storm_of_interrupts(backend: str) -> None:
    """What an interrupted step has left is what a twin has after the step or before it, and the next step works."""
    draw = random.Random(0)
    params, copies = ([torch.nn.Parameter(torch.linspace(-1, 1, size)) for size in (1_000, 17, 3)] for _ in range(2))
    optimizer, twin = (
        torchclip.AdamW(group, lr=0.01, clip=1.0, extensions=(GradientDropout(0.1),), seed=3, backend=backend)
        for group in (params, copies)
    )

    def give(number: int) -> None:
        for position, (p, q) in enumerate(zip(params, copies)):
            p.grad = torch.full_like(p, 1.0 + (number + position) % 5)
            q.grad = p.grad.clone()

    def agrees() -> bool:
        same = all(map(same_bits, params, copies))
        for p, q in zip(params, copies):
            ours, theirs = optimizer.state.get(p, {}), twin.state.get(q, {})
            same = same and ours.keys() == theirs.keys() and all(same_bits(ours[key], theirs[key]) for key in theirs)
        count = [each.param_groups[0]["shared"]["step"] for each in (optimizer, twin)]
        return same and same_bits(*count)

    give(0)
    for each in (optimizer, twin):
        each.step()  # the first step makes state: how it is stopped is tested line by line
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    interrupted = skipped = 0
    try:
        for number in range(1, ROUNDS):
            give(number)
            try:
                signal.setitimer(signal.ITIMER_REAL, draw.uniform(1e-6, LONGEST))
                optimizer.step()
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                interrupted += 1
                torch.set_grad_enabled(True)
            signal.setitimer(signal.ITIMER_REAL, 0)
            if agrees():  # it was stopped before anything was done
                skipped += 1
                optimizer.step()
            twin.step()
            assert agrees(), f"round {number} left a step half taken"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert interrupted > ROUNDS // 20 and 0 < skipped <= interrupted
