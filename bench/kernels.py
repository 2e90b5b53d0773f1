"""`python -m bench kernels`: the norm pass, and the update pass of each rule, type and extension.

On a few large tensors that no cache holds, so that a step is bound by the kernel and not by what is done for each.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn.utils import get_total_norm

import torchclip
from bench.algorithm import OURS, REFERENCE, TORCH, Algorithm, Build, Modifier, Rule, modifiers, ours, row_of, torchs
from bench.bandwidth import BandwidthProbe
from bench.check import Check
from bench.measure import Settings, Timed, clock_of, interleave
from bench.measurement import Measurement, Planned
from bench.options import option, positive
from bench.results import Found
from bench.row import Tensors, entry_of, measure_row, temporary_bytes
from bench.shapes import Shapes
from bench.workload import Workload, norm_of

NORM = "norm"
DTYPES: Mapping[str, torch.dtype] = {
    name: getattr(torch, name) for name in ("float32", "bfloat16", "float16", "float64")
}
AMPLITUDE = 1.0
"""Of the gradients: what float16 holds the products of."""

SHAPES: Mapping[str, Shapes] = {"cpu": ((1 << 20,),) * 8, "cuda": ((1 << 22,),) * 32}
MODIFIERS = modifiers(AMPLITUDE)


def _torchs(name: str, state: int, **arguments: Any) -> Rule:
    squares = name != "SGD"
    return Rule(name, getattr(torchclip, name), arguments, state, getattr(torch.optim, name), squares=squares)


def _clipping(name: str) -> Rule:
    def arguments(norm: float) -> Mapping[str, Any]:
        return {"lr": 0.3, "gamma": 0.3 * norm, "momentum": 0.9}

    return Rule(name, getattr(torchclip, name), arguments, 1, own_norm=True)


# Steps are long enough for bfloat16 parameters to travel by many roundings within the steps that are checked.
RULES: Mapping[str, Rule] = {
    "sgd": _torchs("SGD", 0, lr=0.1),
    "sgd_momentum": _torchs("SGD", 1, lr=1e-2, momentum=0.9),
    "adamw": _torchs("AdamW", 2, lr=0.1),
    "adamw_amsgrad": _torchs("AdamW", 3, lr=0.1, amsgrad=True),
    "nadam": _torchs("NAdam", 2, lr=0.1),
    "radam": _torchs("RAdam", 2, lr=0.1),
    "rmsprop": _torchs("RMSprop", 1, lr=0.1),
    "adagrad": _torchs("Adagrad", 1, lr=0.3),
    "normalized_sgd": Rule(
        "NormalizedSGD", torchclip.NormalizedSGD, lambda norm: {"lr": 0.1 * norm, "momentum": 0.9}, 1, own_norm=True
    ),
    "sgd_clip": _clipping("SGDClip"),
    "mom_clip": _clipping("MomClip"),
    "mix_clip": _clipping("MixClip"),
    "adaloss": Rule("AdaLoss", torchclip.AdaLoss, {"lr": 0.5, "b0": 1.0}, 0),
    "adagrad_norm": Rule(
        "AdaGradNorm", torchclip.AdaGradNorm, lambda norm: {"lr": 0.5 * norm, "b0": norm}, 0, own_norm=True
    ),
    "grda": Rule("gRDA", torchclip.GRDA, {"lr": 0.1, "c": 0.3, "mu": 0.7}, 1, accumulates=True),
}


def _can_be_made(build: Build, device: torch.device, *refusals: type[Exception]) -> bool:
    try:
        build([Parameter(torch.ones(2, device=device))], 1.0)
    except refusals:
        return False
    return True


def combine(rule: Rule, modifier: Modifier, dtype: torch.dtype) -> bool:
    """Whether the rule takes the addition, docs/matrix.md says why some do not, and the type its state."""
    return not (rule.squares and dtype is torch.float16) and _can_be_made(
        ours(rule, modifier), torch.device("cpu"), ValueError
    )


def kernel_algorithm(name: str, rule: Rule, modifier: Modifier, dtype: torch.dtype, device: torch.device) -> Algorithm:
    """Ours with this addition, beside torch's foreach and fused form and the reference path.

    torch has the forms without extensions. The reference path, whose draws take seconds for as many elements, is timed
    where there are none, and in float32, since it does the same in every type.
    """
    contenders = {OURS: ours(rule, modifier)}
    if not modifier.extension:
        if dtype is torch.float32:
            contenders[REFERENCE] = ours(rule, modifier, REFERENCE)
        if rule.namesake is not None:
            contenders["foreach"] = torchs(rule, modifier.clips, "foreach")
            # Not every class has a fused form, nor every device; the CPU's leaves tensors of 16 bits as they are.
            fused = torchs(rule, modifier.clips, "fused")
            if _can_be_made(fused, device, TypeError, RuntimeError) and not (
                device.type == "cpu" and dtype.itemsize == 2
            ):
                contenders["fused"] = fused
    full = name if modifier.name == "plain" else f"{name}+{modifier.name}"
    yardsticks = {OURS: ours(rule, modifier, REFERENCE)}
    alone = (rule.own_norm and modifier.draws) or dtype is torch.float64
    return row_of(
        full, f"{name}, {modifier.name}", rule, modifier, contenders, dtype, yardsticks=yardsticks, checked_alone=alone
    )


def measure_norm(dtype_name: str, probe: BandwidthProbe, settings: Settings, shapes: Shapes) -> Found:
    """The pass that reads every gradient once, beside torch's norms, which make one for each tensor first."""
    workload = Workload(shapes, probe.device, DTYPES[dtype_name], AMPLITUDE)
    found: dict[str, Tensor] = {}
    norms: Mapping[str, Callable[[Sequence[Tensor]], Tensor]] = {
        OURS: torchclip.get_total_norm,
        TORCH: partial(get_total_norm, foreach=True),
    }

    def prepare(index: int) -> None:
        workload.refill(index)
        probe.sweep()

    def keep(name: str) -> None:
        found[name] = norms[name](workload.gradients)

    entries = [Timed(name, prepare, partial(keep, name)) for name in norms]
    measured = interleave([*entries, *probe.entries()], settings, clock_of(probe.device))
    # Norms are no optimizer's contenders.
    algorithm = Algorithm(NORM, "norm pass", DTYPES[dtype_name].itemsize / 4, 0, dict.fromkeys(norms), reference=TORCH)
    # Of ours alone: torch's norm of 16-bit gradients is rounded to their type, and infinite above 65504 in float16.
    # Its sums of squares are added up in float64: what is left is a rounding of each partial sum and of the result.
    exact = norm_of(workload.gradients)
    tolerance = 4 * torch.finfo(torch.float32).eps * exact
    check = Check(measured.rounds, {OURS: abs(float(found[OURS]) - exact)}, {}, tolerance, travel=exact)
    counts = {entry.name: {"temporary_bytes": temporary_bytes(entry.run, probe.device)} for entry in entries}
    return entry_of((dtype_name, algorithm, shapes), probe, measured, {OURS: check}, counts)


@dataclass(kw_only=True)
class Kernels(Measurement):
    """the norm pass, and the update pass of each rule, type and extension"""

    name: ClassVar[str] = "kernels"
    limits: ClassVar[Mapping[str, Any]] = {"min_rounds": 10, "max_rounds": 200, "cold": True}
    seconds: float = option(0.3, "time for one row, of ten rounds at least", positive(float))
    rules: Sequence[str] = option((NORM, *RULES), "what is measured", choices=(NORM, *RULES))
    modifiers: Sequence[str] = option(tuple(MODIFIERS), "what is added to a rule", choices=tuple(MODIFIERS))
    dtypes: Sequence[str] = option((), "types (default: float32 bfloat16, on cuda all)", choices=tuple(DTYPES))

    def more_settings(self) -> Mapping[str, Any]:
        return {"shapes": SHAPES[self.device]}

    def plan(self, probe: BandwidthProbe) -> Iterable[Planned]:
        settings, shapes = self.settings(), SHAPES[self.device]
        for dtype_name in self.dtypes or (DTYPES if self.device == "cuda" else ("float32", "bfloat16")):
            dtype = DTYPES[dtype_name]
            if NORM in self.rules:
                norm = partial(measure_norm, dtype_name, probe, settings, shapes)
                yield Planned((dtype_name, NORM), norm)
            for name, rule in RULES.items():
                for modifier in MODIFIERS.values():
                    chosen = name in self.rules and modifier.name in self.modifiers
                    if chosen and combine(rule, modifier, dtype):
                        algorithm = kernel_algorithm(name, rule, modifier, dtype, probe.device)
                        tensors = Tensors(shapes, dtype, AMPLITUDE)
                        update = partial(measure_row, dtype_name, algorithm, probe, settings, tensors)
                        yield Planned((dtype_name, algorithm.name), update)
