"""Which backend runs the steps of an optimizer, chosen anew when its parameters or groups have changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch
from torch import Tensor

from torchclip.backends import choice, flags
from torchclip.state.group_state import complete_shared
from torchclip.step.averaged import averages_shown
from torchclip.step.given import given
from torchclip.step.last_step import LastStep
from torchclip.step.measured_optimizer import MeasuredOptimizer


class BackedOptimizer(MeasuredOptimizer):
    """Abstract base of :class:`~torchclip.FusedOptimizer`: the life of the plan, without taking a step."""

    _requested: str | None
    _seed: int | None
    _shows_averages: bool = False

    @given
    def backend(self) -> str:
        """What runs the step, ``"cuda"``, ``"triton"``, ``"cpu"`` or ``"reference"``; see :attr:`backend_reason`."""
        own = self._own
        return own._choose_backend() if own._backend is None else own._backend

    def _choose_backend(self) -> str:
        self._backend = self._chosen_backend()
        try:
            self._complete_shared()  # whose numbers lie where the backend reads them
        except BaseException:
            self._backend = None
            raise
        return self._backend

    def _chosen_backend(self) -> str:
        return choice.choose_for_groups(self._requested, self.param_groups, self._compiled_reason)

    def _compiled_reason(self, backend: str) -> str | None:
        """Why a compiled backend does not take the step; None where it may."""
        return self._processes.compiled_reason(self, backend)

    @property
    def _demands_compiled(self) -> bool:
        return flags.demands_compiled(self._requested, self.param_groups)

    @property
    def backend_reason(self) -> str:
        """Why :attr:`backend` is what it is, and why each one that is preferred is not."""
        own = self._own
        return choice.explain(own._requested, own.param_groups, own._compiled_reason)

    @property
    def loss(self) -> Tensor | float | None:
        """The loss for the next step, where a framework calls ``step()`` without one; None where none was handed over.

        ``optimizer.loss = loss`` in front of ``step()`` is ``step(loss=loss)``. The next step takes it, whether its
        rule looks at it or not, and whatever comes of the step; ``step(loss=...)`` goes before it, and it before what
        a closure returns. It is no state.
        """
        return self._own._last.given_loss

    @loss.setter
    def loss(self, loss: Tensor | float | None) -> None:
        self._own._last.given_loss = loss.detach() if isinstance(loss, Tensor) else loss

    def _complete_shared(self) -> None:
        self._processes.check(self)
        with torch.inference_mode(False):
            complete_shared(
                self.param_groups,
                self._modifiers,
                self.spec,
                self.clips_by,
                self._seed,
                on_device=self._backend in choice.ON_DEVICE,
            )

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within ``with optimizer.averaged():`` the parameters hold the averages that ``WeightEMA`` keeps.

        For an evaluation, or to save the averaged model; it takes one copy of the parameters. What the parameters held
        comes back at the end, after an exception too. A parameter that no step has averaged stays as it is. Steps are
        refused meanwhile.

        Raises:
            RuntimeError: without ``WeightEMA`` among the extensions, and within another such block.

        Example:
            >>> import torch, torchclip
            >>> weight = torch.nn.Parameter(torch.zeros(1))
            >>> optimizer = torchclip.SGD([weight], lr=1.0, extensions=(torchclip.WeightEMA(0.5, warmup=False),))
            >>> weight.grad = torch.tensor([-2.0])
            >>> optimizer.step()
            >>> with optimizer.averaged():
            ...     print(weight.detach())
            tensor([1.])
        """
        own = self._own
        if own._modifiers.weight_ema is None:
            raise RuntimeError(
                f"averaged() shows what WeightEMA keeps, and the extensions are {own._modifiers.extensions}: make the "
                "optimizer with extensions=(torchclip.WeightEMA(decay=0.9999),)"
            )
        if own._shows_averages:
            raise RuntimeError("averaged() was called within averaged(): the parameters hold the averages already")
        own._shows_averages = True
        try:
            with averages_shown(own.param_groups, own.state):
                yield
        finally:
            own._shows_averages = False

    def _forget_plan(self) -> None:
        self._unstarted = self._all_unstarted()
        self._plan = None
        self._backend = None
        before = vars(self).get("_last", LastStep)  # what was handed over a load or a new param group does not take
        self._last = LastStep()
        self._last.given_loss, self._last.given_norm = before.given_loss, before.given_norm

    def _choose_anew(self) -> None:
        """At once, since a compiled step cannot; a backend that cannot run is an error of the next step."""
        self._forget_plan()
        with suppress(RuntimeError):
            self._choose_backend()

    def _still_served(self) -> bool:
        """False when the model was moved or cast since the backend was chosen, and another one runs from now on."""
        if self._chosen_backend() == self._backend:
            return True
        self._forget_plan()
        return False
