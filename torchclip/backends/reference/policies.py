r"""From tensors to norms.

.. math::
    \lVert g \rVert = \Bigl(\sum_{i \in \text{scope}} \lVert g_i \rVert^2\Bigr)^{1/2}

The factor of a clip policy is ``policy.factor(norm)`` in ``torchclip.policies.clip``; the policies that look at past
norms or at the weights are in ``adaptive``. Values per scope have the shape [] for the optimizer, [groups] or
[parameters].
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from torchclip.policies.clip import Scope
from torchclip.rules.norms import norm_dtype


def tensor_norm(tensor: Tensor) -> Tensor:
    """The L2 norm of one tensor, in float64: the squares of a float16 gradient do not fit its own type."""
    norm: Tensor = torch.linalg.vector_norm(tensor, dtype=norm_dtype(tensor.device))
    return norm


def joint_norms(tensor_norms: Sequence[Tensor | None], group_sizes: Sequence[int], scope: Scope) -> Tensor:
    """The norms over ``scope``, from those of every parameter in turn; None, for no gradient, counts as 0."""
    measured = [norm for norm in tensor_norms if norm is not None]
    zero = torch.zeros_like(measured[0]) if measured else torch.zeros((), dtype=torch.float64)
    # The parameters may lie on several devices; their norms meet on the first one's.
    norms = [zero if norm is None else norm.to(zero) for norm in tensor_norms]
    joined = torch.stack(norms) if norms else zero.new_zeros(0)
    if scope is Scope.TENSOR:
        return joined
    if scope is Scope.OPTIMIZER:
        joint: Tensor = torch.linalg.vector_norm(joined)
        return joint
    return torch.stack([torch.linalg.vector_norm(group) for group in joined.split(list(group_sizes))])


def has_gradient(
    tensor_norms: Sequence[Tensor | None], group_sizes: Sequence[int], scope: Scope, like: Tensor
) -> Tensor:
    """Which entries of ``scope`` had a gradient to measure: booleans in the shape of ``like``, the norms over it."""
    present = [norm is not None for norm in tensor_norms]
    if scope is Scope.OPTIMIZER:
        return torch.full_like(like, any(present), dtype=torch.bool)
    if scope is Scope.GROUP:
        ends = list(accumulate(group_sizes))
        present = [any(present[end - size : end]) for end, size in zip(ends, group_sizes, strict=True)]
    # Filled on the device: a list that is copied there is waited for.
    each = [torch.full((), one, device=like.device) for one in present]
    return torch.stack(each) if each else torch.zeros_like(like, dtype=torch.bool)


def per_parameter(values: Tensor, group_sizes: Sequence[int], scope: Scope) -> Tensor:
    """The entry of ``values``, in the shape of ``scope``, that holds for each parameter: [parameters]."""
    if scope is Scope.TENSOR:
        return values
    if scope is Scope.OPTIMIZER:
        return values.expand(sum(group_sizes))
    return torch.cat([value.expand(size) for value, size in zip(values.unbind(), group_sizes, strict=True)])


def per_scope(values: Sequence[Any], group_sizes: Sequence[int], scope: Scope) -> list[Any]:
    """The entry of ``values``, one per group, that stands for each entry of ``scope``: the first group's for all."""
    if scope is Scope.OPTIMIZER:
        return list(values[:1])
    if scope is Scope.GROUP:
        return list(values)
    return [value for value, size in zip(values, group_sizes, strict=True) for _ in range(size)]
