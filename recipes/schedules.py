"""Learning-rate schedules that take gamma along: where lr is divided by ten, so is a clipping algorithm's threshold."""

from __future__ import annotations

import argparse
from abc import ABC, abstractmethod
from itertools import pairwise
from typing import Any

from torch.optim import Optimizer

_SCALED = ("lr", "gamma")


class Schedule(ABC):
    """Multiplies lr and gamma of every param group by :meth:`factor`, once an epoch."""

    def __init__(self, optimizer: Optimizer, epochs: int) -> None:
        self.epochs = epochs
        self._optimizer = optimizer
        self._initial = [{key: group[key] for key in _SCALED if key in group} for group in optimizer.param_groups]

    @abstractmethod
    def factor(self, epoch: int) -> float:
        """The factor during this epoch, the first being 0."""

    def start_epoch(self, epoch: int, factor: float = 1.0) -> None:
        """Sets lr and gamma for this epoch, times ``factor``."""
        for group, initial in zip(self._optimizer.param_groups, self._initial, strict=True):
            for key, value in initial.items():
                group[key] = value * self.factor(epoch) * factor

    def end_epoch(self, train_loss: float) -> None:
        """Hears the mean training loss of the epoch."""
        return

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a :meth:`state_dict`."""
        return


class Milestones(Schedule):
    """Divides by ten at every milestone, as the clipping paper does: ``80,120,150`` is 150 epochs and two divisions."""

    def __init__(self, optimizer: Optimizer, epochs: list[int]) -> None:
        super().__init__(optimizer, epochs[-1])
        self._milestones = epochs[:-1]

    def factor(self, epoch: int) -> float:
        return 0.1 ** sum(epoch >= milestone for milestone in self._milestones)


class Linear(Schedule):
    """Constant for half of the epochs, then down to a hundredth at nine tenths: the schedule of gRDA's CIFAR code."""

    def factor(self, epoch: int) -> float:
        progress = (epoch + 1) / self.epochs
        return 1.0 - 0.99 * min(max((progress - 0.5) / 0.4, 0.0), 1.0)


class Plateau(Schedule):
    """Divides by ten after more than ``patience`` epochs without a training loss lower by a ten-thousandth.

    The collection's schedule: ``torch.optim.lr_scheduler.ReduceLROnPlateau(patience=5)`` with gamma taken along.
    """

    def __init__(self, optimizer: Optimizer, epochs: int, patience: int = 5) -> None:
        super().__init__(optimizer, epochs)
        self._patience = patience
        self._best = float("inf")
        self._bad_epochs = 0
        self._factor = 1.0

    def factor(self, epoch: int) -> float:
        return self._factor

    def end_epoch(self, train_loss: float) -> None:
        if train_loss < self._best * (1 - 1e-4):
            self._best, self._bad_epochs = train_loss, 0
            return
        self._bad_epochs += 1
        if self._bad_epochs > self._patience:
            self._factor, self._bad_epochs = self._factor * 0.1, 0

    def state_dict(self) -> dict[str, Any]:
        return {"best": self._best, "bad_epochs": self._bad_epochs, "factor": self._factor}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._best, self._bad_epochs, self._factor = state["best"], state["bad_epochs"], state["factor"]


def epochs_of(text: str) -> list[int]:
    """``"80,120,150"``: increasing numbers, the last that of the epochs. For argparse."""
    try:
        epochs = [int(number) for number in text.split(",")]
    except ValueError:
        epochs = []
    if not epochs or epochs[0] < 1 or any(later <= earlier for earlier, later in pairwise(epochs)):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a list of increasing epochs: 80,120,150 divides by ten after 80 and 120 and ends at 150"
        )
    return epochs


SCHEDULES = ("milestones", "linear", "plateau")


def make_schedule(name: str, optimizer: Optimizer, epochs: list[int]) -> Schedule:
    """One of :data:`SCHEDULES`. Raises ValueError for milestones under another schedule."""
    if name == "milestones":
        return Milestones(optimizer, epochs)
    if len(epochs) > 1:
        raise ValueError(f"--schedule {name} has no milestones: give --epochs {epochs[-1]}, not {epochs}")
    return (Linear if name == "linear" else Plateau)(optimizer, epochs[-1])
