"""`python -m bench train`: training steps per second of two real models, with ours and with torch's optimizers."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from bench.bandwidth import BandwidthProbe
from bench.measure import Settings
from bench.measurement import Measurement, Planned
from bench.options import option, positive
from bench.training import OPTIMIZERS, TASKS, measure_speed


@dataclass(kw_only=True)
class Train(Measurement):
    """training steps per second of real models"""

    name: ClassVar[str] = "train"
    seconds: float = option(2.0, "time for one optimizer on one model, of ten rounds at least", positive(float))
    models: Sequence[str] = option(tuple(TASKS), "models", choices=tuple(TASKS))
    optimizers: Sequence[str] = option(tuple(OPTIMIZERS), "optimizers", choices=tuple(OPTIMIZERS))

    def settings(self) -> Settings:
        return Settings(seconds=self.seconds, min_rounds=10)

    def plan(self, probe: BandwidthProbe) -> Iterable[Planned]:
        for model in self.models:
            for name in self.optimizers:
                measure = partial(measure_speed, model, name, probe.device, self.settings())
                yield Planned((model, name), measure)
