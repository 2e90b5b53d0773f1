"""VGG-16 for small images (Simonyan & Zisserman, 2015, arXiv 1409.1556, configuration D)."""

from __future__ import annotations

from torch import nn

from recipes.models.initialisation import kaiming_normal_convolutions

_STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # channels, convolutions; a pooling ends each stage
_HIDDEN = 512  # 4096 for ImageNet's larger images


def vgg16(shape: tuple[int, int, int], classes: int, batch_norm: bool) -> nn.Module:
    """13 convolutions, then 512-512-classes with dropout: the network of gRDA's CIFAR-10 experiment.

    15,245,130 parameters for three channels and ten classes, 15,253,578 with batch norm (Chao et al., 2020, arXiv
    2006.09358). The convolutions keep their biases before batch norm, as in the network that the experiment uses.
    """
    layers: list[nn.Module] = []
    channels = shape[0]
    for out_channels, convolutions in _STAGES:
        for _ in range(convolutions):
            layers.append(nn.Conv2d(channels, out_channels, 3, padding=1))
            layers += [nn.BatchNorm2d(out_channels), nn.ReLU()] if batch_norm else [nn.ReLU()]
            channels = out_channels
        layers.append(nn.MaxPool2d(2, ceil_mode=True))  # rounding down would leave nothing of 28 × 28 after the fifth
    classifier = (
        nn.Dropout(),
        nn.Linear(channels, _HIDDEN),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(_HIDDEN, _HIDDEN),
        nn.ReLU(),
        nn.Linear(_HIDDEN, classes),
    )
    # 32 × 32 is pooled to 1 × 1 already; larger images are not.
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), *classifier)
    kaiming_normal_convolutions(model)
    return model
