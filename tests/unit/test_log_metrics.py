"""``optimizer.log_metrics`` into writers of TensorBoard's form and of Weights & Biases'."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch

import torchclip
from builders import leaves
from torchclip import AdaGC, SkipSpikes


class Scalars:
    """TensorBoard's form."""

    def __init__(self) -> None:
        self.seen: dict[str, tuple[float, int | None]] = {}

    def add_scalar(self, name: str, value: float, step: int | None = None) -> None:
        self.seen[name] = (value, step)


class Run:
    """That of a run of wandb."""

    def __init__(self) -> None:
        self.seen: list[tuple[Mapping[str, float], int | None]] = []

    def log(self, numbers: Mapping[str, float], step: int | None = None) -> None:
        self.seen.append((numbers, step))


def test_every_number_is_written(backend: str) -> None:
    params = leaves(3)
    optimizer = torchclip.SGD(params, lr=0.1, clip=AdaGC(), skip=SkipSpikes(), backend=backend)
    optimizer.step(loss=1.0)
    scalars, run = Scalars(), Run()
    optimizer.log_metrics(scalars, 7)
    optimizer.log_metrics(run, 8, prefix="")
    metrics = optimizer.metrics()
    [(numbers, step)] = run.seen
    assert step == 8 and {name: (value, 7) for name, value in numbers.items()} == {
        name.removeprefix("optimizer/"): seen for name, seen in scalars.seen.items()
    }
    vectors = {name for name, value in metrics.items() if value.ndim > 0}
    assert vectors == {"grad_norm", "clip_factor", "clip_threshold"}
    assert set(numbers) == {name for name in metrics if name not in vectors} | {
        f"{name}/{kind}" for name in vectors for kind in ("min", "mean", "max")
    }
    assert numbers["sparsity"] == pytest.approx(float(metrics["sparsity"]))
    assert numbers["grad_norm/max"] == pytest.approx(float(metrics["grad_norm"].max()))
    assert all(isinstance(value, float) for value in numbers.values())


def test_thresholds_say_what_the_next_step_does(backend: str) -> None:
    params = [torch.nn.Parameter(torch.zeros(1))]
    optimizer = torchclip.SGD(params, lr=0.1, skip=SkipSpikes(4, 2.0), backend=backend)
    for norm in (1.0, 2.0, 3.0):
        params[0].grad = torch.tensor([norm])
        optimizer.step(loss=norm)
    metrics = optimizer.metrics()
    assert float(metrics["skip_norm_threshold"]) == float(metrics["skip_loss_threshold"]) == pytest.approx(4.0)
    for norm, skips in ((3.9, False), (9.0, True)):
        params[0].grad = torch.tensor([norm])
        optimizer.step(loss=2.0)
        assert optimizer.step_was_skipped == skips


def test_another_writer_is_refused() -> None:
    with pytest.raises(TypeError, match="log_metrics takes a writer with add_scalar.*got list"):
        torchclip.SGD(leaves(1), lr=0.1).log_metrics([])
