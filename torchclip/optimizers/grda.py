"""gRDA."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from typing_extensions import Unpack

from torchclip.optimizers.sparse import TARGET_CHECK, SparseOptimizer, check_no_decay
from torchclip.rules import hyperparameters, soft_threshold
from torchclip.step.fused_optimizer import ParamsT
from torchclip.step.options import Options


class GRDA(SparseOptimizer):
    r"""gRDA, generalised regularised dual averaging: trains a network and prunes it on the way.

    .. math::
        v_t = v_{t-1} - \eta\, g_t \quad (v_0 = p_0), \qquad
        l_t = l_{t-1} + c\, \eta^{\mu + 1/2} \left(t^\mu - (t-1)^\mu\right), \qquad
        p_t = \operatorname{sign}(v_t)\, \max(\lvert v_t \rvert - l_t, 0)

    The accumulator :math:`v` is float32 for half-precision parameters, so that small steps are not lost.

    Args:
        params: parameters, param groups, or ``(name, parameter)`` pairs.
        lr: the step size :math:`\eta`, at least 0.
        c: :math:`c`, at least 0: how strongly parameters are drawn to zero; 0 is SGD.
        mu: :math:`\mu`, above 0 (the paper takes 0.5 to 1): how the threshold grows with the number of steps.
        target_sparsity: the share of zeros to end at, in [0, 1): the threshold is then :math:`s` times as high, and
            :math:`s`, 1 at first, is multiplied by :math:`e^d` in every step that finds a share :math:`z` of zeros in
            the parameters that it moves, :math:`d = 0.25\, (\text{target} - z)` but within ±0.01. Param groups may
            have their own target, and each has its own :math:`s`, a number of state; one whose ``lr`` or ``c``
            is 0 keeps it. None: :math:`s = 1`.
        weight_decay: must be 0: gRDA draws parameters to zero by itself. It is taken since frameworks hand it to every
            optimizer.
        extensions: gradient noise and gradient dropout; the others have no meaning for gRDA and are refused.

    Raises:
        ValueError, TypeError: for an argument out of range, a parameter given twice, or one that is not floating point.
        RuntimeError: for a backend that cannot run here.

    Example:
        >>> import torch
        >>> weight = torch.nn.Parameter(torch.tensor([0.001, 1.0]))
        >>> optimizer = GRDA([weight], lr=0.1, c=0.1, mu=0.7)
        >>> weight.grad = torch.zeros(2)
        >>> optimizer.step()
        >>> optimizer.sparsity()
        tensor(0.5000)

    Source: Chao, Wang, Xing, Cheng, Directional Pruning of Deep Neural Networks, NeurIPS 2020, arXiv 2006.09358.
    """

    spec = soft_threshold.GRDA
    threshold = "c"
    hyperparameter_checks: ClassVar[dict[str, hyperparameters.Check]] = {
        "lr": hyperparameters.LEARNING_RATE,
        "c": hyperparameters.non_negative("c value"),
        "mu": hyperparameters.positive("mu value"),
        **TARGET_CHECK,
    }

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.01,
        c: float = 0.0,
        mu: float = 0.7,
        *,
        target_sparsity: float | None = None,
        weight_decay: float = 0.0,
        **options: Unpack[Options],
    ) -> None:
        check_no_decay("GRDA", weight_decay)
        super().__init__(params, {"lr": lr, "c": c, "mu": mu}, target_sparsity, **options)


gRDA = GRDA
