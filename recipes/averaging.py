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
        self._state: dict[str, Any] = {"losses": [], "started": False, "count": 0, "means": []}

    @torch.no_grad()
    def including(self, parameters: Sequence[Tensor]) -> tuple[int, list[Tensor]]:
        """How many epochs the mean has when these weights are added to it, and that mean; (0, []) before it starts."""
        if not self._state["started"]:
            return 0, []
        count = self._state["count"] + 1
        means = self._state["means"] or parameters
        return count, [torch.lerp(mean, one, 1 / count) for mean, one in zip(means, parameters, strict=True)]

    def end_epoch(self, parameters: Sequence[Tensor], valid_loss: float) -> None:
        """Adds the weights, or hears the validation loss and decides whether the next epoch's are the first."""
        state = self._state
        if state["started"]:
            state["count"], state["means"] = self.including(parameters)
            return
        earlier = state["losses"][: max(len(state["losses"]) - self._nonmono, 0)]
        state["started"] = bool(earlier) and valid_loss > min(earlier)
        state["losses"].append(valid_loss)

    def state_dict(self) -> dict[str, Any]:
        return self._state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a :meth:`state_dict`."""
        self._state = state


@contextmanager
def substituted(parameters: Sequence[Tensor], values: Sequence[Tensor]) -> Iterator[None]:
    """The parameters have these values inside, and their own again, bit for bit, afterwards; no values change nothing.

    In place, since an optimizer that runs over their storage must find them where they were.
    """

    @torch.no_grad()
    def set_to(others: Sequence[Tensor]) -> None:
        for parameter, other in zip(parameters, others, strict=True):
            parameter.copy_(other)

    if not values:
        yield
        return
    own = [parameter.detach().clone() for parameter in parameters]
    set_to(values)
    try:
        yield
    finally:
        set_to(own)
