"""The Triton backend beside the CUDA one, on the rows that are bound by memory."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

from torch.nn import Parameter
from torch.optim import Optimizer

import torchclip
from bench.algorithm import ADAMW_ARGUMENTS, OURS, SGD_ARGUMENTS, Algorithm, Step
from bench.cases import ALGORITHMS, GRDA_ARGUMENTS, MIXCLIP_ARGUMENTS

PREFERRED = "preferred"
"""What runs where no backend is asked for: on a GPU the CUDA kernels."""

Arguments = Callable[[float], Mapping[str, Any]]


def _build(
    optimizer: Callable[..., Optimizer],
    arguments: Arguments,
    backend: str | None,
    parameters: Sequence[Parameter],
    grad_norm: float,
) -> Step:
    return optimizer(parameters, **arguments(grad_norm), backend=backend).step


def _row(name: str, optimizer: Callable[..., Optimizer], arguments: Arguments) -> Algorithm:
    row = ALGORITHMS[name]
    contenders = {
        OURS: partial(_build, optimizer, arguments, "triton"),
        PREFERRED: partial(_build, optimizer, arguments, None),
    }
    title = f"{row.title}, Triton"
    return Algorithm(
        f"{name}_triton", title, row.words, row.state_words, MappingProxyType(contenders), reference=PREFERRED
    )


def _triton_algorithms() -> Mapping[str, Algorithm]:
    rows = (
        _row("clip_sgd", torchclip.SGD, lambda norm: {**SGD_ARGUMENTS, "clip": norm}),
        _row("clip_adamw", torchclip.AdamW, lambda norm: {**ADAMW_ARGUMENTS, "clip": norm}),
        _row("sgd", torchclip.SGD, lambda norm: SGD_ARGUMENTS),
        _row("adamw", torchclip.AdamW, lambda norm: ADAMW_ARGUMENTS),
        _row(
            "mixclip",
            torchclip.MixClip,
            lambda norm: {**MIXCLIP_ARGUMENTS, "gamma": MIXCLIP_ARGUMENTS["lr"] * norm},
        ),
        _row("grda", torchclip.GRDA, lambda norm: GRDA_ARGUMENTS),
    )
    return MappingProxyType({row.name: row for row in rows})


TRITON_ALGORITHMS: Mapping[str, Algorithm] = _triton_algorithms()
