"""The time of what follows the backward pass, measured for all contestants in turns."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from statistics import median

from torch.nn.functional import cross_entropy

from recipes.contestants import CONTESTANTS
from recipes.digits import Digits, make_model

ROUNDS = 200
WARM_UP = 20


def _steps(digits: Digits, seed: int) -> dict[str, Callable[[], None]]:
    """For each contestant a step on a model of its own, with the gradients of a first real batch."""
    images, labels = next(digits.batches(epochs=1, seed=seed))
    steps = {}
    for contestant in CONTESTANTS:
        model = make_model(seed)
        cross_entropy(model(images), labels).backward()
        steps[contestant.name] = contestant.step(contestant.make(model.parameters()))
    return steps


def step_times(digits: Digits, seed: int) -> dict[str, float]:
    """The median over the rounds in microseconds, by name. A round is one step of each, in a new order every time."""
    steps = _steps(digits, seed)
    order = list(steps)
    shuffle = random.Random(seed).shuffle
    times: dict[str, list[int]] = {name: [] for name in order}
    for _ in range(WARM_UP + ROUNDS):
        shuffle(order)
        for name in order:
            start = time.perf_counter_ns()
            steps[name]()
            times[name].append(time.perf_counter_ns() - start)
    return {name: median(values[WARM_UP:]) / 1e3 for name, values in times.items()}
