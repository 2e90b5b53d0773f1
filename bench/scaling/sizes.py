"""The sets of `python -m bench scaling`."""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import torch

from bench.algorithm import Algorithm
from bench.cases import ALGORITHMS
from bench.cuda_cases import CUDA_ALGORITHMS
from bench.shapes import Shapes, element_count

PARAMETERS, TENSORS = "parameters", "tensors"

_TENSORS = 10  # enough to be a model, few enough for a thousand parameters
_LARGEST = 10**6  # parameters of a tensor: whole tensors are what results are checked on
_SIZE = 64  # elements: next to nothing to do for each
_EXPONENTS = range(3, 9)
_CUDA_EXPONENTS = range(3, 10)
_COUNTS = (1, 10, 100, 1000, 10_000)
_NAMES = ("clip_sgd", "clip_adamw")


def scaling_sets(device: torch.device) -> Mapping[str, Shapes]:
    """By name: so many parameters in ten tensors or in more of a million, and so many tensors of a few parameters."""
    exponents = _CUDA_EXPONENTS if device.type == "cuda" else _EXPONENTS
    sizes = {e: min(10**e // _TENSORS, _LARGEST) for e in exponents}
    sets = {f"{PARAMETERS}-1e{e}": ((size,),) * (10**e // size) for e, size in sizes.items()}
    return MappingProxyType({**sets, **{f"{TENSORS}-{count}": ((_SIZE,),) * count for count in _COUNTS}})


def scaling_algorithms(device: torch.device) -> tuple[Algorithm, ...]:
    """Clipping rows beside the forms of torch's that are fast; its loop takes a second for ten thousand tensors."""
    if device.type == "cuda":
        return tuple(CUDA_ALGORITHMS[name] for name in _NAMES)
    rows = []
    for name in _NAMES:
        row = ALGORITHMS[name]
        contenders = {form: build for form, build in row.contenders.items() if form != "loop"}
        rows.append(replace(row, contenders=MappingProxyType(contenders), reference="foreach"))
    return tuple(rows)


def needed_bytes(algorithm: Algorithm, shapes: Shapes) -> int:
    """Memory of a row at its peak: gradients, their source, what each contender has, and foreach's temporaries."""
    words = 4 + len(algorithm.contenders) * (1 + algorithm.state_words)
    return 4 * words * element_count(shapes)
