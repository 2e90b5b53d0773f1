"""SGD and SGDW."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor
from typing_extensions import Unpack

from torchclip.optimizers.fixed_values import fixed_values
from torchclip.rules import hyperparameters, momentum
from torchclip.step.fused_optimizer import FusedOptimizer, ParamsT
from torchclip.step.options import Options, check_known


class SGD(FusedOptimizer):
    r"""Stochastic gradient descent, with momentum or without, as :class:`torch.optim.SGD`.

    .. math::
        m_t = \mu\, m_{t-1} + (1 - \tau)\, g_t \quad (m_1 = g_1), \qquad p_t = p_{t-1} - \eta\, m_t

    with momentum :math:`\mu` and dampening :math:`\tau`; Nesterov's form steps along :math:`g_t + \mu\, m_t`.

    Args:
        params: parameters, param groups, or ``(name, parameter)`` pairs.
        lr: the step size :math:`\eta`, at least 0; a 0-dim tensor works too.
        momentum: :math:`\mu`, at least 0; 0 keeps no buffer.
        dampening: :math:`\tau`.
        weight_decay: λ; adds λ p to the gradient, or, decoupled, shrinks p by ``lr * weight_decay``.
        nesterov: step along :math:`g_t + \mu\, m_t`.
        maximize: ascend.
        foreach: torch's wish for a multi-tensor step, which every fused backend takes; it chooses nothing.
        differentiable: True chooses the reference path and lets autograd through the step.
        fused: True demands a fused backend, False chooses the reference path.
        decoupled_weight_decay: True is :class:`SGDW`.

    Raises:
        ValueError, TypeError: for an argument out of range, a parameter given twice, or one that is not floating point.
        RuntimeError: for a backend that cannot run here.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(2, 1)
        >>> optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9, clip=1.0)
        >>> model(torch.ones(4, 2)).sum().backward()
        >>> optimizer.step()
        >>> bool(optimizer.grad_norm > 1.0)
        True

    Source: Sutskever, Martens, Dahl, Hinton, On the importance of initialization and momentum in deep learning,
    ICML 2013.
    """

    spec = momentum.SGD
    hyperparameter_checks: ClassVar[dict[str, hyperparameters.Check]] = {
        "lr": hyperparameters.LEARNING_RATE,
        "momentum": hyperparameters.MOMENTUM,
        "dampening": hyperparameters.finite("dampening value"),
        "weight_decay": hyperparameters.WEIGHT_DECAY,
    }

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
        **options: Unpack[Options],
    ) -> None:
        if hyperparameters.number_of(nesterov) and momentum == 0:  # text is refused below
            raise ValueError(
                "Nesterov momentum requires a momentum and zero dampening; "
                f"got {momentum=} and {dampening=}: set momentum above 0 and leave dampening at 0"
            )
        defaults: dict[str, Any] = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
            "foreach": foreach,
            "differentiable": differentiable,
            "fused": fused,
            "decoupled_weight_decay": decoupled_weight_decay,
        }
        super().__init__(params, defaults, **options)


class SGDW(SGD):
    r"""SGD with decoupled weight decay: :class:`SGD` with ``decoupled_weight_decay=True``.

    .. math:: p_t = (1 - \eta \lambda)\, p_{t-1} - \eta\, m_t

    Args:
        params: parameters, param groups, or ``(name, parameter)`` pairs.
        lr: the step size :math:`\eta`, at least 0; a 0-dim tensor works too.
        momentum: :math:`\mu`, at least 0; 0 keeps no buffer.
        dampening: :math:`\tau`.
        weight_decay: :math:`\lambda`, at least 0: shrinks p by ``lr * weight_decay``.
        nesterov: step along :math:`g_t + \mu\, m_t`.
        maximize: ascend.
        foreach: torch's wish for a multi-tensor step, which every fused backend takes; it chooses nothing.
        differentiable: True chooses the reference path and lets autograd through the step.
        fused: True demands a fused backend, False chooses the reference path.

    Raises:
        ValueError, TypeError: for an argument out of range, a parameter given twice, or one that is not floating point.
        RuntimeError: for a backend that cannot run here.

    Example:
        >>> import torch
        >>> optimizer = SGDW([torch.nn.Parameter(torch.ones(3))], lr=0.1, momentum=0.9, weight_decay=0.05)

    Source: Loshchilov, Hutter, Decoupled Weight Decay Regularization, ICLR 2019, arXiv 1711.05101, Algorithm 1.
    """

    fixed: ClassVar[dict[str, Any]] = {"decoupled_weight_decay": True}
    hyperparameter_checks: ClassVar[dict[str, hyperparameters.Check]] = {
        **SGD.hyperparameter_checks,
        **fixed_values(fixed),
    }

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 1e-2,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Options],
    ) -> None:
        check_known(type(self).__name__, options)
        super().__init__(
            params,
            lr,
            momentum,
            dampening,
            weight_decay,
            nesterov,
            maximize=maximize,
            foreach=foreach,
            differentiable=differentiable,
            fused=fused,
            decoupled_weight_decay=True,
            **options,
        )
