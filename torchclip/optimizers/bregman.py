"""Linearised Bregman iterations: LinBreg and AdaBreg."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from typing_extensions import Unpack

from torchclip.optimizers.sparse import TARGET_CHECK, SparseOptimizer, check_no_decay
from torchclip.rules import hyperparameters, soft_threshold
from torchclip.step.fused_optimizer import ParamsT
from torchclip.step.options import Options

_LAM = hyperparameters.non_negative("lam value")
_DELTA = hyperparameters.positive("delta value")


class LinBreg(SparseOptimizer):
    r"""Linearised Bregman iterations: SGD whose network starts sparse and gains the parameters that it needs.

    .. math::
        v_t = v_{t-1} - \eta\, g_t \quad\text{or, with momentum,}\quad
        m_t = \beta m_{t-1} + (1 - \beta)\, \eta\, g_t, \; v_t = v_{t-1} - m_t

        p_t = \delta \operatorname{sign}(v_t)\, \max(\lvert v_t \rvert - \lambda, 0), \qquad
        v_0 = p_0 / \delta + \lambda \operatorname{sign}(p_0)

    A parameter stays at zero until its summed gradients exceed :math:`\lambda`. The subgradient :math:`v` and
    :math:`m` are float32 for half-precision parameters. A network that starts dense has its zeros only where parameters
    pass through zero: set most of its weights to zero first, as the paper does.

    Args:
        params: parameters, param groups, or ``(name, parameter)`` pairs.
        lr: the step size :math:`\eta`, at least 0.
        lam: :math:`\lambda`, at least 0; 0 in a param group, of biases say, is SGD there.
        delta: :math:`\delta`, above 0: the strength of the elastic net, a factor on the step.
        momentum: :math:`\beta`, in [0, 1); 0 keeps no buffer.
        target_sparsity: the share of zeros to end at, in [0, 1): the threshold is then :math:`s` times as high, and
            :math:`s`, 1 at first, is multiplied by :math:`e^d` in every step that finds a share :math:`z` of zeros in
            the parameters that it moves, :math:`d = 0.25\, (\text{target} - z)` but within ±0.01. Param groups may
            have their own target, and each has its own :math:`s`, a number of state; one whose ``lr`` or ``lam``
            is 0 keeps it. None: :math:`s = 1`.
        weight_decay: must be 0: the rule draws parameters to zero by itself. Frameworks hand it to every optimizer.
        extensions: gradient noise and gradient dropout; those that change the step itself are refused.

    Raises:
        ValueError, TypeError: for an argument out of range, a parameter given twice, or one that is not floating point.
        RuntimeError: for a backend that cannot run here.

    Example:
        >>> import torch
        >>> weight = torch.nn.Parameter(torch.zeros(2))
        >>> optimizer = LinBreg([weight], lr=0.5, lam=1.0)
        >>> weight.grad = torch.tensor([-1.0, -3.0])
        >>> optimizer.step()
        >>> weight.detach()
        tensor([0.0000, 0.5000])

    Source: Bungert, Roith, Tenbrinck, Burger, A Bregman Learning Framework for Sparse Neural Networks, JMLR 2022,
    arXiv 2105.04319, Algorithms 1 and 2.
    """

    spec = soft_threshold.LIN_BREG
    threshold = "lam"
    hyperparameter_checks: ClassVar[dict[str, hyperparameters.Check]] = {
        "lr": hyperparameters.LEARNING_RATE,
        "lam": _LAM,
        "delta": _DELTA,
        "momentum": hyperparameters.AVERAGE,
        **TARGET_CHECK,
    }

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor,
        lam: float,
        delta: float = 1.0,
        momentum: float = 0.0,
        *,
        target_sparsity: float | None = None,
        weight_decay: float = 0.0,
        **options: Unpack[Options],
    ) -> None:
        check_no_decay(type(self).__name__, weight_decay)
        defaults = {"lr": lr, "lam": lam, "delta": delta, "momentum": momentum}
        super().__init__(params, defaults, target_sparsity, **options)


class AdaBreg(SparseOptimizer):
    r"""Linearised Bregman iterations with Adam's step: see :class:`LinBreg`.

    .. math::
        m_t = \beta_1 m_{t-1} + (1 - \beta_1)\, g_t, \qquad s_t = \beta_2 s_{t-1} + (1 - \beta_2)\, g_t^2

        v_t = v_{t-1} - \frac{\eta}{1 - \beta_1^t} \frac{m_t}{\sqrt{s_t} / \sqrt{1 - \beta_2^t} + \epsilon}, \qquad
        p_t = \delta \operatorname{sign}(v_t)\, \max(\lvert v_t \rvert - \lambda, 0)

    Args:
        params: parameters, param groups, or ``(name, parameter)`` pairs.
        lr: the step size :math:`\eta`, at least 0.
        lam: :math:`\lambda`, at least 0; 0 in a param group, of biases say, is Adam there.
        delta: :math:`\delta`, above 0: the strength of the elastic net, a factor on the step.
        betas: :math:`(\beta_1, \beta_2)`, each in [0, 1).
        eps: :math:`\epsilon`, at least 0.
        target_sparsity: the share of zeros to end at, in [0, 1): the threshold is then :math:`s` times as high, and
            :math:`s`, 1 at first, is multiplied by :math:`e^d` in every step that finds a share :math:`z` of zeros in
            the parameters that it moves, :math:`d = 0.25\, (\text{target} - z)` but within ±0.01. Param groups may
            have their own target, and each has its own :math:`s`, a number of state; one whose ``lr`` or ``lam``
            is 0 keeps it. None: :math:`s = 1`.
        weight_decay: must be 0: the rule draws parameters to zero by itself. Frameworks hand it to every optimizer.
        extensions: gradient noise and gradient dropout; those that change the step itself are refused.

    Raises:
        ValueError, TypeError: for an argument out of range, a parameter given twice, or one that is not floating point.
        RuntimeError: for a backend that cannot run here.

    Example:
        >>> import torch
        >>> weight = torch.nn.Parameter(torch.tensor([0.0, 0.5]))
        >>> optimizer = AdaBreg([weight], lr=0.25, lam=1.0)
        >>> weight.grad = torch.tensor([1.0, 3.0])
        >>> optimizer.step()
        >>> weight.detach()
        tensor([-0.0000, 0.2500])

    Source: Bungert, Roith, Tenbrinck, Burger, A Bregman Learning Framework for Sparse Neural Networks, JMLR 2022,
    arXiv 2105.04319, Algorithm 3.
    """

    spec = soft_threshold.ADA_BREG
    threshold = "lam"
    hyperparameter_checks: ClassVar[dict[str, hyperparameters.Check]] = {
        "lr": hyperparameters.LEARNING_RATE,
        "lam": _LAM,
        "delta": _DELTA,
        "betas": hyperparameters.BETAS,
        "eps": hyperparameters.EPS,
        **TARGET_CHECK,
    }

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor,
        lam: float,
        delta: float = 1.0,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        *,
        target_sparsity: float | None = None,
        weight_decay: float = 0.0,
        **options: Unpack[Options],
    ) -> None:
        check_no_decay(type(self).__name__, weight_decay)
        defaults = {"lr": lr, "lam": lam, "delta": delta, "betas": betas, "eps": eps}
        super().__init__(params, defaults, target_sparsity, **options)
