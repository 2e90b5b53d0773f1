"""Image classifiers: an MLP, LeNet-5, a CNN at full resolution, VGG-16 and ResNets for small images.

``make_model`` builds one from the name that the papers' scripts give it.
"""

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

_LENET_SIDE = 32  # LeNet-5's input; MNIST's 28 × 28 images are padded to it
_VGG_STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # channels, convolutions; a pooling ends each stage


def _kaiming_normal_convolutions(model: nn.Module) -> nn.Module:
    """Every convolution's weight ~ N(0, 2 / (kernel height · kernel width · out channels)), its bias 0.

    The variance keeps the scale of the gradients through a layer and its ReLU (He et al., 2015, arXiv 1502.01852).
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model


def mlp(shape: tuple[int, int, int], classes: int, hidden: int) -> nn.Module:
    """Linear, ReLU, linear, on the flattened image; Xavier-normal weights (Glorot & Bengio, 2010), zero biases."""
    channels, height, width = shape
    first, last = nn.Linear(channels * height * width, hidden), nn.Linear(hidden, classes)
    for layer in (first, last):
        nn.init.xavier_normal_(layer.weight)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(nn.Flatten(), first, nn.ReLU(), last)


def lenet(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """LeNet-5 (LeCun et al., 1998) in today's form: ReLU and max pooling; 61,706 parameters on MNIST.

    The first convolution pads images of less than 32 × 32 to that, as the paper does with MNIST's.
    """
    channels, *sides = shape
    padding = [max(0, _LENET_SIDE + 1 - side) // 2 for side in sides]
    height, width = (((side + 2 * pad - 4) // 2 - 4) // 2 for side, pad in zip(sides, padding, strict=True))
    convolutions = (
        nn.Conv2d(channels, 6, 5, padding=(padding[0], padding[1])),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
    )
    hidden = (nn.Linear(16 * height * width, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU())
    return nn.Sequential(*convolutions, *hidden, nn.Linear(84, classes))


def cnn(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Five convolutions of 64 channels, four with batch norm, no pooling; 808,458 parameters on CIFAR-10.

    Most of them are in the linear layer, [classes, 64 · height · width].
    """
    channels, height, width = shape
    layers: list[nn.Module] = [nn.Conv2d(channels, 64, 5, padding=2), nn.ReLU()]
    for _ in range(4):
        layers += [nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * height * width, classes))


def vgg16(shape: tuple[int, int, int], classes: int, batch_norm: bool) -> nn.Module:
    """13 convolutions, then 512-512-classes with dropout: configuration D of Simonyan & Zisserman (arXiv 1409.1556).

    15,245,130 parameters for three channels and ten classes, 15,253,578 with batch norm: the network of gRDA's CIFAR-10
    experiment (Chao et al., 2020, arXiv 2006.09358), whose convolutions keep their biases before batch norm.
    """
    layers: list[nn.Module] = []
    channels = shape[0]
    for out_channels, convolutions in _VGG_STAGES:
        for _ in range(convolutions):
            layers.append(nn.Conv2d(channels, out_channels, 3, padding=1))
            layers += [nn.BatchNorm2d(out_channels), nn.ReLU()] if batch_norm else [nn.ReLU()]
            channels = out_channels
        layers.append(nn.MaxPool2d(2, ceil_mode=True))  # rounding down would leave nothing of 28 × 28 after the fifth
    hidden = (nn.Dropout(), nn.Linear(channels, 512), nn.ReLU(), nn.Dropout(), nn.Linear(512, 512), nn.ReLU())
    # 32 × 32 is pooled to 1 × 1 already; larger images are not.
    pooled = (nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return _kaiming_normal_convolutions(nn.Sequential(*layers, *pooled, *hidden, nn.Linear(512, classes)))


class BasicBlock(nn.Module):
    """y = ReLU(body(x) + shortcut(x)), of two 3 × 3 convolutions (He et al., 2016, arXiv 1512.03385, section 4.2).

    [batch, channels, height, width] -> [batch, out_channels, height / stride, width / stride]. The shortcut is a
    1 × 1 convolution with batch norm where the shape changes (the paper's option B), and the identity elsewhere.
    """

    def __init__(self, channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, out_channels, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or channels != out_channels:
            projection = nn.Conv2d(channels, out_channels, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(out_channels))

    def forward(self, images: Tensor) -> Tensor:
        return torch.relu(self.body(images) + self.shortcut(images))


def resnet(shape: tuple[int, int, int], classes: int, depth: int, width: int) -> nn.Module:
    """Three stages of (depth - 2) / 6 blocks with 16, 32 and 64 times ``width`` channels.

    Depth 32 and width 1 are the network of Zhang et al. (2020, arXiv 2010.02519) on CIFAR-10: 466,906 parameters.

    Raises:
        ValueError: depth is not 6n + 2 with n at least 1.
    """
    if depth < 8 or depth % 6 != 2:
        raise ValueError(f"resnet({depth},{width}): the depth must be 6n + 2 with n at least 1, as 20, 32, 44, 56, 110")
    channels = 16 * width
    layers: list[nn.Module] = [
        nn.Conv2d(shape[0], channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
    ]
    for out_channels, stride in ((16 * width, 1), (32 * width, 2), (64 * width, 2)):
        for block in range((depth - 2) // 6):
            layers.append(BasicBlock(channels, out_channels, stride if block == 0 else 1))
            channels = out_channels
    last = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
    return _kaiming_normal_convolutions(nn.Sequential(*layers, *last))


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


def check_model(name: str) -> None:
    """Raises ValueError for a name or arguments that no model has, before there are images to make one for."""
    with torch.device("meta"):
        make_model(name, (3, 32, 32), 2)


def make_model(name: str, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """An image classifier by its name in the papers' scripts, [batch, channels, height, width] -> [batch, classes].

    ``shape`` is (channels, height, width) of an image. Raises ValueError for a name or arguments that no model has.

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
