"""bfloat16 parameters alone, rounded up or down at random."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from torchclip.policies.precision.codec import Kind
from torchclip.policies.precision.policy import ParameterPolicy, StatePolicy


@dataclass(frozen=True)
class StochasticRounding(ParameterPolicy):
    r"""Rounds the step of a bfloat16 parameter up or down at random, so that small steps are taken in the mean.

    .. math::
        p \leftarrow \begin{cases} \lceil w \rceil & \text{with probability } (w - \lfloor w \rfloor) / u \\
        \lfloor w \rfloor & \text{else} \end{cases}, \qquad \mathrm{E}[p] = w, \quad
        \operatorname{Var}[p] \le u^2 / 4

    :math:`\lfloor w \rfloor` and :math:`\lceil w \rceil` are the bfloat16 numbers around :math:`w`, and :math:`u \le
    2^{-7} |w|` is their distance, above the smallest normal number. Probabilities have 16 bits, which is all that
    float32 has below bfloat16. The bits are Philox', of the optimizer's ``seed``, the step, the parameter and the
    element: they depend on no backend and no number of processes. Above the largest bfloat16 a value becomes infinite
    in the same way.

    Per parameter, with AdamW and a bfloat16 gradient: 10 bytes held (parameter 2, moments 4 each), and 5.5 words (of 4
    bytes) moved; with ``state=StateDtype("bfloat16", stochastic=True)`` 6 bytes and 3.5 words. SGD with momentum: 6
    bytes, 3.5 words.

    Args:
        state: how the state is held: :class:`~torchclip.StateDtype`, :class:`~torchclip.Blockwise8bit`, or None for
            float32.

    Raises:
        TypeError: for another state.

    Example:
        >>> import torch, torchclip
        >>> weight = torch.nn.Parameter(torch.ones(10_000, dtype=torch.bfloat16))
        >>> optimizer = torchclip.SGD([weight], lr=1e-3, precision=torchclip.StochasticRounding(), seed=1)
        >>> weight.grad = torch.ones_like(weight)
        >>> optimizer.step()
        >>> round(weight.float().mean().item(), 4)
        0.999

    Source: Gupta, Agrawal, Gopalakrishnan, Narayanan, Deep Learning with Limited Numerical Precision, ICML 2015, arXiv
    1502.02551, section 3; with bfloat16 parameters alone: Zamirai et al., 2020, arXiv 2010.06192.
    """

    parameter_dtypes = (torch.bfloat16,)
    kind = Kind.STOCHASTIC

    state: StatePolicy | None = None
