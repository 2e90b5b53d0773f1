"""The demo's optimizers, as records: how to make each, and what its step is timed against."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import torchclip

MAX_NORM = 1.0


@dataclass(frozen=True)
class Contestant:
    name: str
    make: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
    against: str | None = None  # the name of the contestant whose step time is the yardstick
    repeats: str | None = None  # the name of the contestant whose loss curve this one must repeat, to rounding
    max_norm: float | None = None  # torch's own optimizers clip by a call before the step

    def step(self, optimizer: torch.optim.Optimizer) -> Callable[[], None]:
        """What follows the backward pass: the clipping, where the optimizer does not do it itself, and the step."""
        max_norm = self.max_norm
        if max_norm is None:
            return lambda: optimizer.step()
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

        def clip_and_step() -> None:
            nn.utils.clip_grad_norm_(parameters, max_norm)
            optimizer.step()

        return clip_and_step


SGD: dict[str, Any] = {"lr": 0.02, "momentum": 0.9, "weight_decay": 5e-4}
ADAMW: dict[str, Any] = {"lr": 2e-3, "weight_decay": 1e-2}
AVERAGED: dict[str, Any] = {"gamma": 0.5, "weight_decay": 5e-4}  # momentum is an average there, so lr is larger

TORCH_SGD = "torch SGD fused + clip_grad_norm_"
TORCH_SGD_LOOP = "torch SGD + clip_grad_norm_"
TORCH_ADAMW = "torch AdamW fused + clip_grad_norm_"
TORCH_ADAMW_LOOP = "torch AdamW + clip_grad_norm_"
TORCH_PLAIN = "torch SGD fused, no clip, no momentum"

CONTESTANTS = (
    Contestant(TORCH_SGD_LOOP, lambda p: torch.optim.SGD(p, **SGD), max_norm=MAX_NORM),
    Contestant(TORCH_SGD, lambda p: torch.optim.SGD(p, **SGD, fused=True), max_norm=MAX_NORM),
    Contestant("SGD(clip=1.0)", lambda p: torchclip.SGD(p, **SGD, clip=MAX_NORM), TORCH_SGD, TORCH_SGD_LOOP),
    Contestant("SGDClip", lambda p: torchclip.SGDClip(p, lr=0.5, momentum=0.9, **AVERAGED), TORCH_SGD),
    Contestant("MomClip", lambda p: torchclip.MomClip(p, lr=0.5, momentum=0.9, **AVERAGED), TORCH_SGD),
    Contestant("MixClip", lambda p: torchclip.MixClip(p, lr=1.0, momentum=0.99, nu=0.7, **AVERAGED), TORCH_SGD),
    Contestant(TORCH_ADAMW_LOOP, lambda p: torch.optim.AdamW(p, **ADAMW), max_norm=MAX_NORM),
    Contestant(TORCH_ADAMW, lambda p: torch.optim.AdamW(p, **ADAMW, fused=True), max_norm=MAX_NORM),
    Contestant("AdamW(clip=1.0)", lambda p: torchclip.AdamW(p, **ADAMW, clip=MAX_NORM), TORCH_ADAMW, TORCH_ADAMW_LOOP),
    Contestant(TORCH_PLAIN, lambda p: torch.optim.SGD(p, lr=0.1, fused=True)),
    Contestant("GRDA", lambda p: torchclip.GRDA(p, lr=0.1, c=0.05, mu=0.51), TORCH_PLAIN),
)
