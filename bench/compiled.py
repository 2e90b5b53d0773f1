"""torch.compile of torch's foreach step, clipping included: one compiled function, as torch's documentation has it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch
from torch.nn import Parameter
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from bench.algorithm import ADAMW_ARGUMENTS, SGD_ARGUMENTS, Algorithm, Build, Step
from bench.cases import ADAPTIVE_ARGUMENTS

COMPILED = "compiled"

# For the CPU a loop is written and compiled for every tensor: 20 take a quarter of a minute.
_MOST_TENSORS_ON_CPU = 64

_RULES: Mapping[str, tuple[Callable[..., Optimizer], Mapping[str, Any]]] = MappingProxyType(
    {
        "sgd": (torch.optim.SGD, SGD_ARGUMENTS),
        "adamw": (torch.optim.AdamW, ADAMW_ARGUMENTS),
        "nadam": (torch.optim.NAdam, ADAPTIVE_ARGUMENTS),
        "radam": (torch.optim.RAdam, ADAPTIVE_ARGUMENTS),
        "rmsprop": (torch.optim.RMSprop, ADAPTIVE_ARGUMENTS),
    }
)

# The host has float64 for what depends on the step alone, and in a few steps the results part by more than rounding.
_IN_FLOAT32 = "what depends on the step alone, in float32 on the device"


def _compiled(optimizer: Callable[..., Optimizer], arguments: Mapping[str, Any], clips: bool) -> Build:
    def build(parameters: Sequence[Parameter], grad_norm: float) -> Step:
        # The limit of recompilations is counted by line of code, which all rows share.
        torch.compiler.reset()
        step = optimizer(parameters, **arguments, foreach=True).step

        def clip_and_step() -> None:
            if clips:
                clip_grad_norm_(parameters, grad_norm, foreach=True)
            step()

        # At the limit torch would go on without compiling, and say so in a log only. Not around each call, which would
        # add a hundred microseconds to the host's time of this form alone.
        torch._dynamo.config.fail_on_recompile_limit_hit = True
        compiled: Step = torch.compile(clip_and_step)
        return compiled

    return build


def with_compiled(algorithm: Algorithm, tensors: int, device: torch.device) -> Algorithm:
    """The row with its compiled form, where there is one that compiles in reasonable time."""
    rule = algorithm.name.removeprefix("clip_")
    if rule not in _RULES or (device.type == "cpu" and tensors > _MOST_TENSORS_ON_CPU):
        return algorithm
    build = _compiled(*_RULES[rule], clips=rule != algorithm.name)
    different = {COMPILED: _IN_FLOAT32} if rule in ("nadam", "radam") else {}
    return replace(
        algorithm,
        contenders=MappingProxyType({**algorithm.contenders, COMPILED: build}),
        different=MappingProxyType({**algorithm.different, **different}),
    )
