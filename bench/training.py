"""Training steps of ours beside torch's, forward and backward pass included: two small models of the common kinds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

import torchclip
from bench.algorithm import OURS, REFERENCE
from bench.clock import clock_of
from bench.measure import Settings, Timed, interleave, percentiles, round_ratios
from bench.results import Found
from recipes.models.resnet import resnet

TORCH = "torch"
MAX_NORM = 1.0
BATCHES = 8
# Batch normalisation makes ten to forty times as much of a rounding error in every step; another formula shows at once.
_CHECKED_STEPS = 3
_LOSS_BOUND = 2e-3
_MIN_CHANGE = 5.0  # of the loss, in bounds, or a step that does nothing would pass

_VOCABULARY, _CONTEXT = 256, 64
Batch = tuple[Tensor, Tensor]


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


def _images(generator: torch.Generator) -> Batch:
    return torch.randn(16, 3, 32, 32, generator=generator), torch.randint(10, (16,), generator=generator)


def _text(generator: torch.Generator) -> Batch:
    """Sequences that count up from a random token: the next one can be learnt."""
    start = torch.randint(_VOCABULARY, (4, 1), generator=generator)
    tokens = (start + torch.arange(_CONTEXT + 1)) % _VOCABULARY
    return tokens[:, :-1], tokens[:, 1:].flatten()


@dataclass(frozen=True)
class Task:
    """A model, always from the same start, and what it is trained on."""

    name: str
    make: Callable[[], nn.Module]
    batch: Callable[[torch.Generator], Batch]

    def model(self, device: torch.device) -> nn.Module:
        torch.manual_seed(0)
        return self.make().to(device)

    def batches(self, count: int, device: torch.device) -> list[Batch]:
        generator = torch.Generator().manual_seed(1)
        drawn = [self.batch(generator) for _ in range(count)]
        return [(inputs.to(device), targets.to(device)) for inputs, targets in drawn]


TASKS: Mapping[str, Task] = {
    # ResNet-20 for CIFAR: 272,474 parameters in 65 tensors.
    "resnet20": Task("resnet20", lambda: resnet((3, 32, 32), 10, depth=20, width=1), _images),
    "transformer": Task("transformer", _Transformer, _text),
}


def take_step(model: nn.Module, optimizer: Optimizer, batch: Batch, max_norm: float | None = None) -> Tensor:
    """The loss of one training step, on its device; with `max_norm` torch clips the gradients before."""
    inputs, targets = batch
    loss = cross_entropy(model(inputs), targets)
    optimizer.zero_grad()
    loss.backward()
    if max_norm is not None:
        clip_grad_norm_(model.parameters(), max_norm, foreach=True)
    if isinstance(optimizer, torchclip.AdaLoss):
        optimizer.step(loss=loss.detach())
    else:
        optimizer.step()
    return loss.detach()


_SGD: Mapping[str, Any] = {"lr": 0.05, "momentum": 0.9}
_CLIPPED = {"lr": 0.5, "gamma": 0.2, "momentum": 0.9}


@dataclass(frozen=True)
class Trained:
    """An optimizer of ours, and torch's that it is timed beside: of the same name and arguments where torch has it.

    Where torch has no such rule that is its SGD, the cheapest that it has, and ours does not clip besides.
    """

    name: str
    arguments: Mapping[str, Any]
    fused: bool = True  # whether torch has a fused form of it everywhere

    @property
    def _namesake(self) -> bool:
        return hasattr(torch.optim, self.name)

    @property
    def beside(self) -> str:
        name = self.name if self._namesake else "SGD"
        return f"torch {name}, {'fused' if self.fused else 'foreach'}, clip_grad_norm_"

    def ours(self, parameters: Sequence[nn.Parameter], backend: str | None) -> Optimizer:
        clip = {"clip": MAX_NORM} if self._namesake else {}
        optimizer: Optimizer = getattr(torchclip, self.name)(parameters, **self.arguments, **clip, backend=backend)
        return optimizer

    def torchs(self, parameters: Sequence[nn.Parameter]) -> Optimizer:
        form = {"fused": True} if self.fused else {"foreach": True}
        if not self._namesake:
            return torch.optim.SGD(parameters, **_SGD, **form)
        optimizer: Optimizer = getattr(torch.optim, self.name)(parameters, **self.arguments, **form)
        return optimizer


OPTIMIZERS: Mapping[str, Trained] = {
    each.name: each
    for each in (
        Trained("SGD", _SGD),
        Trained("AdamW", {"lr": 1e-3}),
        Trained("NAdam", {"lr": 1e-3}, fused=False),
        Trained("RAdam", {"lr": 1e-2}, fused=False),
        Trained("RMSprop", {"lr": 1e-3}, fused=False),
        Trained("Adagrad", {"lr": 1e-2}, fused=False),
        Trained("NormalizedSGD", {"lr": 0.2, "momentum": 0.9}),
        Trained("SGDClip", _CLIPPED),
        Trained("MomClip", _CLIPPED),
        Trained("MixClip", {**_CLIPPED, "nu": 0.7}),
        Trained("AdaLoss", {"lr": 0.5, "b0": 1.0}),
        Trained("AdaGradNorm", {"lr": 0.5, "b0": 1.0}),
        Trained("GRDA", {"lr": 0.1, "c": 1e-3, "mu": 0.6}),
    )
}


class _Run:
    """One model in training, by ours on the fastest backend, by torch, or by ours on the reference path."""

    def __init__(self, task: Task, device: torch.device, batches: Sequence[Batch], trained: Trained, who: str) -> None:
        self._model, self._batches = task.model(device), batches
        parameters = list(self._model.parameters())
        self._max_norm = MAX_NORM if who == TORCH else None
        backend = None if who == OURS else who
        self._optimizer = trained.torchs(parameters) if who == TORCH else trained.ours(parameters, backend)
        self._taken = 0
        self.losses: list[Tensor] = []
        """On their device: reading one would wait for it."""

    def step(self) -> None:
        batch = self._batches[self._taken % len(self._batches)]
        self._taken += 1
        loss = take_step(self._model, self._optimizer, batch, self._max_norm)
        if len(self.losses) < _CHECKED_STEPS:
            self.losses.append(loss)


def losses_agree(ours: Sequence[float], reference: Sequence[float], min_change: float = _MIN_CHANGE) -> list[str]:
    """What is wrong with the first losses, one sentence each.

    Args:
        ours: as they were.
        reference: as they are on the reference path.
        min_change: how far the loss must have come, in bounds, for its agreement to prove something.
    """
    found = []
    for step, (mine, theirs) in enumerate(zip(ours, reference, strict=True)):
        if not abs(mine - theirs) <= _LOSS_BOUND * max(1.0, abs(theirs)):  # NaN fails too
            found.append(f"the loss of step {step} is {mine:.6g}, on the reference path {theirs:.6g}")
    change = max(reference) - min(reference)
    if not change >= min_change * _LOSS_BOUND:
        found.append(f"the loss changed only by {change:.3g}: its agreement proves nothing")
    return found


def measure_speed(task: Task, trained: Trained, device: torch.device, settings: Settings) -> Found:
    """The entry of one optimizer on one model, and what is wrong with it."""
    batches = task.batches(BATCHES, device)
    runs = {who: _Run(task, device, batches, trained, who) for who in (OURS, TORCH)}
    entries = [Timed(who, lambda index: None, run.step) for who, run in runs.items()]
    wall = interleave(entries, settings, clock_of(device)).wall
    reference = _Run(task, device, batches, trained, REFERENCE)
    while len(reference.losses) < _CHECKED_STEPS:
        reference.step()
    ours, theirs = ([float(loss) for loss in run.losses] for run in (runs[OURS], reference))
    contenders = {
        who: {
            "seconds": percentiles(wall[who]),
            "steps_per_second": 1 / percentiles(wall[who])["p50"],
            "speedup_of_ours": round_ratios(wall[who], wall[OURS]),
        }
        for who in runs
    }
    entry = {
        "set": task.name,
        "algorithm": trained.name,
        "beside": trained.beside,
        "rounds": len(wall[OURS]),
        "contenders": contenders,
        "losses": {"ours": ours, "reference": theirs},
        "samples_seconds": {who: [round(value, 9) for value in wall[who]] for who in runs},
    }
    return entry, losses_agree(ours, theirs)
