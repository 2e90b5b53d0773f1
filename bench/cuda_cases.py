"""What is compared on a CUDA device: torch's fused optimizers, and the papers' authors' loops.

torch's foreach and single-tensor forms are left out: its fused form is the faster one on CUDA, and beside ours two sets
of 1.5 billion parameters with their state are what an 80 GB device holds besides one more.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch.nn import Parameter
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

import torchclip
from bench.algorithm import ADAMW_ARGUMENTS, SGD_ARGUMENTS, Algorithm, Build, Step
from bench.cases import ALGORITHMS, FORMS, torch_contenders
from bench.triton_cases import TRITON_ALGORITHMS

FUSED = "fused"
SCALED = "scaled"


def _scaled(optimizer: Callable[..., Optimizer], arguments: Mapping[str, Any]) -> Build:
    """torch's fused step that clips by itself: it divides by `grad_scale`, which is there for a GradScaler.

    The fastest that torch can do without a kernel of one's own, though hardly anybody writes it: clip_grad_norm_ is
    spared its sweep over the gradients.
    """

    def build(parameters: Sequence[Parameter], grad_norm: float) -> Step:
        stepped: Any = optimizer(parameters, **arguments, **FORMS[FUSED])

        def scale_and_step() -> None:
            gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
            stepped.grad_scale = (get_total_norm(gradients, foreach=True) / grad_norm).clamp(min=1.0)
            stepped.step()

        return scale_and_step

    return build


def _beside_fused(
    name: str,
    ours: Callable[..., Optimizer],
    theirs: Callable[..., Optimizer],
    arguments: Mapping[str, Any],
    clips: bool,
) -> Algorithm:
    """The row of this name, beside what is worth comparing on CUDA."""
    row = ALGORITHMS[name]
    contenders = dict(torch_contenders(ours, theirs, arguments, clips, {FUSED: FORMS[FUSED]}))
    if clips:
        contenders[SCALED] = _scaled(theirs, arguments)
    return Algorithm(name, row.title, row.words, row.state_words, MappingProxyType(contenders), reference=FUSED)


def _cuda_algorithms() -> Mapping[str, Algorithm]:
    rows = (
        _beside_fused("clip_sgd", torchclip.SGD, torch.optim.SGD, SGD_ARGUMENTS, clips=True),
        _beside_fused("clip_adamw", torchclip.AdamW, torch.optim.AdamW, ADAMW_ARGUMENTS, clips=True),
        ALGORITHMS["mixclip"],
        ALGORITHMS["grda"],
        _beside_fused("sgd", torchclip.SGD, torch.optim.SGD, SGD_ARGUMENTS, clips=False),
        _beside_fused("adamw", torchclip.AdamW, torch.optim.AdamW, ADAMW_ARGUMENTS, clips=False),
    )
    return MappingProxyType({**{row.name: row for row in rows}, **TRITON_ALGORITHMS})


CUDA_ALGORITHMS: Mapping[str, Algorithm] = _cuda_algorithms()
