"""RMSprop and Adagrad."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor
from typing_extensions import Unpack

from torchclip.backends.choice import ON_DEVICE
from torchclip.rules import hyperparameters, table
from torchclip.state.parameter_state import create_state
from torchclip.state.steppable import can_step
from torchclip.step.fused_optimizer import FusedOptimizer, ParamsT
from torchclip.step.options import Options


class RMSprop(FusedOptimizer):
    r"""RMSprop, plain, centered or with momentum, as :class:`torch.optim.RMSprop`.

    .. math::
        s_t = \alpha s_{t-1} + (1 - \alpha)\, g_t^2, \qquad a_t = \alpha a_{t-1} + (1 - \alpha)\, g_t, \qquad
        p_t = p_{t-1} - \eta\, \frac{g_t}{\sqrt{s_t} + \epsilon}

    Centered, the root is of :math:`s_t - a_t^2`; with momentum
    :math:`b_t = \mu b_{t-1} + g_t / (\sqrt{s_t} + \epsilon)` takes the place of the fraction.
    The collection's RMSprop with bias correction is ``Adam(betas=(0, alpha))``.

    Args:
        params: parameters, param groups, or ``(name, parameter)`` pairs.
        lr: the step size :math:`\eta`, at least 0; a 0-dim tensor works too.
        alpha: :math:`\alpha`, at least 0.
        eps: :math:`\epsilon`, at least 0.
        weight_decay: λ; adds λ p to the gradient, or, decoupled, shrinks p by ``lr * weight_decay``.
        momentum: :math:`\mu`, at least 0; 0 keeps no buffer.
        centered: divide by the root of the variance.
        capturable: True demands a backend whose step a CUDA graph can capture: ``"cuda"`` or ``"triton"``.
        foreach: torch's wish for a multi-tensor step, which every fused backend takes; it chooses nothing.
        maximize: ascend.
        differentiable: True chooses the reference path and lets autograd through the step.
        decoupled_weight_decay: shrink p instead of adding to the gradient.

    Raises:
        ValueError, TypeError: for an argument out of range, a parameter given twice, or one that is not floating point.
        RuntimeError: for a backend that cannot run here.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(2, 1)
        >>> optimizer = RMSprop(model.parameters(), lr=1e-2, momentum=0.9, clip=1.0)
        >>> model(torch.ones(4, 2)).sum().backward()
        >>> optimizer.step()

    Source: Tieleman, Hinton, Neural Networks for Machine Learning, lecture 6.5, 2012; centered: Graves, Generating
    Sequences With Recurrent Neural Networks, 2013, arXiv 1308.0850, equations (38) to (45).
    """

    spec = table.RMSPROP
    hyperparameter_checks: ClassVar[dict[str, hyperparameters.Check]] = {
        "lr": hyperparameters.LEARNING_RATE,
        "eps": hyperparameters.EPS,
        "momentum": hyperparameters.MOMENTUM,
        "weight_decay": hyperparameters.WEIGHT_DECAY,
        "alpha": hyperparameters.non_negative("alpha value"),
    }

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        *,
        decoupled_weight_decay: bool = False,
        **options: Unpack[Options],
    ) -> None:
        defaults: dict[str, Any] = {
            "lr": lr,
            "momentum": momentum,
            "alpha": alpha,
            "eps": eps,
            "centered": centered,
            "weight_decay": weight_decay,
            "capturable": capturable,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
            "decoupled_weight_decay": decoupled_weight_decay,
        }
        super().__init__(params, defaults, **options)


class Adagrad(FusedOptimizer):
    r"""Adagrad, as :class:`torch.optim.Adagrad`.

    .. math::
        s_t = s_{t-1} + g_t^2, \qquad
        p_t = p_{t-1} - \frac{\eta}{1 + (t - 1)\, \gamma}\, \frac{g_t}{\sqrt{s_t} + \epsilon}

    Args:
        params: parameters, param groups, or ``(name, parameter)`` pairs.
        lr: the step size :math:`\eta`, at least 0; a 0-dim tensor works too.
        lr_decay: :math:`\gamma`, at least 0.
        weight_decay: λ; adds λ p to the gradient, or, decoupled, shrinks p by ``lr * weight_decay``.
        initial_accumulator_value: :math:`s_0`, at least 0.
        eps: :math:`\epsilon`, at least 0.
        foreach: torch's wish for a multi-tensor step, which every fused backend takes; it chooses nothing.
        maximize: ascend.
        differentiable: True chooses the reference path and lets autograd through the step.
        fused: True demands a fused backend, False chooses the reference path.
        decoupled_weight_decay: shrink p instead of adding to the gradient.

    Raises:
        ValueError, TypeError: for an argument out of range, a parameter given twice, or one that is not floating point.
        RuntimeError: for a backend that cannot run here.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(2, 1)
        >>> optimizer = Adagrad(model.parameters(), lr=1e-2, clip=1.0)
        >>> model(torch.ones(4, 2)).sum().backward()
        >>> optimizer.step()

    Source: Duchi, Hazan, Singer, Adaptive Subgradient Methods for Online Learning and Stochastic Optimization,
    JMLR 2011.
    """

    spec = table.ADAGRAD
    hyperparameter_checks: ClassVar[dict[str, hyperparameters.Check]] = {
        "lr": hyperparameters.LEARNING_RATE,
        "lr_decay": hyperparameters.non_negative("lr_decay value"),
        "weight_decay": hyperparameters.WEIGHT_DECAY,
        "initial_accumulator_value": hyperparameters.non_negative("initial_accumulator_value value"),
        "eps": hyperparameters.EPS,
    }

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
        **options: Unpack[Options],
    ) -> None:
        defaults: dict[str, Any] = {
            "lr": lr,
            "lr_decay": lr_decay,
            "eps": eps,
            "weight_decay": weight_decay,
            "initial_accumulator_value": initial_accumulator_value,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
            "fused": fused,
            "decoupled_weight_decay": decoupled_weight_decay,
        }
        super().__init__(params, defaults, **options)

    def share_memory(self) -> None:
        """Moves the sums of squares into shared memory, for processes that step the same parameters.

        As :meth:`torch.optim.Adagrad.share_memory`. State that no step has made yet is made now.
        """
        named = list(self._named_parameters())
        wanted = [position for position, (_, parameter, _) in enumerate(named) if can_step(parameter)]
        create_state(self.spec, named, self.state, wanted, on_device=self.backend in ON_DEVICE)
        for position in wanted:
            self.state[named[position][1]]["sum"].share_memory_()
