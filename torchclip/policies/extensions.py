"""Extensions: noise and dropout of gradients, dropout of learning rates, Lookahead, averages of weights.

Each is a frozen dataclass that checks itself, and works with every rule and every other extension, in the passes that
the step makes anyway. Random draws are counter-based (Philox4x32-10): the key is the optimizer's seed, the counter the
step, the parameter's position, the element and the kind of draw. They do not depend on the backend or the number of
threads, and go on after a checkpoint where they stopped.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from torchclip.policies.numbers import set_flag, set_number
from torchclip.rules.norms import Number, root

NOISE_STREAM, GRADIENT_DROPOUT_STREAM, LR_DROPOUT_STREAM = range(3)
"""The last word of the counter: what a draw is for. Stochastic rounding has 3 and 4."""


def drop_threshold(p: float) -> int:
    """An element is dropped when its 32-bit word is below this: a fraction p of all words."""
    return min(round(p * 2**32), 2**32 - 1)


@dataclass(frozen=True)
class GradientNoise:
    r"""Adds independent normal noise to every element of the gradient, less of it with every step.

    .. math::
        g \leftarrow g + \sigma_t\, \xi, \quad \xi \sim N(0, 1), \qquad
        \sigma_t^2 = \frac{\eta}{(1 + t)^\gamma}, \qquad t = 0, 1, \ldots

    Args:
        eta: :math:`\eta`, the variance in the first step, finite and at least 0.
        gamma: :math:`\gamma`, finite and at least 0.

    Raises:
        ValueError: when a field is out of range.

    Example:
        >>> import torch, torchclip
        >>> weight = torch.nn.Parameter(torch.ones(3))
        >>> optimizer = torchclip.SGD([weight], lr=0.1, extensions=(GradientNoise(eta=0.3, gamma=0.55),), seed=1)

    Source: Neelakantan et al., Adding Gradient Noise Improves Learning for Very Deep Networks, 2015, arXiv 1511.06807,
    equation (1).
    """

    eta: float = 0.3
    gamma: float = 0.55

    def __post_init__(self) -> None:
        set_number(self, "eta", least=0)
        set_number(self, "gamma", least=0)

    def sigma(self, steps_taken: Number) -> Number:
        """The standard deviation after that many steps (0, 1, …)."""
        return root(self.eta / (1.0 + steps_taken) ** self.gamma)


@dataclass(frozen=True)
class GradientDropout:
    r"""Sets each element of the gradient to zero with probability ``p``; what is left is not rescaled.

    .. math:: g_i \leftarrow 0 \quad \text{with probability } p

    Args:
        p: in [0, 1).

    Raises:
        ValueError: when ``p`` is outside [0, 1).

    Example:
        >>> import torch, torchclip
        >>> weight = torch.nn.Parameter(torch.ones(3))
        >>> optimizer = torchclip.SGD([weight], lr=0.1, extensions=(GradientDropout(0.1),), seed=1)

    Source: Lin, Zeng, Gong, Yang, Liu, Xu, Ma, Learning Rate Dropout, 2019, arXiv 1912.00144, which compares with it.
    """

    p: float = 0.1

    def __post_init__(self) -> None:
        set_number(self, "p", least=0, below=1)


@dataclass(frozen=True)
class LRDropout:
    r"""Sets each element of the step to zero with probability ``p``; the state is updated all the same.

    .. math:: p_i \leftarrow p_i - \eta_i\, d_i, \qquad \eta_i = 0 \text{ with probability } p, \text{ else } \eta

    Decoupled weight decay is not dropped.

    Args:
        p: in [0, 1).

    Raises:
        ValueError: when ``p`` is outside [0, 1).

    Example:
        >>> import torch, torchclip
        >>> weight = torch.nn.Parameter(torch.ones(3))
        >>> optimizer = torchclip.Adam([weight], lr=0.1, extensions=(LRDropout(0.5),), seed=1)

    Source: Lin, Zeng, Gong, Yang, Liu, Xu, Ma, Learning Rate Dropout, 2019, arXiv 1912.00144.
    """

    p: float = 0.5

    def __post_init__(self) -> None:
        set_number(self, "p", least=0, below=1)


@dataclass(frozen=True)
class Lookahead:
    r"""Pulls the parameters back to slow weights after every k-th step.

    .. math:: s \leftarrow s + \alpha\, (p - s), \qquad p \leftarrow s \qquad \text{after steps } k, 2k, \ldots

    The slow weights :math:`s` start as a copy of the parameters and are state (``"slow"``), float32 beside
    half-precision parameters. They are read and written in the steps that synchronise alone. A parameter without a
    gradient in such a step waits for the next.

    Args:
        k: the number of steps between two synchronisations, at least 1.
        alpha: :math:`\alpha`, in [0, 1].

    Raises:
        TypeError: when ``k`` is not an integer.
        ValueError: when a field is out of range.

    Example:
        >>> import torch, torchclip
        >>> weight = torch.nn.Parameter(torch.ones(3))
        >>> optimizer = torchclip.SGD([weight], lr=0.1, extensions=(Lookahead(k=5, alpha=0.5),))

    Source: Zhang, Lucas, Hinton, Ba, Lookahead Optimizer: k Steps Forward, 1 Step Back, NeurIPS 2019,
    arXiv 1907.08610, Algorithm 1.
    """

    k: int = 5
    alpha: float = 0.5

    def __post_init__(self) -> None:
        set_number(self, "k", least=1, whole="the number of steps between two synchronisations")
        set_number(self, "alpha", least=0, most=1)

    def synchronises(self, step: Number) -> bool | Tensor:
        """Whether step number ``step`` (1, 2, …) ends a round."""
        return step % self.k == 0


@dataclass(frozen=True)
class WeightEMA:
    r"""Keeps an exponential moving average of the parameters, in the pass that writes them.

    .. math::
        e \leftarrow e + (1 - d_t)(p - e) \quad \text{after steps } k, 2k, \ldots, \qquad
        d_t = d \;\text{ or, during the warm-up, }\; \min\left(d, \frac{1 + t}{10 + t}\right)

    with :math:`t = 1, 2, \ldots` the number of the step. The average :math:`e` starts as a copy of the parameters and
    is state (``"ema"``), float32 beside half-precision parameters; a skipped step leaves it. In ``with
    optimizer.averaged():`` the parameters are the average. A parameter without a gradient in a step is not averaged
    in it. It takes the place of :class:`Lookahead`'s slow weights, and cannot stand beside them.

    Args:
        decay: :math:`d`, in [0, 1].
        warmup: whether the average forgets its beginning sooner.
        update_every: :math:`k`, at least 1.

    Raises:
        TypeError: when ``update_every`` is not an integer, or ``warmup`` no bool.
        ValueError: when a field is out of range.

    Example:
        >>> import torch, torchclip
        >>> weight = torch.nn.Parameter(torch.zeros(1))
        >>> optimizer = torchclip.SGD([weight], lr=1.0, extensions=(WeightEMA(decay=0.75, warmup=False),))
        >>> weight.grad = torch.tensor([-4.0])
        >>> optimizer.step()
        >>> with optimizer.averaged():
        ...     print(weight.detach())
        tensor([1.])
        >>> weight.detach()
        tensor([4.])

    Source: Polyak, Juditsky, Acceleration of Stochastic Approximation by Averaging, SIAM Journal on Control and
    Optimization, 1992; the warm-up is that of TensorFlow's ExponentialMovingAverage.
    """

    decay: float = 0.9999
    warmup: bool = True
    update_every: int = 1

    def __post_init__(self) -> None:
        set_number(self, "decay", least=0, most=1)
        set_flag(self, "warmup")
        set_number(self, "update_every", least=1, whole="the steps between two averages")

    def synchronises(self, step: Number) -> bool | Tensor:
        """Whether the parameters after step number ``step`` (1, 2, …) are averaged."""
        return step % self.update_every == 0

    def weight(self, step: Number) -> Number:
        """That of the parameters in step number ``step``: 1 - decay."""
        if not self.warmup:
            return 1 - self.decay
        early = 1 - (1 + step) / (10 + step)
        return early.clamp(min=1 - self.decay) if isinstance(early, Tensor) else max(early, 1 - self.decay)


Extension = GradientNoise | GradientDropout | LRDropout | Lookahead | WeightEMA
EXTENSIONS = (GradientNoise, GradientDropout, LRDropout, Lookahead, WeightEMA)
"""Every extension, in the order in which they act within a step."""


def checked_extensions(extensions: Iterable[Extension] | None) -> tuple[Extension, ...]:
    """What an optimizer's ``extensions=`` argument stands for, in the order in which they act; None is none.

    Raises:
        TypeError: for something that is no extension.
        ValueError: for two of a kind.
    """
    if isinstance(extensions, EXTENSIONS):
        raise TypeError(f"extensions={extensions!r} must be a tuple: write extensions=({extensions!r},)")
    given = () if extensions is None else tuple(extensions)
    for extension in given:
        if not isinstance(extension, EXTENSIONS):
            names = ", ".join(kind.__name__ for kind in EXTENSIONS)
            hint = f"; write {extension.__name__}(), an instance" if isinstance(extension, type) else ""
            raise TypeError(f"extensions holds {extension!r}, and each must be one of {names}{hint}")
    kinds = [type(extension) for extension in given]
    for kind in kinds:
        if kinds.count(kind) > 1:
            raise ValueError(f"extensions holds {kind.__name__} twice: give it once, in any order")
    return tuple(sorted(given, key=lambda extension: EXTENSIONS.index(type(extension))))
