"""The papers' models. ``make_model`` builds an image classifier from the name that the papers' scripts give it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType

from torch import nn

from recipes.models.resnet import resnet
from recipes.models.small import cnn, lenet, mlp
from recipes.models.vgg import vgg16
from recipes.models.wide_resnet import wide_resnet

__all__ = ["MODELS", "is_model", "make_model"]

_Shape = tuple[int, int, int]
_NAME = re.compile(r"(\w+)(?:\((.*)\))?")

MODELS: Mapping[str, str] = MappingProxyType({
    "mlp": "mlp or mlp(hidden), 64 hidden units by default",
    "lenet": "lenet",
    "cnn": "cnn",
    "resnet": "resnet(depth,width) with depth = 6n + 2, as resnet(32,1)",
    "vgg16": "vgg16 or vgg16(bn)",
    "wrn": "wrn(depth,width) with depth = 6n + 4, as wrn(28,10)",
})  # fmt: skip
"""The names that ``make_model`` takes, each with its signature."""


def is_model(name: str) -> bool:
    """Whether :func:`make_model` knows the name; its arguments may be wrong all the same."""
    matched = _NAME.fullmatch(name.strip())
    return matched is not None and matched[1] in MODELS


def make_model(name: str, shape: _Shape, classes: int) -> nn.Module:
    """An image classifier, [batch, channels, height, width] -> logits [batch, classes].

    Args:
        name: as in the papers' scripts: one of ``MODELS``, with its arguments in parentheses.
        shape: (channels, height, width) of an image.
        classes: at least 2.

    The weights are drawn from torch's default generator: ``torch.manual_seed`` before the call fixes them.

    Raises:
        ValueError: an unknown name, arguments that the model does not take, or an impossible shape.

    Example:
        >>> sum(p.numel() for p in make_model("resnet(32,1)", (3, 32, 32), 10).parameters())
        466906
    """
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"{shape=}: wanted (channels, height, width), each at least 1")
    if classes < 2:
        raise ValueError(f"{classes=}: wanted at least 2")
    matched = _NAME.fullmatch(name.strip())
    if matched is None or matched[1] not in MODELS:
        raise ValueError(f"{name!r} is no model; the models are: {'; '.join(MODELS.values())}")
    arguments = [] if matched[2] is None else [argument.strip() for argument in matched[2].split(",")]
    return _MAKERS[matched[1]](shape, classes, arguments)


def _wrong_arguments(model: str, arguments: list[str]) -> ValueError:
    return ValueError(f"{model}({','.join(arguments)}): wanted {MODELS[model]}")


def _positive(model: str, arguments: list[str], count: int) -> list[int]:
    """The arguments as numbers."""
    numbers = [int(argument) for argument in arguments if re.fullmatch("0*[1-9][0-9]*", argument)]
    if len(numbers) != len(arguments) or len(arguments) != count:
        raise _wrong_arguments(model, arguments)
    return numbers


def _mlp(shape: _Shape, classes: int, arguments: list[str]) -> nn.Module:
    return mlp(shape, classes, *_positive("mlp", arguments or ["64"], 1))


def _lenet(shape: _Shape, classes: int, arguments: list[str]) -> nn.Module:
    _positive("lenet", arguments, 0)
    return lenet(shape, classes)


def _cnn(shape: _Shape, classes: int, arguments: list[str]) -> nn.Module:
    _positive("cnn", arguments, 0)
    return cnn(shape, classes)


def _resnet(shape: _Shape, classes: int, arguments: list[str]) -> nn.Module:
    return resnet(shape, classes, *_positive("resnet", arguments, 2))


def _vgg16(shape: _Shape, classes: int, arguments: list[str]) -> nn.Module:
    if arguments not in ([], ["bn"]):
        raise _wrong_arguments("vgg16", arguments)
    return vgg16(shape, classes, batch_norm=bool(arguments))


def _wrn(shape: _Shape, classes: int, arguments: list[str]) -> nn.Module:
    return wide_resnet(shape, classes, *_positive("wrn", arguments, 2))


_MAKERS: Mapping[str, Callable[[_Shape, int, list[str]], nn.Module]] = MappingProxyType({
    "mlp": _mlp,
    "lenet": _lenet,
    "cnn": _cnn,
    "resnet": _resnet,
    "vgg16": _vgg16,
    "wrn": _wrn,
})  # fmt: skip
