"""`python -m bench train`: training steps per second of two small models of the common kinds, ours beside torch's."""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_

import torchclip
from bench.algorithm import OURS, REFERENCE, TORCH
from bench.bandwidth import BandwidthProbe
from bench.measure import Settings, Timed, clock_of, interleave, percentiles, round_ratios
from bench.measurement import Measurement, Planned
from bench.options import option, positive
from bench.results import Found
from recipes.models.images import resnet

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


class Task(NamedTuple):
    """A model, always from the same start, and what it is trained on."""

    make: Callable[[], nn.Module]
    batch: Callable[[torch.Generator], Batch]

    def model(self, device: torch.device) -> nn.Module:
        torch.manual_seed(0)
        return self.make().to(device)

    def batches(self, device: torch.device) -> list[Batch]:
        generator = torch.Generator().manual_seed(1)
        drawn = [self.batch(generator) for _ in range(BATCHES)]
        return [(inputs.to(device), targets.to(device)) for inputs, targets in drawn]


TASKS: Mapping[str, Task] = {
    # ResNet-20 for CIFAR: 272,474 parameters in 65 tensors.
    "resnet20": Task(lambda: resnet((3, 32, 32), 10, depth=20, width=1), _images),
    "transformer": Task(_Transformer, _text),
}


def take_step(model: nn.Module, optimizer: Any, batch: Batch, max_norm: float | None = None) -> Tensor:
    """The loss of one training step, on its device; with `max_norm` torch clips the gradients before."""
    inputs, targets = batch
    loss = cross_entropy(model(inputs), targets)
    optimizer.zero_grad()
    loss.backward()
    if max_norm is not None:
        clip_grad_norm_(model.parameters(), max_norm, foreach=True)
    optimizer.step(**({"loss": loss.detach()} if isinstance(optimizer, torchclip.AdaLoss) else {}))
    return loss.detach()


_SGD: Mapping[str, Any] = {"lr": 0.05, "momentum": 0.9}
_CLIPPED = {"lr": 0.5, "gamma": 0.2, "momentum": 0.9}

OPTIMIZERS: Mapping[str, Mapping[str, Any]] = {
    "SGD": _SGD,
    "AdamW": {"lr": 1e-3},
    "NAdam": {"lr": 1e-3},
    "RAdam": {"lr": 1e-2},
    "RMSprop": {"lr": 1e-3},
    "Adagrad": {"lr": 1e-2},
    "NormalizedSGD": {"lr": 0.2, "momentum": 0.9},
    "SGDClip": _CLIPPED,
    "MomClip": _CLIPPED,
    "MixClip": {**_CLIPPED, "nu": 0.7},
    "AdaLoss": {"lr": 0.5, "b0": 1.0},
    "AdaGradNorm": {"lr": 0.5, "b0": 1.0},
    "GRDA": {"lr": 0.1, "c": 1e-3, "mu": 0.6},
}
"""Ours by name, with its arguments."""


def _beside(name: str) -> tuple[str, Mapping[str, Any], str]:
    """What of torch's it is timed beside: name, arguments, and form.

    That is its class of the same name, in a fused form where torch has one everywhere; where torch has no such rule its
    SGD, the cheapest that it has.
    """
    beside, arguments = (name, OPTIMIZERS[name]) if hasattr(torch.optim, name) else ("SGD", _SGD)
    return beside, arguments, "fused" if beside in ("SGD", "AdamW") else "foreach"


def make_optimizer(name: str, who: str, model: nn.Module) -> Any:
    """Of ours on its fastest backend, of ours on the reference path, or of torch; those of torch's rules clip."""
    if who == TORCH:
        beside, arguments, form = _beside(name)
        return getattr(torch.optim, beside)(model.parameters(), **arguments, **{form: True})
    clip = {"clip": MAX_NORM} if hasattr(torch.optim, name) else {}
    backend = None if who == OURS else who
    return getattr(torchclip, name)(model.parameters(), **OPTIMIZERS[name], **clip, backend=backend)


def losses_agree(ours: Sequence[float], reference: Sequence[float]) -> list[str]:
    """What is wrong with the first losses beside those on the reference path, one sentence each."""
    found = []
    for step, (mine, theirs) in enumerate(zip(ours, reference, strict=True)):
        if not abs(mine - theirs) <= _LOSS_BOUND * max(1.0, abs(theirs)):  # NaN fails too
            found.append(f"the loss of step {step} is {mine:.6g}, on the reference path {theirs:.6g}")
    change = max(reference) - min(reference)
    if not change >= _MIN_CHANGE * _LOSS_BOUND:
        found.append(f"the loss changed only by {change:.3g}: its agreement proves nothing")
    return found


def measure_speed(model_name: str, name: str, device: torch.device, settings: Settings) -> Found:
    """One optimizer on one model."""
    task = TASKS[model_name]
    batches = task.batches(device)

    losses: dict[str, list[Tensor]] = {}  # on their device: reading one would wait for it

    def training(who: str) -> Callable[[], None]:
        model, endless, found = task.model(device), itertools.cycle(batches), losses.setdefault(who, [])
        optimizer, max_norm = make_optimizer(name, who, model), MAX_NORM if who == TORCH else None
        return lambda: found.append(take_step(model, optimizer, next(endless), max_norm))

    entries = [Timed(who, lambda index: None, training(who)) for who in (OURS, TORCH)]
    wall = interleave(entries, settings, clock_of(device)).wall
    step = training(REFERENCE)
    for _ in range(_CHECKED_STEPS):
        step()
    ours, theirs = ([float(loss) for loss in losses[who][:_CHECKED_STEPS]] for who in (OURS, REFERENCE))
    contenders = {
        who: {"seconds": percentiles(wall[who]), "speedup_of_ours": round_ratios(wall[who], wall[OURS])} for who in wall
    }
    beside, _, form = _beside(name)
    entry = {
        "set": model_name,
        "algorithm": name,
        "beside": f"torch {beside}, {form}, clip_grad_norm_",
        "rounds": len(wall[OURS]),
        "contenders": contenders,
        "losses": {"ours": ours, "reference": theirs},
        "samples_seconds": {who: [round(value, 9) for value in wall[who]] for who in wall},
    }
    return entry, losses_agree(ours, theirs)


@dataclass(kw_only=True)
class Train(Measurement):
    """training steps per second of real models"""

    name: ClassVar[str] = "train"
    limits: ClassVar[Mapping[str, Any]] = {"min_rounds": 10}
    seconds: float = option(2.0, "time for one optimizer on one model, of ten rounds at least", positive(float))
    models: Sequence[str] = option(tuple(TASKS), "models", choices=tuple(TASKS))
    optimizers: Sequence[str] = option(tuple(OPTIMIZERS), "optimizers", choices=tuple(OPTIMIZERS))

    def plan(self, probe: BandwidthProbe) -> Iterable[Planned]:
        for model in self.models:
            for name in self.optimizers:
                measure = partial(measure_speed, model, name, probe.device, self.settings())
                yield Planned((model, name), measure)
