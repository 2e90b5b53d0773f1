"""Two small models of the two common kinds, and batches for them that are always there."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from recipes.models.resnet import resnet

_VOCABULARY, _CONTEXT = 256, 64


def _resnet20() -> nn.Module:
    """ResNet-20 for CIFAR: 272,474 parameters in 65 tensors."""
    return resnet((3, 32, 32), 10, depth=20, width=1)


class _Transformer(nn.Module):
    """A causal language model of four layers of width 128, four heads."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(_VOCABULARY, 128)
        self.positions = nn.Parameter(0.02 * torch.randn(_CONTEXT, 128))
        layer = nn.TransformerEncoderLayer(128, 4, 512, dropout=0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
        self.head = nn.Linear(128, _VOCABULARY)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(_CONTEXT))

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.head(self.layers(self.tokens(tokens) + self.positions, mask=self.mask, is_causal=True))
        return logits.flatten(0, 1)


def _images(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return torch.randn(16, 3, 32, 32, generator=generator), torch.randint(10, (16,), generator=generator)


def _text(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Sequences that count up from a random token: the next one can be learnt."""
    start = torch.randint(_VOCABULARY, (4, 1), generator=generator)
    tokens = (start + torch.arange(_CONTEXT + 1)) % _VOCABULARY
    return tokens[:, :-1], tokens[:, 1:].flatten()


@dataclass(frozen=True)
class Task:
    """A model and what it is trained on."""

    name: str
    make: Callable[[], nn.Module]
    batch: Callable[[torch.Generator], tuple[Tensor, Tensor]]

    def model(self, device: torch.device) -> nn.Module:
        """Always from the same start."""
        torch.manual_seed(0)
        return self.make().to(device)

    def batches(self, count: int, device: torch.device) -> list[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(1)
        drawn = [self.batch(generator) for _ in range(count)]
        return [(inputs.to(device), targets.to(device)) for inputs, targets in drawn]


TASKS: Mapping[str, Task] = MappingProxyType(
    {task.name: task for task in (Task("resnet20", _resnet20, _images), Task("transformer", _Transformer, _text))}
)


def loss_of(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    inputs, targets = batch
    return cross_entropy(model(inputs), targets)
