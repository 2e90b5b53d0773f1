"""Training steps of ours beside torch's, forward and backward pass included, on models of their own."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch.nn import Parameter
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

import torchclip
from bench.algorithm import OURS
from bench.clock import clock_of
from bench.measure import Percentiles, Settings, Timed, interleave, round_ratios
from bench.train.models import Task, loss_of

TORCH = "torch"
MAX_NORM = 1.0
BATCHES = 8
# Batch normalisation makes ten to forty times as much of a rounding error in every step; another formula shows at once.
_CHECKED_STEPS = 3
_LOSS_BOUND = 2e-3
_MIN_CHANGE = 5.0  # of the loss, in bounds, or a step that does nothing would pass


@dataclass(frozen=True)
class Trained:
    """An optimizer of ours and what of torch's it is timed beside.

    Args:
        name: of the class, here and, where torch has it, there.
        arguments: of both.
        clips: whether both clip by the global norm.
        beside: torch's class; where it has no such rule, its SGD, the cheapest that it has.
        beside_arguments: where they are others.
        fused: whether torch has a fused form of it everywhere.
    """

    name: str
    arguments: Mapping[str, Any]
    clips: bool = True
    beside: Callable[..., Optimizer] = torch.optim.SGD
    beside_arguments: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({"lr": 0.05, "momentum": 0.9}))
    fused: bool = True

    def ours(self, parameters: Sequence[Parameter], backend: str | None) -> Optimizer:
        clip = {"clip": MAX_NORM} if self.clips else {}
        optimizer: Optimizer = getattr(torchclip, self.name)(parameters, **self.arguments, **clip, backend=backend)
        return optimizer

    def torchs(self, parameters: Sequence[Parameter]) -> Optimizer:
        form = {"fused": True} if self.fused else {"foreach": True}
        return self.beside(parameters, **self.beside_arguments, **form)


def _namesake(name: str, arguments: Mapping[str, Any], fused: bool) -> Trained:
    return Trained(name, arguments, beside=getattr(torch.optim, name), beside_arguments=arguments, fused=fused)


def _own_clip(name: str, arguments: Mapping[str, Any]) -> Trained:
    return Trained(name, arguments, clips=False)


_SGD = {"lr": 0.05, "momentum": 0.9}
_ADAPTIVE = {"lr": 1e-3}

OPTIMIZERS: Mapping[str, Trained] = MappingProxyType(
    {
        each.name: each
        for each in (
            _namesake("SGD", _SGD, fused=True),
            _namesake("AdamW", _ADAPTIVE, fused=True),
            _namesake("NAdam", _ADAPTIVE, fused=False),
            _namesake("RAdam", {"lr": 1e-2}, fused=False),
            _namesake("RMSprop", _ADAPTIVE, fused=False),
            _namesake("Adagrad", {"lr": 1e-2}, fused=False),
            _own_clip("NormalizedSGD", {"lr": 0.2, "momentum": 0.9}),
            _own_clip("SGDClip", {"lr": 0.5, "gamma": 0.2, "momentum": 0.9}),
            _own_clip("MomClip", {"lr": 0.5, "gamma": 0.2, "momentum": 0.9}),
            _own_clip("MixClip", {"lr": 0.5, "gamma": 0.2, "momentum": 0.9, "nu": 0.7}),
            _own_clip("AdaLoss", {"lr": 0.5, "b0": 1.0}),
            _own_clip("AdaGradNorm", {"lr": 0.5, "b0": 1.0}),
            _own_clip("GRDA", {"lr": 0.1, "c": 1e-3, "mu": 0.6}),
        )
    }
)


class Run:
    """One model in training."""

    def __init__(self, task: Task, device: torch.device, batches: Sequence[Any], trained: Trained, who: str) -> None:
        self._model = task.model(device)
        self._batches = batches
        self._parameters = list(self._model.parameters())
        self._clips = who == TORCH
        backend = None if who == OURS else who
        self._optimizer = trained.torchs(self._parameters) if who == TORCH else trained.ours(self._parameters, backend)
        self._taken = 0
        self.losses: list[torch.Tensor] = []
        """On their device: reading one would wait for it."""

    def step(self) -> None:
        loss = loss_of(self._model, self._batches[self._taken % len(self._batches)])
        self._taken += 1
        self._optimizer.zero_grad()
        loss.backward()
        if self._clips:
            clip_grad_norm_(self._parameters, MAX_NORM, foreach=True)
        if isinstance(self._optimizer, torchclip.AdaLoss):
            self._optimizer.step(loss=loss.detach())
        else:
            self._optimizer.step()
        if len(self.losses) < _CHECKED_STEPS:
            self.losses.append(loss.detach())


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


def measure_speed(
    task: Task, trained: Trained, device: torch.device, settings: Settings, on_round: Callable[[float], None]
) -> tuple[dict[str, Any], list[str]]:
    """The entry of one optimizer on one model, and what is wrong with it."""
    batches = task.batches(BATCHES, device)
    runs = {who: Run(task, device, batches, trained, who) for who in (OURS, TORCH)}
    entries = [Timed(who, lambda index: None, run.step) for who, run in runs.items()]
    measured = interleave(entries, settings, on_round, clock_of(device))
    reference = Run(task, device, batches, trained, "reference")
    while len(reference.losses) < _CHECKED_STEPS:
        reference.step()
    ours, theirs = ([float(loss) for loss in run.losses] for run in (runs[OURS], reference))
    wall = measured.wall
    contenders = {
        who: {
            "seconds": asdict(Percentiles.of(wall[who])),
            "steps_per_second": 1 / Percentiles.of(wall[who]).p50,
            "speedup_of_ours": asdict(round_ratios(wall[who], wall[OURS])),
        }
        for who in runs
    }
    entry = {
        "set": task.name,
        "algorithm": trained.name,
        "beside": f"torch {trained.beside.__name__}, {'fused' if trained.fused else 'foreach'}, clip_grad_norm_",
        "rounds": len(wall[OURS]),
        "contenders": contenders,
        "losses": {"ours": ours, "reference": theirs},
        "samples_seconds": {who: [round(value, 9) for value in wall[who]] for who in runs},
    }
    return entry, losses_agree(ours, theirs)
