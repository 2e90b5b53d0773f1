"""Wide residual networks (Zagoruyko & Komodakis, 2016, arXiv 1605.07146)."""

from __future__ import annotations

from torch import Tensor, nn

from recipes.models.initialisation import kaiming_normal_convolutions


class PreActivationBlock(nn.Module):
    """y = body(a) + shortcut, a = ReLU(batch norm(x)), of two 3 × 3 convolutions (the paper's B(3,3)).

    [batch, channels, height, width] -> [batch, out_channels, height / stride, width / stride]. The shortcut is x, or
    a 1 × 1 convolution of a where the shape changes.
    """

    def __init__(self, channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.activation = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU())
        self.body = nn.Sequential(
            nn.Conv2d(channels, out_channels, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
        )
        self.projection: nn.Conv2d | None = None
        if stride > 1 or channels != out_channels:
            self.projection = nn.Conv2d(channels, out_channels, 1, stride, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        activated = self.activation(images)
        shortcut = images if self.projection is None else self.projection(activated)
        added: Tensor = self.body(activated) + shortcut
        return added


def wide_resnet(shape: tuple[int, int, int], classes: int, depth: int, width: int) -> nn.Module:
    """Three stages of (depth - 4) / 6 blocks with 16, 32 and 64 times ``width`` channels.

    Depth 28 and width 10 have 36,479,194 parameters for three channels and ten classes.

    Raises:
        ValueError: depth is not 6n + 4 with n at least 1.
    """
    if depth < 10 or depth % 6 != 4:
        raise ValueError(f"wrn({depth},{width}): the depth must be 6n + 4 with n at least 1, as 16, 22, 28, 40")
    channels = 16
    layers: list[nn.Module] = [nn.Conv2d(shape[0], channels, 3, padding=1, bias=False)]
    for out_channels, stride in ((16 * width, 1), (32 * width, 2), (64 * width, 2)):
        for block in range((depth - 4) // 6):
            layers.append(PreActivationBlock(channels, out_channels, stride if block == 0 else 1))
            channels = out_channels
    layers += [nn.BatchNorm2d(channels), nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
    kaiming_normal_convolutions(model)
    return model
