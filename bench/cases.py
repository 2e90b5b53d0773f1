"""The rows of `python -m bench step`: what is compared with what, on the CPU and on a CUDA device.

Where torch has no form of a feature the contender is ours as well: the same step without it, so that the ratio is what
it costs. On CUDA torch's foreach form and loop are left out: its fused form is the faster one there, and beside ours
two sets of 1.5 billion parameters with their state are what an 80 GB device holds besides one more.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.nn import Parameter
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import torchclip
from bench.algorithm import (
    AUTHORS,
    FORMS,
    OURS,
    PLAIN,
    POLICIES,
    PREFERRED,
    REFERENCE,
    Algorithm,
    Build,
    Modifier,
    Rule,
    Step,
    modifiers,
    ours,
    row_of,
    torchs,
)
from bench.authors import AuthorsGRDA, AuthorsMixClip
from bench.workload import GRADIENT_AMPLITUDE

SCALED = "scaled"
AVERAGED = "averaged"  # torch's fused step behind clip_grad_norm_, and its AveragedModel

# Large enough that parameters travel far beyond rounding within a run, small enough that they stay of order one
# to a hundred. All but the adaptive rules' are per unit of gradient.
_PER_UNIT = 1 / GRADIENT_AMPLITUDE
_ADAPTIVE = {"lr": 1e-3}
SGD_ARGUMENTS: Mapping[str, Any] = {"lr": 1e-3 * _PER_UNIT, "momentum": 0.9}
ADAMW_ARGUMENTS: Mapping[str, Any] = {"lr": 1e-3, "betas": (0.9, 0.999), "weight_decay": 1e-2}
_GRDA_ARGUMENTS = {"lr": 1e-2 * _PER_UNIT, "c": 1000.0, "mu": 0.7}


def _mixclip(norm: float) -> Mapping[str, Any]:
    return {"lr": 1e-2 * _PER_UNIT, "gamma": 1e-2 * _PER_UNIT * norm, "momentum": 0.999, "nu": 0.7}


def _adagrad_norm(norm: float) -> Mapping[str, Any]:
    # Both per unit of the norm, which cancels in lr g / sqrt(s). b takes another root of the number of steps.
    return {"lr": 1e-1 * _PER_UNIT * norm, "b0": norm}


RULES: dict[str, Rule] = {
    "sgd": Rule("SGD momentum", torchclip.SGD, SGD_ARGUMENTS, 1, torch.optim.SGD),
    "adamw": Rule("AdamW", torchclip.AdamW, ADAMW_ARGUMENTS, 2, torch.optim.AdamW),
    "mixclip": Rule("MixClip", torchclip.MixClip, _mixclip, 1, own_norm=True),
    "grda": Rule("gRDA", torchclip.GRDA, _GRDA_ARGUMENTS, 1, accumulates=True),
    "nadam": Rule("NAdam", torchclip.NAdam, _ADAPTIVE, 2, torch.optim.NAdam),
    "radam": Rule("RAdam", torchclip.RAdam, _ADAPTIVE, 2, torch.optim.RAdam),
    "rmsprop": Rule("RMSprop", torchclip.RMSprop, _ADAPTIVE, 1, torch.optim.RMSprop),
    "adaloss": Rule("AdaLoss", torchclip.AdaLoss, {"lr": 1e-1 * _PER_UNIT, "b0": 1.0}, 0),
    "adagrad_norm": Rule("AdaGradNorm", torchclip.AdaGradNorm, _adagrad_norm, 0, own_norm=True),
}
_AUTHORS: Mapping[str, Callable[..., Optimizer]] = {"mixclip": AuthorsMixClip, "grda": AuthorsGRDA}
_WITHOUT_MOMENTUM = Rule("SGD", torchclip.SGD, {"lr": 1e-2 * _PER_UNIT}, 0)
MODIFIERS = modifiers(GRADIENT_AMPLITUDE)
_NONE, _CLIP = MODIFIERS["plain"], MODIFIERS["clip"]
BOUND_BY_MEMORY = ("clip_sgd", "clip_adamw", "sgd", "adamw", "mixclip", "grda")


def rule_and_clip(name: str) -> tuple[str, bool]:
    """The rule of a row such as `clip_sgd`, and whether it clips."""
    return name.removeprefix("clip_"), name.startswith("clip_")


def _averaged(parameters: Sequence[Parameter], norm: float) -> Step:
    """torch's clip_grad_norm_, its fused AdamW, and the average of its AveragedModel in the foreach form."""
    model = torch.nn.Module()
    model.weights = torch.nn.ParameterList(parameters)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.999))
    average.update_parameters(model)  # the first copies
    step = torchs(RULES["adamw"], True, "fused")(parameters, norm)

    def step_and_average() -> None:
        step()
        average.update_parameters(model)

    return step_and_average


def _scaled(rule: Rule) -> Build:
    """torch's fused step that clips by itself: it divides by `grad_scale`, which is there for a GradScaler.

    The fastest that torch can do without a kernel of one's own, though hardly anybody writes it: clip_grad_norm_ is
    spared its sweep over the gradients.
    """

    def build(parameters: Sequence[Parameter], norm: float) -> Step:
        assert rule.namesake is not None
        stepped: Any = rule.namesake(parameters, **rule.of(norm), **FORMS["fused"])

        def scale_and_step() -> None:
            gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
            stepped.grad_scale = (get_total_norm(gradients, foreach=True) / norm).clamp(min=1.0)
            stepped.step()

        return scale_and_step

    return build


def _beside_others(name: str, *forms: str) -> Algorithm:
    """A row of torch's rules beside its forms, or of the papers' beside the authors' loops."""
    bare, clips = rule_and_clip(name)
    rule, modifier = RULES[bare], _CLIP if clips else _NONE
    contenders = {OURS: ours(rule, modifier)}
    for form in forms:
        contenders[form] = torchs(rule, clips, form) if form in FORMS else _scaled(rule)
    if not forms:
        contenders[AUTHORS] = lambda parameters, norm: _AUTHORS[name](parameters, **rule.of(norm)).step
    title = f"clip + {rule.title}" if clips else rule.title
    return row_of(name, title, rule, modifier, contenders, reference=forms[0] if forms else AUTHORS)


def _beside_plain(name: str, title: str, rule: Rule, added: Modifier, plain: Rule, clip: Modifier = _NONE) -> Algorithm:
    contenders = {OURS: ours(rule, added), PLAIN: ours(plain, clip)}
    yardsticks = {OURS: ours(rule, added, REFERENCE), PLAIN: ours(plain, clip, REFERENCE)}
    return row_of(name, title, rule, added, contenders, yardsticks=yardsticks)


def _cpu_rows() -> Iterator[Algorithm]:
    for name in BOUND_BY_MEMORY:
        yield _beside_others(name, *(FORMS if rule_and_clip(name)[0] in ("sgd", "adamw") else ()))
    for name in ("nadam", "radam", "rmsprop"):
        yield _beside_others(name, "loop", "foreach")
    yield _beside_plain("adaloss", "AdaLoss", RULES["adaloss"], _NONE, _WITHOUT_MOMENTUM)
    yield _beside_plain("adagrad_norm", "AdaGradNorm", RULES["adagrad_norm"], _NONE, _WITHOUT_MOMENTUM, _CLIP)
    for rule, of in (("sgd", "SGD"), ("adamw", "AdamW")):
        for name, added in MODIFIERS.items():
            if added.extension is not None:
                yield _beside_plain(
                    f"{rule}_{name}", f"{of} + {name.replace('_', ' ')}", RULES[rule], added, RULES[rule]
                )

    for name, title in (("ada_gc", "AdaGC"), ("skip_spikes", "clip + SkipSpikes"), ("polyak", "PolyakStep")):
        added = POLICIES[name]
        yield _beside_plain(f"adamw_{name}", f"{title} + AdamW", RULES["adamw"], added, RULES["adamw"], _CLIP)
    contenders = {OURS: ours(RULES["adamw"], POLICIES["clip_ema"]), AVERAGED: _averaged}
    yield row_of(
        "clip_adamw_ema", "clip + AdamW + EMA", RULES["adamw"], POLICIES["clip_ema"], contenders, reference=AVERAGED
    )


def _cuda_rows() -> Iterator[Algorithm]:
    for name in ("clip_sgd", "clip_adamw"):
        yield _beside_others(name, "fused", SCALED)
    for name in ("mixclip", "grda"):
        yield _beside_others(name)
    for name in ("sgd", "adamw"):
        yield _beside_others(name, "fused")
    for name in BOUND_BY_MEMORY:  # where the Triton backend should keep up with the CUDA one
        row, (bare, clips) = ALGORITHMS[name], rule_and_clip(name)
        rule, modifier = RULES[bare], _CLIP if clips else _NONE
        contenders = {OURS: ours(rule, modifier, "triton"), PREFERRED: ours(rule, modifier)}
        title = f"{row.title}, Triton"
        yield replace(row, name=f"{name}_triton", title=title, contenders=contenders, reference=PREFERRED)


ALGORITHMS: Mapping[str, Algorithm] = {row.name: row for row in _cpu_rows()}
CUDA_ALGORITHMS: Mapping[str, Algorithm] = {row.name: row for row in _cuda_rows()}
