"""`python -m bench train`: steps per second of real models, and the curves of gRDA and AdaLoss on digits.

The curves are accuracy over sparsity, and accuracy over b0, of a network with one hidden layer on scikit-learn's
digits, so that a run takes a second and a point of a curve can have several seeds.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import nn
from torch.optim import Optimizer

import torchclip
from bench.algorithm import REFERENCE
from bench.bandwidth import BandwidthProbe
from bench.measure import Settings
from bench.measurement import Measurement, Planned
from bench.options import Refused, option, positive
from bench.results import Found
from bench.training import OPTIMIZERS, TASKS, losses_agree, measure_speed, take_step

if TYPE_CHECKING:
    from recipes.digits import Digits

SPEED, GRDA, ADALOSS = "speed", "grda", "adaloss"
_HIDDEN = 256
_CHECKED_STEPS = 20
_EXPLODED = 5.0  # a loss above that of guessing by so much that chance cannot be why

Make = Callable[[Iterable[nn.Parameter], torchclip.Backend | None], Optimizer]

_GRDA_C = (0.0, 0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.06)
_B0 = (1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3)


class Point(NamedTuple):
    """One point of a curve."""

    curve: str
    series: str
    parameter: str
    value: float
    make: Make


def _name(point: Point) -> str:
    return f"{point.series}, {point.parameter}={point.value:g}"


def _of(cls: Callable[..., Optimizer], **arguments: Any) -> Make:
    return lambda parameters, backend: cls(parameters, **arguments, backend=backend)


def points(curves: Sequence[str]) -> Iterator[Point]:
    """All points of these curves: of gRDA over c, of AdaLoss and its baselines at the same lr over b0."""
    if GRDA in curves:
        for c in _GRDA_C:
            yield Point(GRDA, "gRDA", "c", c, _of(torchclip.GRDA, lr=0.1, c=c, mu=0.6))
    for b0 in _B0 if ADALOSS in curves else ():
        decay = torchclip.SqrtDecay(b0=b0)
        yield Point(ADALOSS, "AdaLoss", "b0", b0, _of(torchclip.AdaLoss, lr=1.0, b0=b0))
        yield Point(ADALOSS, "AdaGradNorm", "b0", b0, _of(torchclip.AdaGradNorm, lr=1.0, b0=b0))
        yield Point(ADALOSS, "SGD, 1/sqrt(b0² + t)", "b0", b0, _of(torchclip.SGD, lr=1.0, step_size=decay))
        yield Point(ADALOSS, "SGD, 1/b0", "b0", b0, _of(torchclip.SGD, lr=1.0 / b0))


def _train(
    digits: "Digits", point: Point, epochs: int, seed: int, backend: torchclip.Backend | None = None
) -> tuple[nn.Module, list[float]]:
    """The model in the end, and the loss of every step."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, 10))
    optimizer = point.make(model.parameters(), backend)
    return model, [float(take_step(model, optimizer, batch)) for batch in digits.batches(epochs, seed)]


def measure_point(digits: "Digits", point: Point, epochs: int, seeds: int) -> Found:
    """The entry of one point, and what is wrong with it: its first losses against those on the reference path."""
    from recipes.digits import accuracy, exact_zeros

    before = torch.get_num_threads()
    torch.set_num_threads(1)  # enough for so small a model, and the same result whatever the number of cores
    try:
        trained = [_train(digits, point, epochs, seed) for seed in range(seeds)]
        _, reference = _train(digits, point, 1, 0, REFERENCE)
    finally:
        torch.set_num_threads(before)
    tests = digits.test_images, digits.test_labels
    runs = [
        {"seed": seed, "accuracy": accuracy(model, *tests), "sparsity": exact_zeros(model)}
        for seed, (model, _) in enumerate(trained)
    ]
    entry = {"set": point.curve, "algorithm": _name(point), "series": point.series, "parameter": point.parameter,
             "value": point.value, "runs": runs}  # fmt: skip
    # Of a step size that is far too large the losses differ by more than rounding once they explode.
    reference = reference[:_CHECKED_STEPS]
    calm = next((step for step, loss in enumerate(reference) if not loss <= _EXPLODED), len(reference))
    return entry, losses_agree(trained[0][1][:calm], reference[:calm], min_change=0.0) if calm else []


@dataclass(kw_only=True)
class Train(Measurement):
    """steps per second of real models; the curves of gRDA and AdaLoss"""

    name: ClassVar[str] = "train"
    seconds: float = option(2.0, "time for one optimizer on one model, of ten rounds at least", positive(float))
    parts: Sequence[str] = option((SPEED, GRDA, ADALOSS), "what is measured", choices=(SPEED, GRDA, ADALOSS))
    models: Sequence[str] = option(tuple(TASKS), "models", choices=tuple(TASKS))
    optimizers: Sequence[str] = option(tuple(OPTIMIZERS), "optimizers", choices=tuple(OPTIMIZERS))
    epochs: int = option(20, "of the curves", positive(int))
    seeds: int = option(5, "of the curves", positive(int))

    def settings(self) -> Settings:
        return Settings(seconds=self.seconds, min_rounds=10)

    def more_settings(self) -> Mapping[str, Any]:
        return {"epochs": self.epochs, "seeds": self.seeds}

    def plan(self, probe: BandwidthProbe) -> Iterable[Planned]:
        if self.seeds < 2:
            raise Refused("--seeds 1 has no spread: give two or more")
        for model in self.models if SPEED in self.parts else ():
            for name in self.optimizers:
                measure = partial(measure_speed, model, name, probe.device, self.settings())
                yield Planned((model, name), measure)
        if chosen := list(points(self.parts)):
            from recipes.digits import Digits  # scikit-learn's, which a machine that measures steps need not have

            digits = Digits.load()
        for point in chosen:
            yield Planned((point.curve, _name(point)), partial(measure_point, digits, point, self.epochs, self.seeds))
