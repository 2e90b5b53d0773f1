"""Complex parameters, which every backend updates as their real view, as torch's own optimizers do.

The real view of a complex tensor of shape [...] has shape [..., 2]: real and imaginary parts, next to each other in
memory. Norms are then those of complex vectors; what works on single numbers works on each part. Which rows a parameter
has is decided by its own dimensions. ``csrc/reader/tensor_info.h`` says the same in C++.
"""

from __future__ import annotations

import torch
from torch import Tensor


def real_view(tensor: Tensor) -> Tensor:
    """A complex tensor as [..., 2] real numbers in the same memory; a real one as it is."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def real_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type of the parts of a complex type; a real one as it is."""
    return dtype.to_real() if dtype.is_complex else dtype  # which makes float32 of bfloat16
