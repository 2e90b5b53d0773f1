"""The papers' models. ``make_model`` builds an image classifier from the name that the papers' scripts give it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from torch import nn

from recipes.models.plain import cnn, lenet, mlp, vgg16
from recipes.models.resnet import resnet

_MODELS: dict[str, tuple[str, Callable[..., nn.Module], Callable[[str], Any]]] = {
    "mlp or mlp(hidden), 64 hidden units by default": (r"mlp(?:\(([1-9]\d*)\))?", mlp, lambda text: int(text or 64)),
    "lenet": ("lenet", lenet, str),
    "cnn": ("cnn", cnn, str),
    "resnet(depth,width) with depth = 6n + 2, as resnet(32,1)": (r"resnet\(([1-9]\d*), *([1-9]\d*)\)", resnet, int),
    "vgg16 or vgg16(bn)": (r"vgg16(\(bn\))?", vgg16, bool),
}
"""By what a message says of it: the pattern of a name, the function, and what makes its arguments of the groups."""

MODELS = "; ".join(_MODELS)


def is_model(name: str) -> bool:
    """Whether a model of :func:`make_model` is meant; its arguments may be wrong all the same."""
    return re.match(r"\s*(mlp|lenet|cnn|resnet|vgg16)\s*(\(|$)", name) is not None


def make_model(name: str, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """An image classifier, [batch, channels, height, width] -> logits [batch, classes].

    Args:
        name: as in the papers' scripts, with its arguments in parentheses.
        shape: (channels, height, width) of an image.
        classes: at least 2.

    The weights are drawn from torch's default generator: ``torch.manual_seed`` before the call fixes them.

    Raises:
        ValueError: an unknown name, arguments that the model does not take, or fewer than two classes.

    Example:
        >>> sum(p.numel() for p in make_model("resnet(32,1)", (3, 32, 32), 10).parameters())
        466906
    """
    if classes < 2:
        raise ValueError(f"{classes=}: wanted at least 2")
    for pattern, make, convert in _MODELS.values():
        if matched := re.fullmatch(pattern, name.strip()):
            return make(shape, classes, *map(convert, matched.groups()))
    raise ValueError(f"{name!r} is no model; the models are: {MODELS}")
