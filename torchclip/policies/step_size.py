"""Step sizes: a factor on every gradient, from the loss or from the number of steps.

A step size is a frozen dataclass that checks itself. The numbers that it keeps between steps lie in
``param_groups[0]["shared"]`` and travel with ``state_dict``. It stands beside the clip policy, which measures the
gradient before the step size scales it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from torchclip.policies.numbers import set_flag, set_number
from torchclip.rules.norms import Number, root
from torchclip.rules.plain_numbers import check_size, plain_number


@dataclass(frozen=True)
class AdaLossStep:
    r"""Divides the gradient by the root of the summed losses.

    .. math::
        b_t^2 = b_{t-1}^2 + \alpha\, \lvert \ell_t - c \rvert, \qquad g \leftarrow g / b_t

    The loss :math:`\ell_t` comes with the step, ``step(closure)`` or ``step(loss=loss)``, stays on its device and is
    not read by the host. A loss that is not finite leaves :math:`b` as it was.

    Args:
        b0: :math:`b_0`, finite and above 0.
        alpha: :math:`\alpha`, finite and above 0.
        c: :math:`c`, the loss to reach, finite.
        is_averaged: True where the loss is that of all processes already; else a step of several averages it.

    Raises:
        ValueError, TypeError: when a field is out of range.

    Example:
        >>> import torch, torchclip
        >>> weight = torch.nn.Parameter(torch.ones(3))
        >>> optimizer = torchclip.Adam([weight], lr=1e-3, step_size=AdaLossStep(b0=1.0))
        >>> loss = weight.square().sum()
        >>> loss.backward()
        >>> optimizer.step(loss=loss)
        >>> optimizer.metrics()["lr_scale"]
        tensor(0.5000)

    Source: Wu, Xie, Du, Ward, AdaLoss: A Computationally-Efficient and Provably Convergent Adaptive Gradient Method,
    AAAI 2022, arXiv 2109.08282, Algorithm 1.
    """

    b0: float = 1.0
    alpha: float = 1.0
    c: float = 0.0
    is_averaged: bool = False

    def __post_init__(self) -> None:
        set_number(self, "b0", above=0)
        set_number(self, "alpha", above=0)
        set_number(self, "c")
        set_flag(self, "is_averaged")

    def accumulate(self, b_squared: Tensor, loss: Tensor) -> Tensor:
        """:math:`b_t^2` from :math:`b_{t-1}^2` and the loss, both 0-dim."""
        gap = (loss.to(b_squared) - self.c).abs()
        return b_squared + torch.where(gap.isfinite(), self.alpha * gap, 0.0)


@dataclass(frozen=True)
class SqrtDecay:
    r"""Divides the gradient by a root that grows with the number of steps.

    .. math::
        g \leftarrow \frac{g}{\sqrt{b_0^2 + \alpha\, t}}, \qquad t = 1, 2, \ldots

    Args:
        b0: :math:`b_0`, finite and above 0.
        alpha: :math:`\alpha`, finite and above 0.

    Raises:
        ValueError: when a field is out of range.

    Example:
        >>> import torch, torchclip
        >>> optimizer = torchclip.SGD([torch.nn.Parameter(torch.ones(3))], lr=0.1, step_size=SqrtDecay(b0=1.0))

    Source: the baseline ``SGD_DecaySqrt`` of Wu, Xie, Du, Ward, AAAI 2022, arXiv 2109.08282.
    """

    b0: float = 1.0
    alpha: float = 1.0

    def __post_init__(self) -> None:
        set_number(self, "b0", above=0)
        set_number(self, "alpha", above=0)

    def factor(self, step: Number) -> Number:
        """The factor on the gradient in step number ``step`` (1, 2, …)."""
        return 1.0 / root(self.b0**2 + self.alpha * step)


@dataclass(frozen=True)
class PolyakStep:
    r"""Polyak's step: as large as the loss and the gradient's norm allow, and at most the learning rate.

    .. math::
        \gamma_t = \frac{\max(\ell_t - f^*, 0)}{c\, \lVert g_t \rVert^2 + \epsilon}, \qquad
        g \leftarrow g \cdot \min\left(1, \frac{\gamma_t}{\eta}\right)

    With ``growth``, :math:`\gamma_t` is at most ``growth`` times :math:`\gamma_{t-1}`. The norm is the joint one of all
    gradients after clipping, and :math:`\eta` the learning rate of the param group. ``SGD(lr=max_lr,
    step_size=PolyakStep())`` is ALI-G, with ``momentum=0.9, nesterov=True`` its form with momentum; ``PolyakStep(c=0.5,
    eps=1e-8)`` is SPS_max; with a large ``lr`` and ``growth = 2 ** (batch / samples)`` it is the smooth form of SPS.
    The loss comes with the step, as for :class:`AdaLossStep`. One that is not finite gives a step of 0, and is not
    remembered.

    Args:
        f_star: :math:`f^*`, the loss to reach, finite; 0 for a model that can fit its data.
        c: :math:`c`, finite and above 0.
        eps: :math:`\epsilon`, finite and above 0.
        growth: how much larger a step may be than the one before, finite and above 0; None for no such bound.
        initial_step: :math:`\gamma_0`, finite and above 0, which ``growth`` starts from.
        is_averaged: True where the loss is that of all processes already; else a step of several averages it.

    Raises:
        ValueError, TypeError: when a field is out of range.

    Example:
        >>> import torch, torchclip
        >>> weight = torch.nn.Parameter(torch.tensor([2.0]))
        >>> optimizer = torchclip.SGD([weight], lr=10.0, step_size=PolyakStep(c=0.5, eps=1e-8))
        >>> loss = weight.square().sum() / 2
        >>> loss.backward()
        >>> optimizer.step(loss=loss)
        >>> weight.detach().abs() < 1e-6
        tensor([True])

    Source: ALI-G: Berrada, Zisserman, Kumar, Training Neural Networks for and by Interpolation, ICML 2020,
    arXiv 1906.05661; SPS: Loizou, Vaswani, Laradji, Lacoste-Julien, Stochastic Polyak Step-size for SGD, AISTATS 2021,
    arXiv 2002.10542.
    """

    f_star: float = 0.0
    c: float = 1.0
    eps: float = 1e-5
    growth: float | None = None
    initial_step: float = 1.0
    is_averaged: bool = False

    def __post_init__(self) -> None:
        set_number(self, "f_star")
        set_number(self, "c", above=0)
        set_number(self, "eps", above=0)
        if self.growth is not None:
            set_number(self, "growth", above=0)
        set_number(self, "initial_step", above=0)
        set_flag(self, "is_averaged")

    def step(self, loss: Tensor, square: Tensor, before: Tensor | None) -> Tensor:
        r""":math:`\gamma_t`, 0-dim.

        Args:
            loss: 0-dim.
            square: 0-dim, of the joint norm.
            before: :math:`\gamma_{t-1}`, 0-dim, where there is a growth.
        """
        loss = loss.to(square)
        step = torch.where(loss.isfinite(), (loss - self.f_star).clamp(min=0) / (self.c * square + self.eps), 0.0)
        return step if self.growth is None or before is None else torch.minimum(step, self.growth * before)

    def factor(self, step: Tensor, lr: float | Tensor) -> Tensor:
        """What the step makes of the learning rate of a group: the factor on its gradients, 0-dim."""
        rate = torch.zeros_like(step) + lr
        return torch.where(rate == 0, 1.0, (step / torch.where(rate == 0, 1.0, rate)).clamp(max=1))


StepSize = AdaLossStep | SqrtDecay | PolyakStep


class SqrtDecayLR(LRScheduler):
    r"""The schedule of :class:`SqrtDecay` on the learning rate, for any optimizer.

    .. math::
        \eta_t = \frac{\eta_0}{\sqrt{b_0^2 + \alpha\, t}}, \qquad t = 1, 2, \ldots

    It differs from the step size under momentum and weight decay: those see the gradient unscaled here.

    Args:
        optimizer: whose learning rates are set.
        b0: :math:`b_0`, finite and above 0.
        alpha: :math:`\alpha`, finite and above 0.
        last_epoch: the number of steps taken less one; -1 to start.

    Raises:
        ValueError: when ``b0`` or ``alpha`` is not finite and above 0.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(3))], lr=1.0)
        >>> scheduler = SqrtDecayLR(optimizer, b0=1.0, alpha=3.0)
        >>> scheduler.get_last_lr()
        [0.5]

    Source: the baseline ``SGD_DecaySqrt`` of Wu, Xie, Du, Ward, AAAI 2022, arXiv 2109.08282.
    """

    def __init__(self, optimizer: Optimizer, b0: float = 1.0, alpha: float = 1.0, last_epoch: int = -1) -> None:
        decay = SqrtDecay(b0, alpha)
        self.b0, self.alpha = decay.b0, decay.alpha
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float | Tensor]:
        """The learning rate of each group for the coming step."""
        factor = SqrtDecay(self.b0, self.alpha).factor(self.last_epoch + 1)
        return [base * factor for base in self.base_lrs]


def checked_step_size(step_size: StepSize | None) -> StepSize | None:
    """What an optimizer's ``step_size=`` argument stands for.

    Raises:
        TypeError: when it is something else.
    """
    if step_size is None or isinstance(step_size, (AdaLossStep, SqrtDecay, PolyakStep)):
        return step_size
    raise TypeError(
        f"step_size={step_size!r} must be None, AdaLossStep(...), SqrtDecay(...) or PolyakStep(...), got "
        f"{type(step_size).__name__}; a learning rate goes into lr="
    )


def check_closure(closure: Any, optimizer: str) -> None:
    """Raises TypeError for a ``closure`` of a step that is none, as a loss given by position is.

    Args:
        closure: what was given.
        optimizer: the name of the class, for errors.
    """
    if not callable(closure):
        kind = torch.typename(closure)
        raise TypeError(
            f"the closure of {optimizer}.step() must be a function that evaluates the model anew and returns the loss, "
            f"got {kind}: pass a loss as step(loss=loss), or leave it out where nothing needs it"
        )


def checked_loss(loss: Any, device: torch.device, optimizer: str, policy: str) -> Tensor:
    """The loss of a step as a 0-dim tensor, detached; on a GPU it is not waited for.

    Args:
        loss: what the closure returned, or ``loss=``.
        device: of the parameters.
        optimizer: the name of the class, for errors.
        policy: that of the class that takes the loss.

    Raises:
        TypeError: when there is no loss, or something that is no real number.
        ValueError: when it is no scalar, beyond all floats, or on another device.
    """
    if loss is None:
        alone = ". SkipSpikes(on='grad_norm') needs no loss" if policy == "SkipSpikes" else ""
        raise TypeError(
            f"{policy} of {optimizer} goes by the loss, and step() got none: call step(closure) with a closure that "
            "returns the loss, or step(loss=loss); where a framework calls step(), say optimizer.loss = loss before "
            f"it, of the optimizer itself and not of a wrapper{alone}"
        )
    number = plain_number(loss)
    if number is not None:
        check_size(f"the loss of {optimizer}.step()", number)
        dtype = torch.float32 if device.type == "mps" else torch.float64
        return torch.full((), float(number), dtype=dtype, device=device)  # torch.tensor would wait for a GPU
    if not isinstance(loss, Tensor) or not loss.is_floating_point():
        kind = loss.dtype if isinstance(loss, Tensor) else type(loss).__name__
        raise TypeError(f"the loss of {optimizer}.step() must be a floating-point tensor or a number, got {kind}")
    if loss.numel() != 1:
        raise ValueError(
            f"the loss of {optimizer}.step() must be a scalar, got shape {tuple(loss.shape)}: reduce it, say by mean()"
        )
    if loss.device != device:
        raise ValueError(
            f"the loss of {optimizer}.step() is on {loss.device} and the parameters are on {device}: "
            f"pass loss.to({str(device)!r})"
        )
    return loss.detach().reshape(())
