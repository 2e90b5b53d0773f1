"""NAdam, RAdam and RAdamW."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor
from typing_extensions import Unpack

from torchclip.optimizers.fixed_values import fixed_values
from torchclip.rules import hyperparameters, second_moment
from torchclip.step.fused_optimizer import FusedOptimizer, ParamsT
from torchclip.step.options import Options, check_known


class NAdam(FusedOptimizer):
    r"""Adam with Nesterov's momentum, as :class:`torch.optim.NAdam`.

    .. math::
        \mu_t = \beta_1 \left(1 - \tfrac12\, 0.96^{t \psi}\right), \quad \Pi_t = \mu_1 \cdots \mu_t, \qquad
        p_t = p_{t-1} - \eta\, \frac{\mu_{t+1} m_t / (1 - \Pi_{t+1}) + (1 - \mu_t)\, g_t / (1 - \Pi_t)}
        {\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}

    with :math:`m` and :math:`v` as in :class:`torchclip.Adam`.

    Args:
        params: parameters, param groups, or ``(name, parameter)`` pairs.
        lr: the step size :math:`\eta`, at least 0; a 0-dim tensor works too.
        betas: :math:`(\beta_1, \beta_2)`, each in [0, 1).
        eps: :math:`\epsilon`, at least 0.
        weight_decay: λ; adds λ p to the gradient, or, decoupled, shrinks p by ``lr * weight_decay``.
        momentum_decay: :math:`\psi`, at least 0.
        decoupled_weight_decay: shrink p instead of adding to the gradient.
        foreach: torch's wish for a multi-tensor step, which every fused backend takes; it chooses nothing.
        maximize: ascend.
        capturable: True demands a backend whose step a CUDA graph can capture: ``"cuda"`` or ``"triton"``.
        differentiable: True chooses the reference path and lets autograd through the step.

    Raises:
        ValueError, TypeError: for an argument out of range, a parameter given twice, or one that is not floating point.
        RuntimeError: for a backend that cannot run here.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(2, 1)
        >>> optimizer = NAdam(model.parameters(), lr=2e-3, clip=1.0)
        >>> model(torch.ones(4, 2)).sum().backward()
        >>> optimizer.step()

    Source: Dozat, Incorporating Nesterov Momentum into Adam, ICLR 2016 workshop.
    """

    spec = second_moment.NADAM
    hyperparameter_checks: ClassVar[dict[str, hyperparameters.Check]] = {
        "lr": hyperparameters.LEARNING_RATE,
        "betas": hyperparameters.BETAS,
        "eps": hyperparameters.EPS,
        "weight_decay": hyperparameters.WEIGHT_DECAY,
        "momentum_decay": hyperparameters.non_negative("momentum_decay value"),
    }

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        **options: Unpack[Options],
    ) -> None:
        defaults: dict[str, Any] = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "momentum_decay": momentum_decay,
            "decoupled_weight_decay": decoupled_weight_decay,
            "maximize": maximize,
            "foreach": foreach,
            "capturable": capturable,
            "differentiable": differentiable,
        }
        super().__init__(params, defaults, **options)


class RAdam(FusedOptimizer):
    r"""Adam with a rectified variance, as :class:`torch.optim.RAdam`.

    .. math::
        \rho_\infty = \frac{2}{1 - \beta_2} - 1, \qquad \rho_t = \rho_\infty - \frac{2 t \beta_2^t}{1 - \beta_2^t},
        \qquad r_t = \sqrt{\frac{(\rho_t - 4)(\rho_t - 2)\, \rho_\infty}{(\rho_\infty - 4)(\rho_\infty - 2)\, \rho_t}}

        p_t = p_{t-1} - \eta\, r_t\, \frac{m_t}{1 - \beta_1^t}\, \frac{\sqrt{1 - \beta_2^t}}{\sqrt{v_t} + \epsilon}
        \quad (\rho_t > 5), \qquad p_t = p_{t-1} - \eta\, \frac{m_t}{1 - \beta_1^t} \quad \text{before}

    with :math:`m` and :math:`v` as in :class:`torchclip.Adam`.

    Args:
        params: parameters, param groups, or ``(name, parameter)`` pairs.
        lr: the step size :math:`\eta`, at least 0; a 0-dim tensor works too.
        betas: :math:`(\beta_1, \beta_2)`, each in [0, 1).
        eps: :math:`\epsilon`, at least 0.
        weight_decay: λ; adds λ p to the gradient, or, decoupled, shrinks p by ``lr * weight_decay``.
        decoupled_weight_decay: True is :class:`RAdamW`.
        foreach: torch's wish for a multi-tensor step, which every fused backend takes; it chooses nothing.
        maximize: ascend.
        capturable: True demands a backend whose step a CUDA graph can capture: ``"cuda"`` or ``"triton"``.
        differentiable: True chooses the reference path and lets autograd through the step.

    Raises:
        ValueError, TypeError: for an argument out of range, a parameter given twice, or one that is not floating point.
        RuntimeError: for a backend that cannot run here.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(2, 1)
        >>> optimizer = RAdam(model.parameters(), lr=1e-3, clip=1.0)
        >>> model(torch.ones(4, 2)).sum().backward()
        >>> optimizer.step()

    Source: Liu, Jiang, He, Chen, Liu, Gao, Han, On the Variance of the Adaptive Learning Rate and Beyond, ICLR 2020,
    arXiv 1908.03265, Algorithm 2.
    """

    spec = second_moment.RADAM
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
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        **options: Unpack[Options],
    ) -> None:
        defaults: dict[str, Any] = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "maximize": maximize,
            "foreach": foreach,
            "capturable": capturable,
            "decoupled_weight_decay": decoupled_weight_decay,
            "differentiable": differentiable,
        }
        super().__init__(params, defaults, **options)


class RAdamW(RAdam):
    r"""RAdam with decoupled weight decay: :class:`RAdam` with ``decoupled_weight_decay=True``.

    .. math:: p \leftarrow (1 - \eta \lambda)\, p \quad \text{before RAdam's step}

    Args:
        params: parameters, param groups, or ``(name, parameter)`` pairs.
        lr: the step size :math:`\eta`, at least 0; a 0-dim tensor works too.
        betas: :math:`(\beta_1, \beta_2)`, each in [0, 1).
        eps: :math:`\epsilon`, at least 0.
        weight_decay: :math:`\lambda`, at least 0: shrinks p by ``lr * weight_decay``.
        foreach: torch's wish for a multi-tensor step, which every fused backend takes; it chooses nothing.
        maximize: ascend.
        capturable: True demands a backend whose step a CUDA graph can capture: ``"cuda"`` or ``"triton"``.
        differentiable: True chooses the reference path and lets autograd through the step.

    Raises:
        ValueError, TypeError: for an argument out of range, a parameter given twice, or one that is not floating point.
        RuntimeError: for a backend that cannot run here.

    Example:
        >>> import torch
        >>> optimizer = RAdamW([torch.nn.Parameter(torch.ones(3))], lr=1e-3, clip=1.0)

    Source: Liu et al., ICLR 2020, arXiv 1908.03265; Loshchilov, Hutter, ICLR 2019, arXiv 1711.05101.
    """

    fixed: ClassVar[dict[str, Any]] = {"decoupled_weight_decay": True}
    hyperparameter_checks: ClassVar[dict[str, hyperparameters.Check]] = {
        **RAdam.hyperparameter_checks,
        **fixed_values(fixed),
    }

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        **options: Unpack[Options],
    ) -> None:
        check_known(type(self).__name__, options)
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            decoupled_weight_decay=True,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
            **options,
        )
