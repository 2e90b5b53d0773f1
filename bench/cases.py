"""What is compared: each algorithm, its competitors, and the words it has to move.

Every `Build` takes the parameters and the L2 norm ‖G‖ of the unscaled gradient over those same parameters, and
returns the call to be timed. Thresholds are multiples of ‖G‖, so that the same build on a sample of the tensors
takes exactly the steps that those tensors take inside the whole set (bench/check.py relies on it).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch.nn import Parameter
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

import torchclip
from bench.authors import AuthorsGRDA, AuthorsMixClip
from bench.workload import GRADIENT_AMPLITUDE

Step = Callable[[], object]
Build = Callable[[Sequence[Parameter], float], Step]

OURS = "ours"
AUTHORS = "authors"

# Large enough that parameters travel far beyond rounding within a run, small enough that they stay of order one
# to a hundred. All but AdamW's are per unit of gradient.
SGD_ARGUMENTS: Mapping[str, Any] = MappingProxyType({"lr": 1e-3 / GRADIENT_AMPLITUDE, "momentum": 0.9})
ADAMW_ARGUMENTS: Mapping[str, Any] = MappingProxyType({"lr": 1e-3, "betas": (0.9, 0.999), "weight_decay": 1e-2})
MIXCLIP_ARGUMENTS: Mapping[str, Any] = MappingProxyType({"lr": 1e-2 / GRADIENT_AMPLITUDE, "momentum": 0.999, "nu": 0.7})
GRDA_ARGUMENTS: Mapping[str, Any] = MappingProxyType({"lr": 1e-2 / GRADIENT_AMPLITUDE, "c": 1000.0, "mu": 0.7})


@dataclass(frozen=True)
class Algorithm:
    """One row of the comparison, on any set of shapes."""

    name: str
    title: str
    words: int  # 4-byte words per parameter that a fused step cannot avoid moving
    state_words: int  # per parameter, for the memory estimate
    contenders: Mapping[str, Build]  # ours first
    reference: str  # the contender whose float64 run the others are checked against

    @property
    def bytes_per_element(self) -> int:
        return 4 * self.words


def _torch_form(optimizer: Callable[..., Optimizer], arguments: Mapping[str, Any], clips: bool, form: str) -> Build:
    """torch's own optimizer in one of its three forms, after torch's own clip_grad_norm_ if the row clips.

    On the CPU clip_grad_norm_ picks its foreach form by itself, the faster one; only the plain loop turns it off.
    """
    foreach, fused = {"loop": (False, False), "foreach": (True, False), "fused": (False, True)}[form]

    def build(parameters: Sequence[Parameter], grad_norm: float) -> Step:
        step = optimizer(parameters, **arguments, foreach=foreach, fused=fused).step

        def clip_and_step() -> None:
            clip_grad_norm_(parameters, grad_norm, foreach=form != "loop")
            step()

        return clip_and_step if clips else step

    return build


def _torch_contenders(
    ours: Callable[..., Optimizer], theirs: Callable[..., Optimizer], arguments: Mapping[str, Any], clips: bool
) -> Mapping[str, Build]:
    def build_ours(parameters: Sequence[Parameter], grad_norm: float) -> Step:
        return ours(parameters, **arguments, clip=grad_norm if clips else None).step

    forms = {form: _torch_form(theirs, arguments, clips, form) for form in ("loop", "foreach", "fused")}
    return MappingProxyType({OURS: build_ours} | forms)


def _sgd(name: str, title: str, words: int, clips: bool) -> Algorithm:
    contenders = _torch_contenders(torchclip.SGD, torch.optim.SGD, SGD_ARGUMENTS, clips)
    return Algorithm(name, title, words, state_words=1, contenders=contenders, reference="loop")


def _adamw(name: str, title: str, words: int, clips: bool) -> Algorithm:
    contenders = _torch_contenders(torchclip.AdamW, torch.optim.AdamW, ADAMW_ARGUMENTS, clips)
    return Algorithm(name, title, words, state_words=2, contenders=contenders, reference="loop")


def _mixclip() -> Algorithm:
    def ours(parameters: Sequence[Parameter], grad_norm: float) -> Step:
        return torchclip.MixClip(parameters, gamma=MIXCLIP_ARGUMENTS["lr"] * grad_norm, **MIXCLIP_ARGUMENTS).step

    def authors(parameters: Sequence[Parameter], grad_norm: float) -> Step:
        return AuthorsMixClip(parameters, gamma=MIXCLIP_ARGUMENTS["lr"] * grad_norm, **MIXCLIP_ARGUMENTS).step

    contenders = MappingProxyType({OURS: ours, AUTHORS: authors})
    return Algorithm("mixclip", "MixClip", 7, 1, contenders, reference=AUTHORS)


def _grda() -> Algorithm:
    def ours(parameters: Sequence[Parameter], grad_norm: float) -> Step:
        return torchclip.GRDA(parameters, **GRDA_ARGUMENTS).step

    def authors(parameters: Sequence[Parameter], grad_norm: float) -> Step:
        return AuthorsGRDA(parameters, **GRDA_ARGUMENTS).step

    return Algorithm("grda", "gRDA", 4, 1, MappingProxyType({OURS: ours, AUTHORS: authors}), reference=AUTHORS)


def _algorithms() -> Mapping[str, Algorithm]:
    # Words: parameter and state are read and written, the gradient is read, and once more where its norm comes first.
    # gRDA writes its parameter without reading it.
    rows = (
        _sgd("clip_sgd", "clip + SGD momentum", words=6, clips=True),
        _adamw("clip_adamw", "clip + AdamW", words=8, clips=True),
        _sgd("sgd", "SGD momentum", words=5, clips=False),
        _adamw("adamw", "AdamW", words=7, clips=False),
        _mixclip(),
        _grda(),
    )
    return MappingProxyType({row.name: row for row in rows})


ALGORITHMS: Mapping[str, Algorithm] = _algorithms()
