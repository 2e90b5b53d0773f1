"""Optimizers of other libraries that a person would pick instead, where they are installed.

Each clips as its users write it: clip_grad_norm_ before the step, its own where it brings one. Arguments are those of
the row, and so is the result, which is checked like torch's; what computes something else says so.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from bench.algorithm import ADAMW_ARGUMENTS, SGD_ARGUMENTS, Algorithm, Build, Step

Make = Callable[[Any, Sequence[Parameter]], Optimizer]
"""From the imported module and the parameters."""


def _torch_clip(module: Any, parameters: Sequence[Parameter], max_norm: float) -> None:
    clip_grad_norm_(parameters, max_norm)


@dataclass(frozen=True)
class Peer:
    """A library's forms of some rules."""

    name: str
    module: str
    make: Mapping[str, Make]  # by the name of the row that does not clip
    clip: Callable[[Any, Sequence[Parameter], float], object] = _torch_clip
    devices: tuple[str, ...] = ("cpu", "cuda")
    differences: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))  # by row: what it computes

    def build(self, rule: str, clips: bool) -> Build:
        def build(parameters: Sequence[Parameter], grad_norm: float) -> Step:
            module = importlib.import_module(self.module)
            step = self.make[rule](module, parameters).step

            def clip_and_step() -> None:
                self.clip(module, parameters, grad_norm)
                step()

            return clip_and_step if clips else step

        return build


def _apex_clip(module: Any, parameters: Sequence[Parameter], max_norm: float) -> None:
    importlib.import_module("apex.contrib.clip_grad").clip_grad_norm_(parameters, max_norm)


def _heavyball(library_optimizer: Any) -> Optimizer:
    optimizer: Optimizer = library_optimizer
    # It drops gradients as it reads them, and without one it takes no step.
    library_optimizer.consume_grad = False
    return optimizer


_WITHOUT_DECAY = {**SGD_ARGUMENTS, "weight_decay": 0.0}  # where the default is another

PEERS: tuple[Peer, ...] = (
    Peer(
        "apex",
        "apex.optimizers",
        {
            "sgd": lambda apex, parameters: apex.FusedSGD(parameters, **SGD_ARGUMENTS),
            "adamw": lambda apex, parameters: apex.FusedAdam(parameters, **ADAMW_ARGUMENTS, adam_w_mode=True),
        },
        clip=_apex_clip,
        devices=("cuda",),
    ),
    Peer(
        "optimi",  # whose betas and eps are others by default
        "optimi",
        {
            "sgd": lambda optimi, parameters: optimi.SGD(parameters, **SGD_ARGUMENTS),
            "adamw": lambda optimi, parameters: optimi.AdamW(parameters, **ADAMW_ARGUMENTS, eps=1e-8),
            "radam": lambda optimi, parameters: optimi.RAdam(parameters, lr=1e-3, betas=(0.9, 0.999), eps=1e-8),
        },
        differences={"radam": "its corrections of the bias are within the betas, which rounds otherwise"},
    ),
    Peer(
        "pytorch_opt",  # whose SGD and AdamW are torch's own, and whose RAdam leaves the first steps out
        "pytorch_optimizer",
        {"sgd": lambda library, parameters: library.SGDW(parameters, **_WITHOUT_DECAY)},
    ),
    Peer(
        "heavyball",
        "heavyball",
        {
            "sgd": lambda heavyball, parameters: _heavyball(
                heavyball.SGD(parameters, lr=SGD_ARGUMENTS["lr"], beta=SGD_ARGUMENTS["momentum"])
            ),
            "adamw": lambda heavyball, parameters: _heavyball(heavyball.AdamW(parameters, **ADAMW_ARGUMENTS)),
        },
        differences={"adamw": "its corrections of the bias are in float32"},
    ),
    Peer(
        "bnb_32bit",
        "bitsandbytes.optim",
        {
            "sgd": lambda bnb, parameters: bnb.SGD32bit(parameters, **SGD_ARGUMENTS),
            "adamw": lambda bnb, parameters: bnb.AdamW32bit(parameters, **ADAMW_ARGUMENTS),
        },
    ),
    Peer(
        "bnb_8bit",  # what most people have the library for
        "bitsandbytes.optim",
        {"adamw": lambda bnb, parameters: bnb.AdamW8bit(parameters, **ADAMW_ARGUMENTS)},
        differences={"adamw": "its state has 8 bits"},
    ),
    Peer(
        "deepspeed",  # which compiles its step when it is first asked for
        "deepspeed.ops.adam",
        {"adamw": lambda deepspeed, parameters: deepspeed.DeepSpeedCPUAdam(parameters, **ADAMW_ARGUMENTS)},
        devices=("cpu",),
    ),
    Peer(
        "timm",
        "timm.optim",
        {
            "sgd": lambda timm, parameters: timm.SGDW(parameters, **_WITHOUT_DECAY),
            "adamw": lambda timm, parameters: timm.AdamWLegacy(parameters, **ADAMW_ARGUMENTS),
        },
    ),
)


@torch.no_grad()
def missing_reason(peer: Peer, device: torch.device) -> str | None:
    """Why it cannot be measured here, from an import and one step of each rule; None where it can."""
    if device.type not in peer.devices:
        return f"it does not serve {device.type}"
    try:
        for rule in peer.make:
            parameter = Parameter(torch.ones(8, 8, device=device))
            parameter.grad = torch.ones_like(parameter)
            peer.build(rule, clips=True)([parameter], 1.0)()
            if not _moved(parameter):
                return f"its {rule} wrote nothing"
    except Exception as error:  # whatever a library raises where it does not fit the machine
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
    return None


def _moved(parameter: Tensor) -> bool:
    return bool((parameter != 1).any()) and bool(parameter.isfinite().all())


@cache
def peers_here(device: torch.device) -> tuple[tuple[Peer, ...], Mapping[str, str]]:
    """The peers that can be measured on the device, and why the others cannot."""
    reasons = {peer.name: missing_reason(peer, device) for peer in PEERS}
    here = tuple(peer for peer in PEERS if reasons[peer.name] is None)
    return here, {name: reason for name, reason in reasons.items() if reason is not None}


def with_peers(algorithm: Algorithm, peers: Sequence[Peer]) -> Algorithm:
    """The row with the peers that have its rule."""
    rule = algorithm.name.removeprefix("clip_")
    clips = rule != algorithm.name
    found = [peer for peer in peers if rule in peer.make]
    contenders = {peer.name: peer.build(rule, clips) for peer in found}
    different = {peer.name: peer.differences[rule] for peer in found if rule in peer.differences}
    return replace(
        algorithm,
        contenders=MappingProxyType({**algorithm.contenders, **contenders}),
        different=MappingProxyType({**algorithm.different, **different}),
    )
