"""NormalizedSGD."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from typing_extensions import Unpack

from torchclip.rules import hyperparameters, momentum
from torchclip.rules.norms import NormScope, Scope, checked_scope
from torchclip.step.fused_optimizer import FusedOptimizer, ParamsT
from torchclip.step.options import Options


class NormalizedSGD(FusedOptimizer):
    r"""Normalised SGD: a step of length ``lr`` along the averaged gradient.

    .. math::
        m_t = \beta\, m_{t-1} + (1 - \beta)\, g_t, \qquad
        p_t = p_{t-1} - \eta\, \frac{m_t}{\lVert m_t \rVert + \epsilon}

    Args:
        params: parameters, param groups, or ``(name, parameter)`` pairs.
        lr: the step size :math:`\eta`, at least 0.
        momentum: :math:`\beta`, in [0, 1); 0 keeps no buffer.
        eps: :math:`\epsilon`, at least 0.
        weight_decay: λ; adds λ p to the gradient.
        scope: over which parameters the norm is taken: ``"optimizer"``, ``"group"`` or ``"tensor"``.
        maximize: ascend.
        clip: a clip policy for the gradient, in front of the rule; it costs one more pass over the gradients.

    Raises:
        ValueError, TypeError: for an argument out of range, a parameter given twice, or one that is not floating point.
        RuntimeError: for a backend that cannot run here.

    Example:
        >>> import torch
        >>> optimizer = NormalizedSGD([torch.nn.Parameter(torch.ones(3))], lr=0.1, momentum=0.9)

    Source: Zhang, Jin, Fang, Wang, Improved Analysis of Clipping Algorithms for Non-convex Optimization, NeurIPS 2020,
    arXiv 2010.02519.
    """

    spec = momentum.NORMALIZED_SGD
    hyperparameter_checks: ClassVar[dict[str, hyperparameters.Check]] = {
        "lr": hyperparameters.LEARNING_RATE,
        "momentum": hyperparameters.AVERAGE,
        "eps": hyperparameters.EPS,
        "weight_decay": hyperparameters.WEIGHT_DECAY,
    }

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor,
        momentum: float = 0.0,
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        *,
        scope: Scope | NormScope = Scope.OPTIMIZER,
        maximize: bool = False,
        **options: Unpack[Options],
    ) -> None:
        self.clips_by = checked_scope(scope)
        defaults = {"lr": lr, "momentum": momentum, "eps": eps, "weight_decay": weight_decay, "maximize": maximize}
        super().__init__(params, defaults, **options)
