"""Clip policies whose bound comes from the weights, or from the norms of past steps.

What a policy remembers of past norms lies in ``param_groups[0]["shared"]`` and travels with ``state_dict``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torchclip.policies.numbers import set_bound, set_number
from torchclip.rules.norms import NonFinite, OnNonFinite, Scope, checked_choice


@dataclass(frozen=True)
class AdaptiveGradientClip:
    r"""Adaptive gradient clipping: bounds the gradient of each unit by the norm of its weights.

    .. math::
        G_i \leftarrow G_i \cdot \min\left(1,
        \frac{\lambda \max(\lVert W_i \rVert, \epsilon)}{\max(\lVert G_i \rVert, 10^{-6})}\right)

    A unit :math:`i` is a row of the leading dimension (an output neuron or channel) of a parameter with two or more
    dimensions, and otherwise the whole parameter. ``grad_norm`` is the joint norm before clipping, and ``clip_factor``
    the joint norm after it as a share of that.

    Args:
        clipping: :math:`\lambda`, finite and above 0.
        eps: :math:`\epsilon`, finite and above 0, lets weights that are zero leave zero.
        nonfinite: as for :class:`ClipByGlobalNorm`.

    Raises:
        ValueError: when a field is out of range.

    Example:
        >>> AdaptiveGradientClip(0.02)
        AdaptiveGradientClip(clipping=0.02, eps=0.001, nonfinite='propagate')

    Source: Brock, De, Smith, Simonyan, High-Performance Large-Scale Image Recognition Without Normalization, ICML 2021,
    arXiv 2102.06171, equation (3).
    """

    clipping: float = 0.01
    eps: float = 1e-3
    nonfinite: NonFinite | OnNonFinite = NonFinite.PROPAGATE

    def __post_init__(self) -> None:
        set_number(self, "clipping", above=0)
        set_number(self, "eps", above=0)
        object.__setattr__(self, "nonfinite", checked_choice("nonfinite", self.nonfinite, tuple(NonFinite)))

    @property
    def scope(self) -> Scope:
        """What is reported is one norm for all parameters."""
        return Scope.OPTIMIZER


@dataclass(frozen=True)
class AutoClip:
    r"""Clips by a percentile of the norms seen so far.

    .. math::
        \text{max\_norm}_t = P_q\left(\lVert g_{t-w+1} \rVert, \ldots, \lVert g_t \rVert\right)

    with linear interpolation, and then as :class:`ClipByGlobalNorm`. The norms are those before clipping. One that is
    not finite, or is exactly 0, is not remembered.

    Args:
        percentile: :math:`q`, in [0, 100].
        window: :math:`w`, how many of the last norms count, 1 to 1,024.
        nonfinite: as for :class:`ClipByGlobalNorm`.

    Raises:
        TypeError: when ``window`` is not an integer.
        ValueError: when a field is out of range.

    Example:
        >>> AutoClip(percentile=25).window
        1024

    Source: Seetharaman, Wichern, Pardo, Le Roux, AutoClip: Adaptive Gradient Clipping for Source Separation Networks,
    MLSP 2020, arXiv 2007.14469.
    """

    percentile: float = 10.0
    window: int = 1024
    nonfinite: NonFinite | OnNonFinite = NonFinite.PROPAGATE

    def __post_init__(self) -> None:
        set_number(self, "percentile", least=0, most=100)
        set_number(self, "window", least=1, most=1024, whole="the number of norms that count")
        object.__setattr__(self, "nonfinite", checked_choice("nonfinite", self.nonfinite, tuple(NonFinite)))

    @property
    def scope(self) -> Scope:
        """One norm for all parameters."""
        return Scope.OPTIMIZER


@dataclass(frozen=True)
class AdaGC:
    r"""Clips each tensor's gradient by a moving average of its own clipped norm.

    .. math::
        h_t = \min\left(1, \frac{\lambda_{\text{abs}}}{\lVert g_t \rVert}\right), \quad
        \gamma_t = \min(\gamma_{t-1}, h_t n_t) \quad (\gamma_1 = h_1 n_1) \qquad \text{before } t = T

        h_t = \min\left(1, \frac{\lambda_{\text{rel}}\, \gamma_{t-1}}{n_t}\right), \quad
        \gamma_t = \beta \gamma_{t-1} + (1 - \beta)\, h_t n_t \qquad \text{from } t = T \text{ on}

    and :math:`g \leftarrow h_t\, g`, with :math:`n_t` the norm of the tensor's gradient and
    :math:`\lVert g_t \rVert` the joint norm of all. A gradient of zeros leaves :math:`\gamma`, and so does a norm that
    is not finite; a tensor whose first gradient comes late begins as the others have at :math:`t = 1`.

    Args:
        lambda_abs: :math:`\lambda_{\text{abs}}`, finite and above 0: the bound on the joint norm during the warm-up.
        lambda_rel: :math:`\lambda_{\text{rel}}`, finite and above 0.
        beta: :math:`\beta`, the weight of the past, in [0, 1).
        warmup_steps: :math:`T`, at least 0.
        nonfinite: as for :class:`ClipByTensorNorm`.

    Raises:
        TypeError: when ``warmup_steps`` is not an integer.
        ValueError: when a field is out of range.

    Example:
        >>> AdaGC(lambda_rel=1.1).scope.value
        'tensor'

    Source: Wang et al., AdaGC: Improving Training Stability for Large Language Model Pretraining, 2025,
    arXiv 2502.11034, Algorithm 1.
    """

    lambda_abs: float = 1.0
    lambda_rel: float = 1.05
    beta: float = 0.98
    warmup_steps: int = 100
    nonfinite: NonFinite | OnNonFinite = NonFinite.PROPAGATE

    def __post_init__(self) -> None:
        set_number(self, "lambda_abs", above=0)
        set_number(self, "lambda_rel", above=0)
        set_number(self, "beta", least=0, below=1)
        set_number(self, "warmup_steps", least=0, whole="the number of the first step after")
        object.__setattr__(self, "nonfinite", checked_choice("nonfinite", self.nonfinite, tuple(NonFinite)))

    @property
    def scope(self) -> Scope:
        """One norm per parameter."""
        return Scope.TENSOR


@dataclass(frozen=True)
class ZClip:
    r"""Clips norms that stand out from their moving average.

    .. math::
        z_t = \frac{\lVert g_t \rVert - \mu_{t-1}}{\sigma_{t-1} + \epsilon}, \qquad
        n_t = \mu_{t-1} + \frac{z_{\text{thres}}^2}{z_t}\, \sigma_{t-1} \;\text{ if } z_t > z_{\text{thres}},
        \text{ else } \lVert g_t \rVert

        \mu_t = \alpha \mu_{t-1} + (1 - \alpha)\, n_t, \qquad
        \sigma_t^2 = \alpha \sigma_{t-1}^2 + (1 - \alpha)(n_t - \mu_t)^2

    and then as :class:`ClipByGlobalNorm` with :math:`\min(n_t, \text{max\_norm})`. During the warm-up nothing but
    ``max_norm`` clips; its norms' mean and variance start the averages. A norm that is not finite, or is exactly 0, is
    not averaged.

    Args:
        alpha: :math:`\alpha`, the weight of the past, in [0, 1).
        z_threshold: :math:`z_{\text{thres}}`, finite and above 0.
        warmup_steps: how many norms start the averages, at least 1.
        max_norm: a bound on top of it, at least 0; none by default.
        eps: :math:`\epsilon`, finite and at least 0.
        nonfinite: as for :class:`ClipByGlobalNorm`.

    Raises:
        TypeError: when ``warmup_steps`` is not an integer.
        ValueError: when a field is out of range.

    Example:
        >>> ZClip(z_threshold=3.0).warmup_steps
        25

    Source: Kumar, Owen, Roy Chowdhury, Güra, ZClip: Adaptive Spike Mitigation for LLM Pre-Training, 2025,
    arXiv 2504.02507, with reciprocal clipping.
    """

    alpha: float = 0.97
    z_threshold: float = 2.5
    warmup_steps: int = 25
    max_norm: float = math.inf
    eps: float = 1e-6
    nonfinite: NonFinite | OnNonFinite = NonFinite.PROPAGATE

    def __post_init__(self) -> None:
        set_number(self, "alpha", least=0, below=1)
        set_number(self, "z_threshold", above=0)
        set_number(self, "warmup_steps", least=1, whole="the number of norms to begin with")
        set_bound(self, "max_norm", zero=True)
        set_number(self, "eps", least=0)
        object.__setattr__(self, "nonfinite", checked_choice("nonfinite", self.nonfinite, tuple(NonFinite)))

    @property
    def scope(self) -> Scope:
        """One norm for all parameters."""
        return Scope.OPTIMIZER
