"""What gRDA and AdaLoss reach on scikit-learn's digits: accuracy over sparsity, and accuracy over b0.

A network of one hidden layer, so that a run takes a second and a point of a curve can have several seeds.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

import torchclip
from bench.train.speed import losses_agree
from recipes.digits import Digits, accuracy, exact_zeros

GRDA, ADALOSS = "grda", "adaloss"
_HIDDEN = 256
_CHECKED_STEPS = 20
_EXPLODED = 5.0  # a loss above that of guessing by so much that chance cannot be why

Make = Callable[[Iterable[nn.Parameter], torchclip.Backend | None], Optimizer]

_GRDA_C = (0.0, 0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.06)
_B0 = (1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3)


@dataclass(frozen=True)
class Point:
    """One point of a curve."""

    curve: str
    series: str
    parameter: str
    value: float
    make: Make

    @property
    def name(self) -> str:
        return f"{self.series}, {self.parameter}={self.value:g}"


def _grda(c: float) -> Make:
    return lambda parameters, backend: torchclip.GRDA(parameters, lr=0.1, c=c, mu=0.6, backend=backend)


def _adaloss(b0: float) -> Iterator[tuple[str, Make]]:
    """AdaLoss and its baselines at the same lr and b0."""
    yield "AdaLoss", lambda parameters, backend: torchclip.AdaLoss(parameters, lr=1.0, b0=b0, backend=backend)
    yield "AdaGradNorm", lambda parameters, backend: torchclip.AdaGradNorm(parameters, lr=1.0, b0=b0, backend=backend)
    yield (
        "SGD, 1/sqrt(b0² + t)",
        lambda parameters, backend: torchclip.SGD(
            parameters, lr=1.0, step_size=torchclip.SqrtDecay(b0=b0), backend=backend
        ),
    )
    yield "SGD, 1/b0", lambda parameters, backend: torchclip.SGD(parameters, lr=1.0 / b0, backend=backend)


def points(curves: Sequence[str]) -> list[Point]:
    """All points of these curves."""
    found = []
    if GRDA in curves:
        found += [Point(GRDA, "gRDA", "c", c, _grda(c)) for c in _GRDA_C]
    if ADALOSS in curves:
        found += [Point(ADALOSS, series, "b0", b0, make) for b0 in _B0 for series, make in _adaloss(b0)]
    return found


def _model(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, 10))


def _train(
    digits: Digits, point: Point, epochs: int, seed: int, backend: torchclip.Backend | None
) -> tuple[nn.Module, list[float]]:
    """The model in the end, and the loss of every step. recipes.digits.train hands no loss to a step."""
    model = _model(seed)
    optimizer = point.make(model.parameters(), backend)
    losses = []
    for images, labels in digits.batches(epochs, seed):
        loss = cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        if isinstance(optimizer, torchclip.AdaLoss):
            optimizer.step(loss=loss.detach())
        else:
            optimizer.step()
        losses.append(loss.item())
    return model, losses


def measure_point(
    digits: Digits, point: Point, epochs: int, seeds: int, on_run: Callable[[float], None]
) -> tuple[dict[str, Any], list[str]]:
    """The entry of one point, and what is wrong with it: its first losses against those on the reference path."""
    runs: list[dict[str, Any]] = []
    first: list[float] = []
    for seed in range(seeds):
        model, losses = _train(digits, point, epochs, seed, None)
        runs.append({
            "seed": seed,
            "accuracy": accuracy(model, digits.test_images, digits.test_labels),
            "sparsity": exact_zeros(model),
        })  # fmt: skip
        first = losses if seed == 0 else first
        on_run((seed + 1) / seeds)
    _, reference = _train(digits, point, 1, 0, "reference")
    entry = {
        "set": point.curve,
        "algorithm": point.name,
        "series": point.series,
        "parameter": point.parameter,
        "value": point.value,
        "runs": runs,
    }
    return entry, _wrong(first[:_CHECKED_STEPS], reference[:_CHECKED_STEPS])


def _wrong(ours: Sequence[float], reference: Sequence[float]) -> list[str]:
    """Of a step size that is far too large the losses differ by more than rounding once they explode."""
    calm = next((step for step, loss in enumerate(reference) if not loss <= _EXPLODED), len(reference))
    return losses_agree(ours[:calm], reference[:calm], min_change=0.0) if calm else []
