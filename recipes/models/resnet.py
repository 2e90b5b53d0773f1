"""Residual networks for small images (He et al., 2016, arXiv 1512.03385, section 4.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def kaiming_normal_convolutions(model: nn.Module) -> nn.Module:
    """Every convolution's weight ~ N(0, 2 / (kernel height · kernel width · out channels)), its bias 0.

    The variance keeps the scale of the gradients through a layer and its ReLU (He et al., 2015, arXiv 1502.01852).
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model


class BasicBlock(nn.Module):
    """y = ReLU(body(x) + shortcut(x)), of two 3 × 3 convolutions.

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
    return kaiming_normal_convolutions(nn.Sequential(*layers, *last))
