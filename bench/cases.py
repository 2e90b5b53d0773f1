"""What is compared: each algorithm, its competitors, and the words it has to move."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch.nn import Parameter
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

import torchclip
from bench.algorithm import ADAMW_ARGUMENTS, AUTHORS, OURS, SGD_ARGUMENTS, Algorithm, Build, Step
from bench.authors import AuthorsGRDA, AuthorsMixClip
from bench.modifier_cases import modifier_algorithms
from bench.workload import GRADIENT_AMPLITUDE

MIXCLIP_ARGUMENTS: Mapping[str, Any] = MappingProxyType({"lr": 1e-2 / GRADIENT_AMPLITUDE, "momentum": 0.999, "nu": 0.7})
GRDA_ARGUMENTS: Mapping[str, Any] = MappingProxyType({"lr": 1e-2 / GRADIENT_AMPLITUDE, "c": 1000.0, "mu": 0.7})
ADAPTIVE_ARGUMENTS: Mapping[str, Any] = MappingProxyType({"lr": 1e-3})

# The arguments that choose one of torch's forms; not every class has a fused one, nor the argument for it.
FORMS: Mapping[str, Mapping[str, bool]] = MappingProxyType(
    {
        "loop": {"foreach": False, "fused": False},
        "foreach": {"foreach": True, "fused": False},
        "fused": {"foreach": False, "fused": True},
    }
)
_FORMS_WITHOUT_FUSED: Mapping[str, Mapping[str, bool]] = MappingProxyType(
    {"loop": {"foreach": False}, "foreach": {"foreach": True}}
)


def _torch_form(
    optimizer: Callable[..., Optimizer], arguments: Mapping[str, Any], clips: bool, form: str, flags: Mapping[str, bool]
) -> Build:
    """torch's own optimizer in one of its forms, after torch's own clip_grad_norm_ if the row clips.

    clip_grad_norm_ picks its foreach form by itself, the faster one; only the plain loop turns it off.
    """

    def build(parameters: Sequence[Parameter], grad_norm: float) -> Step:
        step = optimizer(parameters, **arguments, **flags).step

        def clip_and_step() -> None:
            clip_grad_norm_(parameters, grad_norm, foreach=form != "loop")
            step()

        return clip_and_step if clips else step

    return build


def torch_contenders(
    ours: Callable[..., Optimizer],
    theirs: Callable[..., Optimizer],
    arguments: Mapping[str, Any],
    clips: bool,
    forms: Mapping[str, Mapping[str, bool]] = FORMS,
) -> Mapping[str, Build]:
    """Ours and forms of torch's, with the same arguments and, if the row clips, the same threshold."""

    def build_ours(parameters: Sequence[Parameter], grad_norm: float) -> Step:
        return ours(parameters, **arguments, clip=grad_norm if clips else None).step

    torch_forms = {form: _torch_form(theirs, arguments, clips, form, flags) for form, flags in forms.items()}
    return MappingProxyType({OURS: build_ours} | torch_forms)


def _sgd(name: str, title: str, words: int, clips: bool) -> Algorithm:
    contenders = torch_contenders(torchclip.SGD, torch.optim.SGD, SGD_ARGUMENTS, clips)
    return Algorithm(name, title, words, state_words=1, contenders=contenders, reference="loop")


def _adamw(name: str, title: str, words: int, clips: bool) -> Algorithm:
    contenders = torch_contenders(torchclip.AdamW, torch.optim.AdamW, ADAMW_ARGUMENTS, clips)
    return Algorithm(name, title, words, state_words=2, contenders=contenders, reference="loop")


def _without_fused_form(title: str, words: int, state_words: int) -> Algorithm:
    """A class of torch's, called `title` there and here, that has no fused form."""
    ours, theirs = getattr(torchclip, title), getattr(torch.optim, title)
    contenders = torch_contenders(ours, theirs, ADAPTIVE_ARGUMENTS, clips=False, forms=_FORMS_WITHOUT_FUSED)
    return Algorithm(title.lower(), title, words, state_words, contenders, reference="loop")


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
        _without_fused_form("NAdam", words=7, state_words=2),
        _without_fused_form("RAdam", words=7, state_words=2),
        _without_fused_form("RMSprop", words=5, state_words=1),
        *modifier_algorithms(),
    )
    return MappingProxyType({row.name: row for row in rows})


ALGORITHMS: Mapping[str, Algorithm] = _algorithms()
