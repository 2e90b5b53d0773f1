"""The small image classifiers: one hidden layer, LeNet-5, and a plain convolutional network at full resolution."""

from __future__ import annotations

from torch import nn

_LENET_SIDE = 32  # LeNet-5's input; MNIST's 28 × 28 images are padded to it


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
    return nn.Sequential(
        nn.Conv2d(channels, 6, 5, padding=(padding[0], padding[1])),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * height * width, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, classes),
    )


def cnn(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Five convolutions of 64 channels, four with batch norm, no pooling; 808,458 parameters on CIFAR-10.

    Most of them are in the linear layer, [classes, 64 · height · width].
    """
    channels, height, width = shape
    layers: list[nn.Module] = [nn.Conv2d(channels, 64, 5, padding=2), nn.ReLU()]
    for _ in range(4):
        layers += [nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * height * width, classes))
