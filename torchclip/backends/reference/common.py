"""What the processes of a step share beside its norms: whether one has a gradient, AMP's overflow, and the loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from torchclip.backends.reference.run import Run
from torchclip.distributed.exchange import Over, Sum, processes_in, takes_sums
from torchclip.rules.norms import norm_dtype
from torchclip.state.sharded import local_of
from torchclip.state.steppable import leading_device


@dataclass(frozen=True)
class Common:
    """Of one step; what comes of other processes is there once the exchange has run.

    Args:
        own_gradient: whether this process has one, or is told so.
        gradients: how many processes have one, of each set of them that sums are added over.
        found_inf: AMP's, one element; None without.
        overflows: how many processes have found one that is not 0; None where none is asked.
        loss: 0-dim; None without.
        losses: the sum of all, each divided by their number; None where this process's is taken.
    """

    own_gradient: bool
    gradients: tuple[Sum, ...]
    found_inf: Tensor | None
    overflows: Sum | None
    loss: Tensor | None
    losses: Sum | None

    @classmethod
    def of(cls, run: Run, loss: Tensor | None, found_inf: Tensor | None, loss_over: Over) -> Common:
        """Hands the run's exchange what it has to add.

        Args:
            run: the step.
            loss, found_inf: this process's.
            loss_over: over which processes the loss is averaged.
        """
        # Whoever gives a norm knows that there are gradients.
        own, layout, exchange = bool(run.entries) or run.given_norm is not None, run.layout, run.exchange
        if layout is None or exchange is None:
            return cls(own, (), found_inf, None, loss, None)
        over = layout.across
        overflows, losses = None, None
        measures = run.modifiers.measures and run.given_norm is None
        has_sums = takes_sums(run.spec, run.param_groups, measures=measures)
        device = leading_device(run.param_groups)  # that of the norms, so that no copy is waited for
        counted = torch.full((), float(own), dtype=norm_dtype(device), device=device)
        gradients = tuple(exchange.add(counted, each) for each in (layout.sums if has_sums else ()))
        if over and found_inf is not None:
            overflows = exchange.add((local_of(found_inf) != 0).any().to(torch.float64), over)
        if loss_over and loss is not None:
            losses = exchange.add(loss, loss_over, 1 / processes_in(loss_over))
        return cls(own, gradients, found_inf, overflows, loss, losses)

    @property
    def has_gradient(self) -> bool:
        """Whether any process has: the step is one of all of them."""
        return self.own_gradient or any(bool(each.total > 0) for each in self.gradients)

    @property
    def overflow(self) -> Tensor | None:
        """AMP's ``found_inf``, of any of them."""
        return self.found_inf if self.overflows is None else self.overflows.total

    @property
    def mean_loss(self) -> Tensor | None:
        """The loss of the whole batch."""
        return self.loss if self.losses is None else self.losses.total

    @property
    def decides_step_size(self) -> bool:
        """Whether the step size waits for other processes."""
        return self.losses is not None
