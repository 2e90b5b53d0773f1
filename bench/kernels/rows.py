"""Rows of `python -m bench kernels`, on tensors that no cache holds."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch.nn import Parameter
from torch.nn.utils import clip_grad_norm_, get_total_norm

import torchclip
from bench.algorithm import OURS, Algorithm, Build, Step
from bench.bandwidth import WORDS, BandwidthProbe
from bench.check import Check
from bench.clock import clock_of
from bench.kernels.rules import AMPLITUDE, KernelRule, Modifier, bytes_per_element
from bench.measure import Settings, Timed, interleave
from bench.memory import temporary_bytes
from bench.shapes import Shapes, element_count
from bench.step import Row
from bench.workload import Workload

REFERENCE = "reference"
TORCH = "torch"
NORM = "norm"
DTYPES: Mapping[str, torch.dtype] = MappingProxyType(
    {name: getattr(torch, name) for name in ("float32", "bfloat16", "float16", "float64")}
)

_CPU_SHAPES: Shapes = ((1 << 20,),) * 8
_CUDA_SHAPES: Shapes = ((1 << 22,),) * 32


def kernel_shapes(device: torch.device) -> Shapes:
    """A few large tensors, so that a step is bound by the kernel and not by what is done for each tensor."""
    return _CUDA_SHAPES if device.type == "cuda" else _CPU_SHAPES


def _ours(rule: KernelRule, modifier: Modifier, backend: str | None) -> Build:
    def build(parameters: Sequence[Parameter], grad_norm: float) -> Step:
        return rule.make(parameters, grad_norm, modifier, backend)

    return build


def _torch(rule: KernelRule, modifier: Modifier, form: Mapping[str, bool]) -> Build:
    def build(parameters: Sequence[Parameter], grad_norm: float) -> Step:
        assert rule.namesake is not None
        step = rule.namesake(parameters, **rule.arguments(grad_norm), **form).step

        def clip_and_step() -> None:
            clip_grad_norm_(parameters, grad_norm, foreach=True)
            step()

        return clip_and_step if modifier.clips else step

    return build


def _has_fused(rule: KernelRule, device: torch.device) -> bool:
    """Whether torch has a fused form of the rule there: not every class has the argument, nor every device the form."""
    assert rule.namesake is not None
    try:
        rule.namesake([Parameter(torch.ones(1, device=device))], **rule.arguments(1.0), fused=True)
    except (TypeError, RuntimeError):
        return False
    return True


def kernel_algorithm(rule: KernelRule, modifier: Modifier, dtype: torch.dtype, device: torch.device) -> Algorithm:
    """Ours with this addition, beside torch's foreach and fused form and the reference path.

    torch has the forms without extensions. The reference path, whose draws take seconds for as many elements, is timed
    where there are none, and in float32, since it does the same in every type.
    """
    contenders: dict[str, Build] = {OURS: _ours(rule, modifier, None)}
    if not modifier.extensions:
        if dtype is torch.float32:
            contenders[REFERENCE] = _ours(rule, modifier, REFERENCE)
        if rule.namesake is not None:
            contenders["foreach"] = _torch(rule, modifier, {"foreach": True})
            # On the CPU it leaves tensors of 16 bits as they are.
            if _has_fused(rule, device) and not (device.type == "cpu" and dtype.itemsize == 2):
                contenders["fused"] = _torch(rule, modifier, {"fused": True})
    moved = bytes_per_element(rule, modifier, dtype)
    return Algorithm(
        name=f"{rule.name}+{modifier.name}" if modifier.name != "plain" else rule.name,
        title=f"{rule.name}, {modifier.name}",
        words=moved / 4,
        state_words=3,
        contenders=MappingProxyType(contenders),
        yardsticks=MappingProxyType({OURS: _ours(rule, modifier, REFERENCE)}),
        checked_alone=(rule.own_norm and modifier.draws) or dtype is torch.float64,
        cycle=modifier.cycle,
    )


class _Norms:
    """Keeps the last norm that each contender found."""

    def __init__(self, gradients: Sequence[torch.Tensor]) -> None:
        self._gradients = gradients
        self.found: dict[str, torch.Tensor] = {}

    def measure(self, name: str, norm: Callable[[Sequence[torch.Tensor]], torch.Tensor]) -> None:
        self.found[name] = norm(self._gradients)


def measure_norm(
    dtype_name: str, probe: BandwidthProbe, settings: Settings, on_round: Callable[[float], None], shapes: Shapes
) -> Row:
    """The pass that reads every gradient once, beside torch's norms, which make one for each tensor first."""
    workload = Workload.create(shapes, probe.device, DTYPES[dtype_name], AMPLITUDE)
    norms = _Norms(workload.gradients)
    functions: Mapping[str, Any] = {OURS: torchclip.get_total_norm, TORCH: partial(get_total_norm, foreach=True)}

    def prepare(index: int) -> None:
        workload.refill(index)
        probe.sweep()

    entries = [Timed(name, prepare, partial(norms.measure, name, function)) for name, function in functions.items()]
    measured = interleave([*entries, *probe.entries()], settings, on_round, clock_of(probe.device))
    unused: Build = lambda parameters, norm: lambda: None  # noqa: E731  # norms are no optimizer's contenders
    algorithm = Algorithm(
        NORM, "norm pass", DTYPES[dtype_name].itemsize / 4, 0, dict.fromkeys(functions, unused), reference=TORCH
    )
    return Row(
        set_name=dtype_name,
        algorithm=algorithm,
        tensors=len(shapes),
        elements=element_count(shapes),
        measured=measured,
        queued={},
        probe_bytes={name: probe.bytes_moved(name) for name in WORDS},
        in_cache=False,
        checks={OURS: _check_norms(workload, norms, measured.rounds)},
        launches={},
        warm_host={},
        temporary_bytes={entry.name: temporary_bytes(entry.run, probe.device) for entry in entries},
    )


def _check_norms(workload: Workload, norms: _Norms, rounds: int) -> Check:
    """Of ours alone: torch's norm of 16-bit gradients is rounded to their type, and infinite above 65504 in float16."""
    parts = [torch.linalg.vector_norm(each, dtype=torch.float64) for each in workload.gradients]
    exact = math.sqrt(math.fsum(float(part) ** 2 for part in parts))
    errors = {OURS: abs(float(norms.found[OURS]) - exact)}
    # Sums of squares are added up in float64: what is left is a rounding of each partial sum and of the result.
    tolerance = 4 * torch.finfo(torch.float32).eps * exact
    return Check(rounds, errors, {}, tolerance, travel=exact)
