"""How the papers' deep image networks start."""

from __future__ import annotations

from torch import nn


def kaiming_normal_convolutions(model: nn.Module) -> None:
    """Every convolution's weight ~ N(0, 2 / (kernel height · kernel width · out channels)), its bias 0.

    The variance keeps the scale of the gradients through a layer and its ReLU (He et al., 2015, arXiv 1502.01852).
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
