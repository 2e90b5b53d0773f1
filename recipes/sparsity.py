"""What gRDA prunes: the exact zeros of a model, layer by layer, and the pruned model as files."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

DENSE, SPARSE = "model_dense.pt", "model_sparse.pt"


@torch.no_grad()
def layer_sparsity(model: nn.Module) -> dict[str, float]:
    """The fraction of elements that are exactly 0, for every parameter by name."""
    parameters = dict(model.named_parameters())
    zeros = torch.stack([(parameter == 0).sum() for parameter in parameters.values()]).tolist()
    return {name: zero / max(one.numel(), 1) for (name, one), zero in zip(parameters.items(), zeros, strict=True)}


class Sizes(NamedTuple):
    """Of the exported files, in bytes."""

    dense: int
    sparse: int


def export(model: nn.Module, folder: Path) -> Sizes:
    """Writes the model's ``state_dict`` twice: dense, and with sparse matrices where those are smaller.

    A parameter of two or more dimensions becomes a matrix of its first dimension by the rest, in torch's CSR layout
    with 32-bit indices, when that takes fewer bytes; its shape is kept beside it. :func:`load_sparse` undoes it.
    """
    state = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")  # what is used of it is tested
        packed = {name: (_packed(value), list(value.shape)) for name, value in state.items()}
    torch.save(state, folder / DENSE)
    torch.save(packed, folder / SPARSE)
    return Sizes((folder / DENSE).stat().st_size, (folder / SPARSE).stat().st_size)


def load_sparse(path: Path) -> dict[str, Tensor]:
    """The dense ``state_dict`` of a file that :func:`export` wrote."""
    packed = torch.load(path, weights_only=True)
    return {name: value.to_dense().reshape(shape) for name, (value, shape) in packed.items()}


def _packed(value: Tensor) -> Tensor:
    if value.dim() < 2 or value.numel() == 0 or not value.is_floating_point():
        return value.clone()
    matrix = value.reshape(len(value), -1).to_sparse_csr()
    nonzeros = matrix.values().numel()
    if 4 * (nonzeros + len(value) + 1) + value.element_size() * nonzeros >= value.element_size() * value.numel():
        return value.clone()
    indices = matrix.crow_indices().int(), matrix.col_indices().int()
    return torch.sparse_csr_tensor(*indices, matrix.values(), size=matrix.shape, check_invariants=False)
