"""A float32 copy of each half-precision parameter."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from torchclip.policies.precision.codec import Kind
from torchclip.policies.precision.policy import ParameterPolicy, StatePolicy


@dataclass(frozen=True)
class MasterWeights(ParameterPolicy):
    r"""Holds a float32 value for each parameter in bfloat16 or float16, and writes the parameter from it.

    .. math:: w \leftarrow \operatorname{rule}(w, g), \qquad p \leftarrow \operatorname{round}(w)

    :math:`w` is ``"master"`` in the state, float32, and made of the parameter at the first step. Steps start from it:
    what something else writes to the parameter later is overwritten, unless ``load_float32_parameters`` writes it.
    bfloat16 has :class:`~torchclip.SplitMaster`, which is smaller; float16, whose bits are no part of float32's, needs
    this.

    Per parameter, with AdamW and a half-precision gradient: 14 bytes held (parameter 2, master 4, moments 4 each), and
    7 words (of 4 bytes) moved, the parameter being written alone; SGD with momentum: 10 bytes, 5 words.

    Args:
        state: how the state is held: :class:`~torchclip.StateDtype`, :class:`~torchclip.Blockwise8bit`, or None for
            float32.

    Raises:
        TypeError: for another state.

    Example:
        >>> import torch, torchclip
        >>> weight = torch.nn.Parameter(torch.ones(3, dtype=torch.float16))
        >>> optimizer = torchclip.SGD([weight], lr=1e-4, precision=torchclip.MasterWeights())
        >>> for _ in range(3):
        ...     weight.grad = torch.ones_like(weight)
        ...     optimizer.step()
        >>> weight.detach(), optimizer.state[weight]["master"]
        (tensor([0.9995, 0.9995, 0.9995], dtype=torch.float16), tensor([0.9997, 0.9997, 0.9997]))

    Source: Micikevicius et al., Mixed Precision Training, ICLR 2018, arXiv 1710.03740, section 3.1.
    """

    parameter_dtypes = (torch.bfloat16, torch.float16)
    kind = Kind.MASTER

    state: StatePolicy | None = None
