"""NT-ASGD, the average of weights in Merity et al. 2018 (arXiv 1708.02182, section 3), taken once an epoch.

The clipping paper's language models are evaluated with it, whatever the algorithm: it reads the weights and never
changes the ones that are trained.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


class NonMonotonicAverage:
    """The mean of the weights after each epoch, from the epoch on that follows a non-monotonic validation loss.

    That is one above the lowest of all epochs before it but the last ``nonmono``, at least one.

    Raises:
        ValueError: nonmono is below 0.
    """

    def __init__(self, nonmono: int) -> None:
        if nonmono < 0:
            raise ValueError(f"{nonmono=}, expected at least 0, the epochs whose losses are not looked at")
        self._nonmono = nonmono
        self._losses: list[float] = []
        self._started = False
        self._count = 0
        self._means: list[Tensor] = []

    @torch.no_grad()
    def including(self, parameters: Sequence[Tensor]) -> tuple[int, list[Tensor]]:
        """How many epochs the mean has when these weights are added to it, and that mean; (0, []) before it starts."""
        if not self._started:
            return 0, []
        count = self._count + 1
        if count == 1:
            return count, [parameter.clone() for parameter in parameters]
        return count, [
            torch.lerp(mean, parameter, 1 / count) for mean, parameter in zip(self._means, parameters, strict=True)
        ]

    def end_epoch(self, parameters: Sequence[Tensor], valid_loss: float) -> None:
        """Adds the weights, or hears the validation loss and decides whether the next epoch's are the first."""
        if self._started:
            self._count, self._means = self.including(parameters)
            return
        earlier = self._losses[: max(len(self._losses) - self._nonmono, 0)]
        self._started = bool(earlier) and valid_loss > min(earlier)
        self._losses.append(valid_loss)

    def state_dict(self) -> dict[str, Any]:
        return {"losses": self._losses, "started": self._started, "count": self._count, "means": self._means}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a :meth:`state_dict`."""
        self._losses, self._started = list(state["losses"]), state["started"]
        self._count, self._means = state["count"], list(state["means"])


@contextmanager
def substituted(parameters: Sequence[Tensor], values: Sequence[Tensor]) -> Iterator[None]:
    """The parameters have these values inside, and their own again, bit for bit, afterwards; no values change nothing.

    In place, since an optimizer that runs over their storage must find them where they were.
    """
    if not values:
        yield
        return
    with torch.no_grad():
        own = [parameter.clone() for parameter in parameters]
        for parameter, value in zip(parameters, values, strict=True):
            parameter.copy_(value)
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(parameters, own, strict=True):
                parameter.copy_(value)
