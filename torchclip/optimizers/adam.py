"""Adam, AMSGrad and AdamW."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor
from typing_extensions import Unpack

from torchclip.optimizers.fixed_values import fixed_values
from torchclip.rules import hyperparameters, second_moment
from torchclip.step.fused_optimizer import FusedOptimizer, ParamsT
from torchclip.step.options import Options, check_known


class Adam(FusedOptimizer):
    r"""Adam and AMSGrad, as :class:`torch.optim.Adam`.

    .. math::
        m_t = \beta_1 m_{t-1} + (1 - \beta_1)\, g_t, \qquad v_t = \beta_2 v_{t-1} + (1 - \beta_2)\, g_t^2, \qquad
        p_t = p_{t-1} - \eta\, \frac{m_t / (1 - \beta_1^t)}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}

    AMSGrad divides by the largest :math:`v` so far.

    Args:
        params: parameters, param groups, or ``(name, parameter)`` pairs.
        lr: the step size :math:`\eta`, at least 0; a 0-dim tensor works too.
        betas: :math:`(\beta_1, \beta_2)`, each in [0, 1).
        eps: :math:`\epsilon`, at least 0.
        weight_decay: λ; adds λ p to the gradient, or, decoupled, shrinks p by ``lr * weight_decay``.
        amsgrad: divide by the largest :math:`v` so far.
        foreach: torch's wish for a multi-tensor step, which every fused backend takes; it chooses nothing.
        maximize: ascend.
        capturable: True demands a backend whose step a CUDA graph can capture: ``"cuda"`` or ``"triton"``.
        differentiable: True chooses the reference path and lets autograd through the step.
        fused: True demands a fused backend, False chooses the reference path.
        decoupled_weight_decay: True is :class:`AdamW`.

    Raises:
        ValueError, TypeError: for an argument out of range, a parameter given twice, or one that is not floating point.
        RuntimeError: for a backend that cannot run here.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(2, 1)
        >>> optimizer = Adam(model.parameters(), lr=1e-3, clip=1.0)
        >>> model(torch.ones(4, 2)).sum().backward()
        >>> optimizer.step()

    Source: Kingma, Ba, Adam, ICLR 2015, arXiv 1412.6980, Algorithm 1; Reddi, Kale, Kumar, On the Convergence of Adam
    and Beyond, ICLR 2018, arXiv 1904.09237, Algorithm 2.
    """

    spec = second_moment.ADAM
    hyperparameter_checks: ClassVar[dict[str, hyperparameters.Check]] = {
        "lr": hyperparameters.LEARNING_RATE,
        "betas": hyperparameters.BETAS,
        "eps": hyperparameters.EPS,
        "weight_decay": hyperparameters.WEIGHT_DECAY,
    }

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
        **options: Unpack[Options],
    ) -> None:
        defaults: dict[str, Any] = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "foreach": foreach,
            "maximize": maximize,
            "capturable": capturable,
            "differentiable": differentiable,
            "fused": fused,
            "decoupled_weight_decay": decoupled_weight_decay,
        }
        super().__init__(params, defaults, **options)


class AdamW(Adam):
    r"""Adam with decoupled weight decay, as :class:`torch.optim.AdamW`.

    .. math::
        p_t = (1 - \eta \lambda)\, p_{t-1}
        - \eta\, \frac{m_t / (1 - \beta_1^t)}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}

    Args:
        params: parameters, param groups, or ``(name, parameter)`` pairs.
        lr: the step size :math:`\eta`, at least 0; a 0-dim tensor works too.
        betas: :math:`(\beta_1, \beta_2)`, each in [0, 1).
        eps: :math:`\epsilon`, at least 0.
        weight_decay: :math:`\lambda`, at least 0: shrinks p by ``lr * weight_decay``.
        amsgrad: divide by the largest :math:`v` so far.
        foreach: torch's wish for a multi-tensor step, which every fused backend takes; it chooses nothing.
        maximize: ascend.
        capturable: True demands a backend whose step a CUDA graph can capture: ``"cuda"`` or ``"triton"``.
        differentiable: True chooses the reference path and lets autograd through the step.
        fused: True demands a fused backend, False chooses the reference path.

    Raises:
        ValueError, TypeError: for an argument out of range, a parameter given twice, or one that is not floating point.
        RuntimeError: for a backend that cannot run here.

    Example:
        >>> import torch
        >>> optimizer = AdamW([torch.nn.Parameter(torch.ones(3))], lr=3e-4, clip=1.0)

    Source: Loshchilov, Hutter, Decoupled Weight Decay Regularization, ICLR 2019, arXiv 1711.05101, Algorithm 2.
    """

    fixed: ClassVar[dict[str, Any]] = {"decoupled_weight_decay": True}
    hyperparameter_checks: ClassVar[dict[str, hyperparameters.Check]] = {
        **Adam.hyperparameter_checks,
        **fixed_values(fixed),
    }

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Options],
    ) -> None:
        check_known(type(self).__name__, options)
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
            decoupled_weight_decay=True,
            **options,
        )
