"""Clip policies: what is measured on the raw gradients, and the factor that the measurement gives.

A policy is a frozen dataclass that checks itself. It runs no kernel: the backends read its fields.
"""

from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from torchclip.policies.adaptive_clip import AdaGC, AdaptiveGradientClip, AutoClip, ZClip
from torchclip.policies.numbers import set_bound, set_flag
from torchclip.rules.norms import HARD_EPS, NonFinite, OnNonFinite, Scope, checked_choice
from torchclip.rules.plain_numbers import plain_number

__all__ = [
    "POLICIES",
    "AdaGC",
    "AdaptiveGradientClip",
    "AdaptivePolicy",
    "AutoClip",
    "ClipByGlobalNorm",
    "ClipByTensorNorm",
    "ClipByValue",
    "ClipPolicy",
    "MeasuringPolicy",
    "NonFinite",
    "NormPolicy",
    "Scope",
    "ZClip",
    "as_clip_policy",
    "measures",
    "warn_of_zero",
]


@dataclass(frozen=True)
class ClipByGlobalNorm:
    r"""Scales all gradients by one factor, so that their joint L2 norm is at most ``max_norm``.

    .. math::
        g \leftarrow g \cdot \min\left(1, \frac{\text{max\_norm}}{\lVert g \rVert + 10^{-6}}\right)
        \quad\text{or, smooth,}\quad
        g \leftarrow g \cdot \frac{1}{1 + \lVert g \rVert / \text{max\_norm}}

    The hard form is what :func:`torch.nn.utils.clip_grad_norm_` computes, and a norm that is not finite propagates as
    it does there. ``.grad`` is never written.

    A param group may have its own under the key ``"clip"``, as a number or in this form; None there leaves the group
    out. Its norm is that of the group alone whatever its ``scope``, and the optimizer's policy measures the groups that
    have none of their own.

    Args:
        max_norm: the bound, at least 0; ``math.inf`` measures the norm and clips nothing.
        smooth: the smooth form (Zhang et al. 2020), which needs ``max_norm`` above 0.
        nonfinite: what to do when the norm is infinite or NaN: ``"propagate"`` as torch does, ``"skip"`` the step with
            parameters and state untouched, or ``"error"``, which raises before anything is written.
        scope: ``"optimizer"`` for one norm over all parameters, ``"group"`` for one norm per param group.

    Raises:
        ValueError: when a field is out of range.

    Example:
        >>> ClipByGlobalNorm(1.0, nonfinite="skip").max_norm
        1.0

    Source: Pascanu, Mikolov, Bengio, On the difficulty of training recurrent neural networks, ICML 2013.
    """

    max_norm: float
    smooth: bool = False
    nonfinite: NonFinite | OnNonFinite = NonFinite.PROPAGATE
    scope: Scope | Literal["optimizer", "group"] = Scope.OPTIMIZER

    def __post_init__(self) -> None:
        set_flag(self, "smooth")
        set_bound(self, "max_norm", zero=not self.smooth)
        object.__setattr__(self, "nonfinite", checked_choice("nonfinite", self.nonfinite, tuple(NonFinite)))
        scopes = (Scope.OPTIMIZER, Scope.GROUP)
        object.__setattr__(self, "scope", checked_choice("scope", self.scope, scopes))

    def factor(self, norm: Tensor) -> Tensor:
        """The clip factor of each norm; both have the shape of the scope."""
        return _norm_factor(norm, self.max_norm, self.smooth)


@dataclass(frozen=True)
class ClipByTensorNorm:
    r"""Scales the gradient of each parameter by its own factor, so that its L2 norm is at most ``max_norm``.

    The equation is :class:`ClipByGlobalNorm`'s, with :math:`\lVert g \rVert` taken over one tensor.

    Args:
        max_norm: the bound on each tensor's norm, at least 0.
        smooth: the smooth form, which needs ``max_norm`` above 0.
        nonfinite: as for :class:`ClipByGlobalNorm`; one norm that is not finite decides for the whole step.

    Raises:
        ValueError: when a field is out of range.

    Example:
        >>> ClipByTensorNorm(0.5).scope.value
        'tensor'

    Source: Pascanu, Mikolov, Bengio, On the difficulty of training recurrent neural networks, ICML 2013.
    """

    max_norm: float
    smooth: bool = False
    nonfinite: NonFinite | OnNonFinite = NonFinite.PROPAGATE

    def __post_init__(self) -> None:
        set_flag(self, "smooth")
        set_bound(self, "max_norm", zero=not self.smooth)
        object.__setattr__(self, "nonfinite", checked_choice("nonfinite", self.nonfinite, tuple(NonFinite)))

    @property
    def scope(self) -> Scope:
        """One norm per parameter."""
        return Scope.TENSOR

    def factor(self, norm: Tensor) -> Tensor:
        """The clip factor of each norm."""
        return _norm_factor(norm, self.max_norm, self.smooth)


@dataclass(frozen=True)
class ClipByValue:
    r"""Clamps every element of the gradient to :math:`[-\text{max\_value}, \text{max\_value}]`. Nothing is measured.

    Args:
        max_value: the bound on an element, at least 0.

    Raises:
        ValueError: when ``max_value`` is negative or NaN.

    Example:
        >>> ClipByValue(0.1)
        ClipByValue(max_value=0.1)

    Source: :func:`torch.nn.utils.clip_grad_value_`.
    """

    max_value: float

    def __post_init__(self) -> None:
        set_bound(self, "max_value", zero=True)


NormPolicy = ClipByGlobalNorm | ClipByTensorNorm
AdaptivePolicy = AdaptiveGradientClip | AutoClip | ZClip | AdaGC
MeasuringPolicy = NormPolicy | AdaptivePolicy
ClipPolicy = MeasuringPolicy | ClipByValue
POLICIES = (ClipByGlobalNorm, ClipByTensorNorm, ClipByValue, AdaptiveGradientClip, AutoClip, ZClip, AdaGC)


def measures(clip: ClipPolicy | None) -> bool:
    """Whether a policy takes norms."""
    return clip is not None and not isinstance(clip, ClipByValue)


def warn_of_zero(clip: ClipPolicy | None) -> None:
    """Warns of a bound of 0, which some trainers take for "no clipping"."""
    if clip is None or getattr(clip, "max_norm", getattr(clip, "max_value", None)) != 0:
        return
    frame, level = sys._getframe(1), 2  # the first that is not ours is the user's
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("torchclip"):
        frame, level = frame.f_back, level + 1
    warnings.warn(
        f"{clip} makes every gradient zero, so that nothing is learned: clip=None is what clips nothing",
        UserWarning,
        stacklevel=level,
    )


def _norm_factor(norm: Tensor, max_norm: float, smooth: bool) -> Tensor:
    if smooth:
        return torch.where(norm == 0, torch.ones_like(norm), 1.0 / (1.0 + norm / max_norm))
    return torch.clamp(max_norm / (norm + HARD_EPS), max=1.0)


def as_clip_policy(clip: ClipPolicy | float | None) -> ClipPolicy | None:
    """The policy that an optimizer's ``clip=`` argument stands for: a number is ``ClipByGlobalNorm(max_norm)``."""
    if clip is None or isinstance(clip, POLICIES):
        return clip
    max_norm = plain_number(clip)
    if max_norm is not None:
        return ClipByGlobalNorm(max_norm)
    raise TypeError(
        f"clip={clip!r} must be None, a number (the max_norm of ClipByGlobalNorm), or one of "
        f"{', '.join(policy.__name__ for policy in POLICIES)}; got {type(clip).__name__}"
    )
