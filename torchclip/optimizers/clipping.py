"""MixClip, and what it is with some of its arguments fixed: MomClip and SGDClip."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor
from typing_extensions import Unpack

from torchclip.optimizers.fixed_values import fixed_values
from torchclip.rules import hyperparameters, momentum
from torchclip.rules.norms import NormScope, Scope, checked_scope
from torchclip.step.fused_optimizer import FusedOptimizer, ParamsT
from torchclip.step.options import Options


class _ClippedMomentum(FusedOptimizer):
    """Abstract base of the classes that MixClip's rule covers with some of its arguments fixed."""

    spec = momentum.MIX_CLIP
    hyperparameter_checks: ClassVar[dict[str, hyperparameters.Check]] = {
        "lr": hyperparameters.LEARNING_RATE,
        "momentum": hyperparameters.AVERAGE,
        "gamma": hyperparameters.positive("gamma value"),
        "nu": hyperparameters.fraction("nu value"),
        "weight_decay": hyperparameters.WEIGHT_DECAY,
    }

    def __init__(
        self,
        params: ParamsT,
        defaults: dict[str, Any],
        *,
        scope: Scope | NormScope,
        **options: Unpack[Options],
    ) -> None:
        self.clips_by = checked_scope(scope)
        super().__init__(params, defaults, **options)


class MixClip(_ClippedMomentum):
    r"""Mixes a clipped momentum step with a clipped gradient step.

    .. math::
        m_t = \beta\, m_{t-1} + (1 - \beta)\, g_t, \qquad
        p_t = p_{t-1} - \nu\, h(\lVert m_t \rVert)\, m_t - (1 - \nu)\, h(\lVert g_t \rVert)\, g_t

    with :math:`h(r) = \eta / (1 + \eta r / \gamma)`, or :math:`h(r) = \min(\eta, \gamma / r)` when not ``smooth``.

    Args:
        params: parameters, param groups, or ``(name, parameter)`` pairs.
        lr: the step size :math:`\eta`, at least 0.
        gamma: :math:`\gamma`, above 0: the longest step. Schedules that divide ``lr`` divide it too.
        momentum: :math:`\beta`, in [0, 1); 0 keeps no buffer.
        nu: :math:`\nu`, in [0, 1]: the weight of the momentum step.
        weight_decay: λ; adds λ p to the gradient, before anything is measured.
        smooth: the smooth h of the authors' code; False is the paper's Algorithm 1.
        scope: over which parameters the norms are taken: ``"optimizer"``, ``"group"`` or ``"tensor"``.
        maximize: ascend.
        clip: a clip policy for the gradient, in front of the rule; it costs one more pass over the gradients.

    Raises:
        ValueError, TypeError: for an argument out of range, a parameter given twice, or one that is not floating point.
        RuntimeError: for a backend that cannot run here.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(2, 1)
        >>> optimizer = MixClip(model.parameters(), lr=1.0, gamma=1.0, momentum=0.999, nu=0.7)
        >>> model(torch.ones(4, 2)).sum().backward()
        >>> optimizer.step()

    Source: Zhang, Jin, Fang, Wang, Improved Analysis of Clipping Algorithms for Non-convex Optimization, NeurIPS 2020,
    arXiv 2010.02519, Algorithm 1.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor,
        gamma: float,
        momentum: float = 0.999,
        nu: float = 0.7,
        weight_decay: float = 0.0,
        *,
        smooth: bool = True,
        scope: Scope | NormScope = Scope.OPTIMIZER,
        maximize: bool = False,
        **options: Unpack[Options],
    ) -> None:
        defaults = _clipped_defaults(lr, gamma, momentum, nu, weight_decay, smooth, maximize)
        super().__init__(params, defaults, scope=scope, **options)


_FIXED: dict[str, Any] = {"nu": 1.0}
_FIXED_CHECKS = {**_ClippedMomentum.hyperparameter_checks, **fixed_values(_FIXED)}


class MomClip(_ClippedMomentum):
    r"""Clipped momentum: :class:`MixClip` with :math:`\nu = 1`.

    .. math::
        m_t = \beta\, m_{t-1} + (1 - \beta)\, g_t, \qquad p_t = p_{t-1} - h(\lVert m_t \rVert)\, m_t

    Args:
        params: parameters, param groups, or ``(name, parameter)`` pairs.
        lr: the step size :math:`\eta`, at least 0.
        gamma: :math:`\gamma`, above 0: the longest step. Schedules that divide ``lr`` divide it too.
        momentum: :math:`\beta`, in [0, 1); 0 keeps no buffer.
        weight_decay: λ; adds λ p to the gradient, before anything is measured.
        smooth: the smooth h of the authors' code; False is the paper's Algorithm 1.
        scope: over which parameters the norms are taken: ``"optimizer"``, ``"group"`` or ``"tensor"``.
        maximize: ascend.
        clip: a clip policy for the gradient, in front of the rule; it costs one more pass over the gradients.

    Raises:
        ValueError, TypeError: for an argument out of range, a parameter given twice, or one that is not floating point.
        RuntimeError: for a backend that cannot run here.

    Example:
        >>> import torch
        >>> optimizer = MomClip([torch.nn.Parameter(torch.ones(3))], lr=1.0, gamma=0.1)

    Source: Zhang, Jin, Fang, Wang, Improved Analysis of Clipping Algorithms for Non-convex Optimization, NeurIPS 2020,
    arXiv 2010.02519.
    """

    fixed = _FIXED
    hyperparameter_checks: ClassVar[dict[str, hyperparameters.Check]] = _FIXED_CHECKS

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor,
        gamma: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        *,
        smooth: bool = True,
        scope: Scope | NormScope = Scope.OPTIMIZER,
        maximize: bool = False,
        **options: Unpack[Options],
    ) -> None:
        defaults = _clipped_defaults(lr, gamma, momentum, 1.0, weight_decay, smooth, maximize)
        super().__init__(params, defaults, scope=scope, **options)


class SGDClip(_ClippedMomentum):
    r"""Clipped SGD: the step is ``lr`` times the gradient, and no longer than ``gamma``.

    .. math:: p_t = p_{t-1} - \min\left(\eta, \frac{\gamma}{\lVert m_t \rVert}\right) m_t

    where :math:`m_t` is the gradient, or its average with momentum.

    Args:
        params: parameters, param groups, or ``(name, parameter)`` pairs.
        lr: the step size :math:`\eta`, at least 0.
        gamma: :math:`\gamma`, above 0: the longest step. Schedules that divide ``lr`` divide it too.
        momentum: :math:`\beta`, in [0, 1); 0 keeps no buffer.
        weight_decay: λ; adds λ p to the gradient, before anything is measured.
        smooth: the smooth h of :class:`MixClip` in place of the minimum.
        scope: over which parameters the norms are taken: ``"optimizer"``, ``"group"`` or ``"tensor"``.
        maximize: ascend.
        clip: a clip policy for the gradient, in front of the rule; it costs one more pass over the gradients.

    Raises:
        ValueError, TypeError: for an argument out of range, a parameter given twice, or one that is not floating point.
        RuntimeError: for a backend that cannot run here.

    Example:
        >>> import torch
        >>> optimizer = SGDClip([torch.nn.Parameter(torch.ones(3))], lr=0.1, gamma=1.0)

    Source: Zhang, He, Sra, Jadbabaie, Why gradient clipping accelerates training, ICLR 2020, arXiv 1905.11881; in this
    form Zhang, Jin, Fang, Wang, NeurIPS 2020, arXiv 2010.02519.
    """

    fixed = _FIXED
    hyperparameter_checks: ClassVar[dict[str, hyperparameters.Check]] = _FIXED_CHECKS

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor,
        gamma: float,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        *,
        smooth: bool = False,
        scope: Scope | NormScope = Scope.OPTIMIZER,
        maximize: bool = False,
        **options: Unpack[Options],
    ) -> None:
        defaults = _clipped_defaults(lr, gamma, momentum, 1.0, weight_decay, smooth, maximize)
        super().__init__(params, defaults, scope=scope, **options)


def _clipped_defaults(
    lr: float | Tensor, gamma: float, momentum: float, nu: float, weight_decay: float, smooth: bool, maximize: bool
) -> dict[str, Any]:
    return {
        "lr": lr,
        "gamma": gamma,
        "momentum": momentum,
        "nu": nu,
        "weight_decay": weight_decay,
        "smooth": smooth,
        "maximize": maximize,
    }
