"""AdaLoss and AdaGrad-Norm."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor
from typing_extensions import Unpack

from torchclip.optimizers.sgd import SGD
from torchclip.policies.step_size import AdaLossStep
from torchclip.rules import hyperparameters, momentum
from torchclip.rules.norms import AnyScope, Scope, checked_scope
from torchclip.step.fused_optimizer import FusedOptimizer, ParamsT
from torchclip.step.options import Options, OptionsButStepSize, check_known


class AdaLoss(SGD):
    r"""SGD whose step size falls with the sum of the losses: :class:`SGD` with an ``AdaLossStep``.

    .. math::
        b_t^2 = b_{t-1}^2 + \alpha\, \lvert \ell_t - c \rvert, \qquad
        p_t = p_{t-1} - \eta\, \frac{g_t}{b_t}

    Decay and momentum come after the division, as in the authors' code. Every step needs the loss:
    ``step(closure)``, or ``step(loss=loss)``; it is not read by the host.

    Args:
        params: parameters, param groups, or ``(name, parameter)`` pairs.
        lr: the step size :math:`\eta`, at least 0; a 0-dim tensor works too.
        b0: :math:`b_0`, above 0.
        alpha: :math:`\alpha`, above 0.
        c: :math:`c`, the loss to reach, finite.
        momentum: at least 0; 0 keeps no buffer.
        weight_decay: λ, at least 0; adds λ p to the scaled gradient.
        dampening: of the momentum.
        nesterov: Nesterov's momentum.
        maximize: ascend.
        step_size: must be None: it is ``AdaLossStep(b0, alpha, c)``.

    Raises:
        ValueError, TypeError: for an argument out of range, a parameter given twice, or one that is not floating point.
        RuntimeError: for a backend that cannot run here.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(2, 1)
        >>> optimizer = AdaLoss(model.parameters(), lr=0.1, b0=1.0)
        >>> loss = model(torch.ones(4, 2)).square().mean()
        >>> loss.backward()
        >>> optimizer.step(loss=loss)

    Source: Wu, Xie, Du, Ward, AdaLoss: A Computationally-Efficient and Provably Convergent Adaptive Gradient Method,
    AAAI 2022, arXiv 2109.08282, Algorithm 1.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.1,
        b0: float = 1.0,
        alpha: float = 1.0,
        c: float = 0.0,
        momentum: float = 0,
        weight_decay: float = 0,
        *,
        dampening: float = 0,
        nesterov: bool = False,
        maximize: bool = False,
        step_size: None = None,
        **options: Unpack[OptionsButStepSize],
    ) -> None:
        check_known(type(self).__name__, options)
        if step_size is not None:
            raise ValueError(
                f"AdaLoss is SGD with step_size=AdaLossStep(b0, alpha, c), and was given {step_size=} beside it: a "
                "gradient has one step size; use torchclip.SGD(..., step_size=...)"
            )
        super().__init__(
            params,
            lr,
            momentum,
            dampening,
            weight_decay,
            nesterov,
            maximize=maximize,
            step_size=AdaLossStep(b0, alpha, c),
            **options,
        )


class AdaGradNorm(FusedOptimizer):
    r"""AdaGrad-Norm: SGD whose step size falls with the sum of the squared gradient norms.

    .. math::
        s_t = s_{t-1} + \lVert g_t \rVert^2 \quad (s_0 = b_0^2), \qquad
        p_t = p_{t-1} - \eta\, \frac{m_t}{\sqrt{s_t}}

    where :math:`m_t` is the gradient, or its average :math:`\beta m_{t-1} + (1 - \beta) g_t` with momentum. The norm is
    that of the gradient as the rule sees it, weight decay included. Over rows, each row of the leading dimension has
    its own :math:`s`, an element of a parameter below two dimensions too, and the root is :math:`\sqrt{s_t} +
    10^{-10}`, as in the authors' code.

    Args:
        params: parameters, param groups, or ``(name, parameter)`` pairs.
        lr: the step size :math:`\eta`, at least 0; a 0-dim tensor works too.
        b0: :math:`b_0`, above 0; it is read when an :math:`s` is made.
        momentum: :math:`\beta`, in [0, 1); 0 keeps no buffer.
        weight_decay: λ; adds λ p to the gradient.
        decoupled_weight_decay: shrink p instead of adding to the gradient.
        scope: over which elements a norm is taken: ``"optimizer"``, ``"group"``, ``"tensor"`` or ``"row"``.
        maximize: ascend.
        clip: a clip policy for the gradient, in front of the rule; it costs one more pass over the gradients.

    Raises:
        ValueError, TypeError: for an argument out of range, a parameter given twice, or one that is not floating point.
        RuntimeError: for a backend that cannot run here.

    Example:
        >>> import torch
        >>> weight = torch.nn.Parameter(torch.zeros(2))
        >>> optimizer = AdaGradNorm([weight], lr=1.0, b0=12.0)
        >>> weight.grad = torch.tensor([3.0, 4.0])
        >>> optimizer.step()
        >>> (weight.detach() * 13).round()
        tensor([-3., -4.])

    Source: Ward, Wu, Bottou, AdaGrad stepsizes, ICML 2019, arXiv 1806.01811, Algorithm 1; per row as the baseline of
    Wu, Xie, Du, Ward, AAAI 2022, arXiv 2109.08282.
    """

    spec = momentum.ADAGRAD_NORM
    hyperparameter_checks: ClassVar[dict[str, hyperparameters.Check]] = {
        "lr": hyperparameters.LEARNING_RATE,
        "b0": hyperparameters.positive("b0 value"),
        "momentum": hyperparameters.AVERAGE,
        "weight_decay": hyperparameters.WEIGHT_DECAY,
    }

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.1,
        b0: float = 1.0,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        *,
        scope: Scope | AnyScope = Scope.OPTIMIZER,
        decoupled_weight_decay: bool = False,
        maximize: bool = False,
        **options: Unpack[Options],
    ) -> None:
        self.clips_by = checked_scope(scope, tuple(Scope))
        defaults: dict[str, Any] = {
            "lr": lr,
            "b0": b0,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "decoupled_weight_decay": decoupled_weight_decay,
            "maximize": maximize,
        }
        super().__init__(params, defaults, **options)
