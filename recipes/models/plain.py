"""Image classifiers without shortcuts: one hidden layer, LeNet-5, a CNN at full resolution, VGG-16."""

from __future__ import annotations

from torch import nn

from recipes.models.resnet import kaiming_normal_convolutions

_LENET_SIDE = 32  # LeNet-5's input; MNIST's 28 × 28 images are padded to it
_VGG_STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # channels, convolutions; a pooling ends each stage


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
    return kaiming_normal_convolutions(nn.Sequential(*layers, *pooled, *hidden, nn.Linear(512, classes)))
