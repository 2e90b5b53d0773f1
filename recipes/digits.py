"""scikit-learn's 1,797 handwritten digits, and a small convolutional network for them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

BATCH_SIZE = 64
TEST_FRACTION = 0.2


@dataclass(frozen=True)
class Digits:
    """Images in [0, 1], shuffled once with a fixed seed and split 80 to 20."""

    train_images: Tensor  # [1438, 1, 8, 8]
    train_labels: Tensor  # [1438]
    test_images: Tensor  # [359, 1, 8, 8]
    test_labels: Tensor  # [359]

    @classmethod
    def load(cls, dtype: torch.dtype = torch.float32) -> Digits:
        digits = load_digits()
        order = torch.randperm(len(digits.images), generator=torch.Generator().manual_seed(0))
        images = torch.tensor(digits.images, dtype=dtype)[order].unsqueeze(1) / 16
        labels = torch.tensor(digits.target)[order]
        tests = int(TEST_FRACTION * len(images))
        return cls(images[tests:], labels[tests:], images[:tests], labels[:tests])

    @property
    def steps_per_epoch(self) -> int:
        return len(self.train_images) // BATCH_SIZE

    def batches(self, epochs: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Full batches, in an order that the seed alone decides."""
        generator = torch.Generator().manual_seed(seed)
        for _ in range(epochs):
            order = torch.randperm(len(self.train_images), generator=generator)
            for step in range(self.steps_per_epoch):
                batch = order[step * BATCH_SIZE : (step + 1) * BATCH_SIZE]
                yield self.train_images[batch], self.train_labels[batch]


def make_model(seed: int, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """Six convolutions with batch normalisation: 72,666 parameters in 20 tensors, most of them small."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    channels = 1
    for width, stride in ((16, 1), (16, 1), (32, 2), (32, 1), (64, 2), (64, 1)):
        layers += [nn.Conv2d(channels, width, 3, stride, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10)).to(dtype)


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    model.eval()
    predicted: Tensor = model(images).argmax(1)
    return (predicted == labels).float().mean().item()


@torch.no_grad()
def exact_zeros(model: nn.Module) -> float:
    """The fraction of parameters that are exactly 0."""
    zeros = sum(int((parameter == 0).sum()) for parameter in model.parameters())
    return zeros / sum(parameter.numel() for parameter in model.parameters())
