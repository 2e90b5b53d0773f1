"""The norm that a step is handed in the place of one that it measures."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torchclip.backends import choice
from torchclip.policies.clip import AutoClip, ClipByGlobalNorm, Scope, ZClip
from torchclip.policies.modifiers import Modifiers
from torchclip.rules.norms import norm_dtype


def checked_norm(norm: Any, modifiers: Modifiers, backend: str) -> Tensor:
    """The norm as a step takes it: 0-dim, detached, in the type of norms and without a sign.

    Args:
        norm: what was given.
        modifiers: the optimizer's policies.
        backend: what runs its steps.

    Raises:
        TypeError, ValueError, RuntimeError: as ``set_grad_norm()``.
    """
    if not isinstance(norm, Tensor) or not norm.is_floating_point():
        remedy = "norm.float()" if isinstance(norm, Tensor) else "torch.tensor(float(norm))"
        raise TypeError(f"set_grad_norm takes a floating-point tensor, got {torch.typename(norm)}: {remedy}")
    if norm.numel() != 1:
        raise ValueError(f"set_grad_norm takes one number, got shape {tuple(norm.shape)}: one norm of all parameters")
    clip = modifiers.clip
    takes_one = isinstance(clip, (ClipByGlobalNorm, AutoClip, ZClip)) and clip.scope is Scope.OPTIMIZER
    if not takes_one or modifiers.group_clips:
        raise RuntimeError(
            f"clip={clip} takes no single norm of all parameters: use ClipByGlobalNorm, AutoClip or ZClip, without "
            "policies of param groups"
        )
    if backend in choice.ON_DEVICE:
        raise RuntimeError(
            f"the {backend} backend measures its norm in the step: make the optimizer with backend='reference'"
        )
    if norm.device.type == "cpu" and norm < 0:  # another is not waited for
        raise ValueError(f"set_grad_norm got {float(norm)}: a norm is at least 0")
    return norm.detach().reshape(()).to(norm_dtype(norm.device)).abs()
