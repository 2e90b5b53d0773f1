"""Learning-rate schedules that take gamma along: where lr is divided by ten, so is a clipping algorithm's threshold."""

from __future__ import annotations

import argparse
from itertools import pairwise
from typing import Any

from torch.optim import Optimizer

SCHEDULES = ("milestones", "linear", "plateau")
_SCALED = ("lr", "gamma")
_PATIENCE = 5  # epochs, of plateau


class Schedule:
    """Multiplies lr and gamma of every param group by :meth:`factor`, once an epoch.

    - ``milestones`` divides by ten at every milestone, as the clipping paper does: 80,120,150 is 150 epochs and two
      divisions.
    - ``linear`` is constant for half of the epochs, then falls to a hundredth at nine tenths: gRDA's CIFAR code.
    - ``plateau`` divides by ten after more than five epochs without a training loss lower by a ten-thousandth: the
      collection's ``torch.optim.lr_scheduler.ReduceLROnPlateau(patience=5)``.

    Raises:
        ValueError: milestones under another schedule.
    """

    def __init__(self, name: str, optimizer: Optimizer, epochs: list[int]) -> None:
        if name != "milestones" and len(epochs) > 1:
            raise ValueError(f"--schedule {name} has no milestones: give --epochs {epochs[-1]}, not {epochs}")
        *self._milestones, self.epochs = epochs
        self._name, self._optimizer = name, optimizer
        self._initial = [{key: group[key] for key in _SCALED if key in group} for group in optimizer.param_groups]
        self._state: dict[str, Any] = {"best": float("inf"), "bad_epochs": 0, "factor": 1.0}

    def factor(self, epoch: int) -> float:
        """The factor during this epoch, the first being 0."""
        if self._name == "plateau":
            return float(self._state["factor"])
        if self._name == "linear":
            return 1.0 - 0.99 * min(max(((epoch + 1) / self.epochs - 0.5) / 0.4, 0.0), 1.0)
        return 0.1 ** sum(epoch >= milestone for milestone in self._milestones)

    def start_epoch(self, epoch: int, factor: float = 1.0) -> None:
        """Sets lr and gamma for this epoch, times ``factor``."""
        for group, initial in zip(self._optimizer.param_groups, self._initial, strict=True):
            for key, value in initial.items():
                group[key] = value * self.factor(epoch) * factor

    def end_epoch(self, train_loss: float) -> None:
        """Hears the mean training loss of the epoch."""
        state = self._state
        if train_loss < state["best"] * (1 - 1e-4):
            state |= {"best": train_loss, "bad_epochs": 0}
            return
        state["bad_epochs"] += 1
        if state["bad_epochs"] > _PATIENCE:
            state |= {"factor": state["factor"] * 0.1, "bad_epochs": 0}

    def state_dict(self) -> dict[str, Any]:
        return dict(self._state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a :meth:`state_dict`."""
        self._state |= state


def epochs_of(text: str) -> list[int]:
    """``"80,120,150"``: increasing numbers, the last that of the epochs. For argparse."""
    epochs = [int(number) if number.strip().isdecimal() else 0 for number in text.split(",")]
    if epochs[0] < 1 or any(later <= earlier for earlier, later in pairwise(epochs)):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a list of increasing epochs: 80,120,150 divides by ten after 80 and 120 and ends at 150"
        )
    return epochs
