"""A float32 value in a bfloat16 parameter and 16 bits beside it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from torchclip.policies.precision.codec import Kind
from torchclip.policies.precision.policy import ParameterPolicy, StatePolicy


@dataclass(frozen=True)
class SplitMaster(ParameterPolicy):
    r"""Holds the float32 value of a bfloat16 parameter in the parameter and a 16-bit remainder: exact, and no copy.

    .. math::
        \operatorname{bits}(w) = 2^{16} \operatorname{bits}(p) + r, \qquad r \in [-2^{15}, 2^{15})

    :math:`p` is :math:`w` rounded to the nearest bfloat16, ties away from zero, and :math:`r` is ``"remainder"`` in the
    state, int16. The rule, decay, Lookahead and clip policies see :math:`w`: steps are bitwise those of a float32
    parameter with the same gradients (on CUDA but for the last bits of a norm, where one is taken). A NaN keeps no
    payload. A parameter that something else writes to keeps its old remainder, at most half a unit of its last place:
    0 may stand for a number below 1e-38, and infinity for the largest finite ones. ``load_float32_parameters()`` writes
    both.

    Per parameter, with AdamW and a bfloat16 gradient: 12 bytes held (parameter 2, remainder 2, moments 4 each) for 14
    with a float32 master, and 6.5 words (of 4 bytes) moved for 7; with ``state=StateDtype("bfloat16")`` 8 bytes and 4.5
    words. SGD with momentum: 8 bytes, 4.5 words.

    Args:
        state: how the state is held: :class:`~torchclip.StateDtype`, :class:`~torchclip.Blockwise8bit`, or None for
            float32.

    Raises:
        TypeError: for another state.

    Example:
        >>> import torch, torchclip
        >>> weight = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
        >>> optimizer = torchclip.SGD([weight], lr=1e-3, precision=torchclip.SplitMaster())
        >>> for _ in range(3):
        ...     weight.grad = torch.ones_like(weight)
        ...     optimizer.step()
        >>> weight.detach(), optimizer.float32_parameters()[0]
        (tensor([0.9961, 0.9961, 0.9961], dtype=torch.bfloat16), tensor([0.9970, 0.9970, 0.9970]))

    Source: Zamirai, Zhang, Aberger, De Sa, Revisiting BFloat16 Training, 2020, arXiv 2010.06192, which keeps what
    rounding loses in a second bfloat16 number; the 16 bits that make it exact are those of Split-SGD-BF16, Kalamkar et
    al., Optimizing Deep Learning Recommender Systems Training on CPU Cluster Architectures, SC 2020, arXiv 2005.04680.
    """

    parameter_dtypes = (torch.bfloat16,)
    kind = Kind.SPLIT

    state: StatePolicy | None = None
