"""Param groups made from a model: one per layer, or with and without weight decay. Every parameter keeps its name."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

from torchclip.distributed.ownership import is_flat
from torchclip.rules import hyperparameters

NamedParameter = tuple[str, nn.Parameter]

_NORMS = (nn.LayerNorm, nn.RMSNorm)
"""The norms whose parameters may have several dimensions; all others are found by theirs having one."""


def param_groups_per_layer(model: nn.Module) -> list[dict[str, Any]]:
    r"""One param group for each module of ``model`` that owns parameters directly.

    With ``scope="group"`` every layer is then clipped by the norm :math:`\lVert g_\ell \rVert` of its own parameters:
    what the authors of :class:`~torchclip.MixClip` call ``layer``.

    Args:
        model: the model. Frozen parameters (``requires_grad=False``) are left out; a parameter that several modules
            share belongs to the first of them.

    Returns:
        Groups in the order of ``model.modules()``, none of them empty; ``params`` holds ``(name, parameter)`` pairs,
        named as in ``model.named_parameters()``. Any optimizer takes them, those of ``torch.optim`` too.

    Raises:
        TypeError: when ``model`` is no module.
        ValueError: when nothing in it can be trained, a lazy module in it has not yet seen its input, or FSDP1 has made
            one parameter of several layers.

    Example:
        >>> import torch
        >>> import torchclip
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
        >>> optimizer = torchclip.MixClip(param_groups_per_layer(model), lr=1.0, gamma=1.0, scope="group")
        >>> [group["param_names"] for group in optimizer.param_groups]
        [['0.weight', '0.bias'], ['2.weight', '2.bias']]

    Source: Zhang, Jin, Fang, Wang, Improved Analysis of Clipping Algorithms for Non-convex Optimization, NeurIPS 2020,
    arXiv 2010.02519; the ``layer`` option of their code, as it is described there.
    """
    layers = _trainable_layers(model)
    for _, params in layers:
        for name, parameter in params:
            if getattr(parameter, "_is_flat_param", False):
                raise ValueError(
                    f"parameter {name!r} is FSDP1's, and is one of all layers of what it wraps: wrap the model with "
                    "use_orig_params=True, or shard it with fully_shard"
                )
    return [{"params": params} for _, params in layers]


def param_groups_weight_decay(
    model: nn.Module, weight_decay: float, *, no_weight_decay: Collection[str] = ()
) -> list[dict[str, Any]]:
    """Two param groups: the weights, which decay, and the biases and norms, which do not.

    Without decay are the parameters of at most one dimension, those named ``bias``, and those of a
    :class:`~torch.nn.LayerNorm` or :class:`~torch.nn.RMSNorm` over several dimensions.

    Args:
        model: the model. Frozen parameters (``requires_grad=False``) are left out; a parameter that several modules
            share belongs to the first of them.
        weight_decay: of the first group, at least 0; coupled or decoupled as the optimizer has it.
            :class:`~torchclip.GRDA` has none, and does not read it.
        no_weight_decay: names of further parameters that do not decay, as ``"pos_embed"``.

    Returns:
        The group with decay, then the group without, each with its ``weight_decay``; an empty one is left out.
        ``params`` holds ``(name, parameter)`` pairs, named as in ``model.named_parameters()``.

    Raises:
        TypeError: when ``model`` is no module.
        ValueError: when ``weight_decay`` is negative or not finite, nothing in the model can be trained, a lazy module
            in it has not yet seen its input, or FSDP1 has flattened its parameters.

    Example:
        >>> import torch
        >>> import torchclip
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.LayerNorm(3))
        >>> optimizer = torchclip.AdamW(param_groups_weight_decay(model, 0.1), lr=3e-4, clip=1.0)
        >>> [(group["weight_decay"], group["param_names"]) for group in optimizer.param_groups]
        [(0.1, ['0.weight']), (0.0, ['0.bias', '1.weight', '1.bias'])]

    Source: ``param_groups_weight_decay`` of timm (Wightman, PyTorch Image Models), which lets norms over several
    dimensions decay.
    """
    reason = hyperparameters.WEIGHT_DECAY.reason_against("weight_decay", weight_decay)
    if reason is not None:
        raise ValueError(reason)
    decaying: list[NamedParameter] = []
    others: list[NamedParameter] = []
    for module, params in _trainable_layers(model):
        for name, parameter in params:
            if is_flat(parameter):
                raise ValueError(
                    f"parameter {name!r} is a piece that FSDP1 has flattened, with no dimensions to tell weights from "
                    "biases by: make the groups before the model is wrapped with use_orig_params=True, or shard it "
                    "with fully_shard"
                )
            is_bias = name.rpartition(".")[2] == "bias"
            is_exempt = parameter.ndim <= 1 or is_bias or isinstance(module, _NORMS) or name in no_weight_decay
            (others if is_exempt else decaying).append((name, parameter))
    groups: list[dict[str, Any]] = [
        {"params": decaying, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _trainable_layers(model: nn.Module) -> list[tuple[nn.Module, list[NamedParameter]]]:
    """The modules that own trainable parameters, each with those that no module before it owns.

    Raises:
        TypeError, ValueError: as the functions above.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"model must be a torch.nn.Module, got {type(model).__name__}: pass the model itself, not its parameters()"
        )
    layers = list(_owned_parameters(model))
    if not layers:
        frozen = sum(1 for _ in model.parameters())
        why = f"all {frozen} of its parameters are frozen" if frozen else "it owns no parameters"
        raise ValueError(
            f"{type(model).__name__} has nothing to train: {why}; "
            "pass the model that is trained, or unfreeze it with requires_grad_(True)"
        )
    return layers


def _owned_parameters(model: nn.Module) -> Iterator[tuple[nn.Module, list[NamedParameter]]]:
    seen: set[nn.Parameter] = set()
    for prefix, module in model.named_modules():
        params: list[NamedParameter] = []
        for name, parameter in module.named_parameters(prefix, recurse=False):
            if not parameter.requires_grad or parameter in seen:
                continue
            if is_lazy(parameter):
                raise ValueError(
                    f"parameter {name!r} of {type(module).__name__} has no shape yet: run one batch through the model "
                    "before its parameters are grouped"
                )
            seen.add(parameter)
            params.append((name, parameter))
        if params:
            yield module, params
