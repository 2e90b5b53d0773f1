"""Lion."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from typing_extensions import Unpack

from torchclip.optimizers.fixed_values import fixed_values
from torchclip.rules import hyperparameters, table
from torchclip.step.fused_optimizer import FusedOptimizer, ParamsT
from torchclip.step.options import Options


class Lion(FusedOptimizer):
    r"""Lion: every element moves by the learning rate, in the direction of an average of its gradients.

    .. math::
        p_t = (1 - \eta \lambda)\, p_{t-1} - \eta\, \operatorname{sign}(\beta_1 m_{t-1} + (1 - \beta_1)\, g_t), \qquad
        m_t = \beta_2 m_{t-1} + (1 - \beta_2)\, g_t

    Args:
        params: parameters, param groups, or ``(name, parameter)`` pairs.
        lr: the step size :math:`\eta`, at least 0; the paper takes a third to a tenth of AdamW's.
        betas: :math:`(\beta_1, \beta_2)`, each in [0, 1).
        weight_decay: :math:`\lambda`, at least 0: shrinks p by ``lr * weight_decay``.
        maximize: ascend.

    Raises:
        ValueError, TypeError: for an argument out of range, a parameter given twice, or one that is not floating point.
        RuntimeError: for a backend that cannot run here.

    Example:
        >>> import torch
        >>> weight = torch.nn.Parameter(torch.zeros(3))
        >>> optimizer = Lion([weight], lr=0.5)
        >>> weight.grad = torch.tensor([1e-3, 0.0, -10.0])
        >>> optimizer.step()
        >>> weight.detach()
        tensor([-0.5000,  0.0000,  0.5000])

    Source: Chen et al., Symbolic Discovery of Optimization Algorithms, NeurIPS 2023, arXiv 2302.06675, Algorithm 2.
    """

    spec = table.LION
    fixed: ClassVar[dict[str, bool]] = {"decoupled_weight_decay": True}
    hyperparameter_checks: ClassVar[dict[str, hyperparameters.Check]] = {
        "lr": hyperparameters.LEARNING_RATE,
        "betas": hyperparameters.BETAS,
        "weight_decay": hyperparameters.WEIGHT_DECAY,
        **fixed_values(fixed),
    }

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-4,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.99),
        weight_decay: float = 0,
        *,
        maximize: bool = False,
        **options: Unpack[Options],
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "weight_decay": weight_decay, "maximize": maximize, **self.fixed}
        super().__init__(params, defaults, **options)
