"""Which backends there are here, and in words why another is not."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from torchclip.backends import native
from torchclip.backends.flags import FUSED_BACKENDS, reference_flag
from torchclip.distributed.checks import Refusal, alone
from torchclip.state.reachable import stands_for_another, unreachable_reason
from torchclip.state.sharded import held_part, is_wrapper
from torchclip.state.steppable import can_step
from torchclip.state.tensor_checks import DTYPES, describe_parameter

Backend = Literal["cuda", "triton", "cpu", "reference"]

BACKENDS: tuple[Backend, ...] = get_args(Backend)
"""Every backend, in the order in which they are preferred."""

ON_DEVICE = ("cuda", "triton")
"""The backends that keep every number of state on the parameters' device, where it is read without waiting."""

Names = Callable[[int], str]
"""What an error calls a parameter, by its position among all."""


def _nameless(position: int) -> str:
    return "a parameter"


OLDEST_TRITON = (3, 6)
_BUILD = {
    "cpu": "`TORCHCLIP_BUILD=cpu pip install .`, which needs a C++ compiler",
    "cuda": "`TORCHCLIP_BUILD=cuda pip install .`, which needs CUDA's nvcc",
}


def unavailable_reason(backend: str) -> str | None:
    """Why ``backend`` cannot run here, with the remedy; None where it can.

    Raises:
        ValueError: when there is no backend of that name.
    """
    if backend not in BACKENDS:
        raise ValueError(
            f"unknown {backend=}; choose one of {', '.join(map(repr, BACKENDS))}, or None to let torchclip choose"
        )
    if backend == "triton":
        return _triton_reason()
    if backend in ("cuda", "cpu") and native.NATIVE is None:
        return f"{native.UNLOADED_REASON}; {_build_remedy(backend)}"
    if backend == "cuda":
        assert native.NATIVE is not None
        if native.NATIVE.cuda_device is None:
            return f"the compiled extension was built without its CUDA kernels; build it anew with {_BUILD['cuda']}"
        return native.NATIVE.cuda_reason() or None
    return None


def _build_remedy(backend: str) -> str:
    return f"build it with {_BUILD[backend]}"


def interprets_triton() -> bool:
    """Whether Triton's kernels are interpreted, on tensors on the CPU: for tests and for finding faults."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes")


def _triton_reason() -> str | None:
    if find_spec("triton") is None:
        return "Triton is not installed; `pip install triton`, on Linux"
    if not interprets_triton() and not torch.cuda.is_available():
        return (
            "torch finds no GPU here; with TRITON_INTERPRET=1 in the environment when Python starts, Triton interprets "
            "the kernels on the CPU, slowly"
        )
    if native.NATIVE is None:
        return f"the host's part of its steps is compiled, and {native.UNLOADED_REASON}; {_build_remedy('cpu')}"
    try:
        # The package goes by several names: torch for ROCm brings triton-rocm.
        found: str = import_module("triton").__version__
    except (ImportError, AttributeError) as error:
        return f"Triton cannot be imported ({error}); `pip install --force-reinstall triton`"
    if tuple(int(part) for part in found.split(".")[:2]) < OLDEST_TRITON:
        oldest = ".".join(map(str, OLDEST_TRITON))
        return f"Triton {found} is too old; `pip install 'triton>={oldest}'`"
    return None


def served_device(backend: str) -> str:
    """The type of the devices whose tensors a fused backend updates."""
    if backend == "triton":
        return "cpu" if interprets_triton() else "cuda"
    if backend == "cuda" and native.NATIVE is not None and native.NATIVE.cuda_device is not None:
        device: str = native.NATIVE.cuda_device
        return device
    return "cpu" if backend == "cpu" else "cuda"


def unserved_reason(backend: str, parameters: Sequence[Tensor], names: Names = _nameless) -> str | None:
    """Why ``backend``, which is available, cannot update these parameters; None where it can."""
    if backend == "reference":
        return None
    served = served_device(backend)
    for position, parameter in enumerate(map(held_part, parameters)):
        if parameter.device.type != served:
            return f"{names(position)} is on {parameter.device}, which the {backend} backend does not reach"
        if is_wrapper(parameter):
            kind = type(parameter).__name__
            return f"{names(position)} is a {kind}, whose elements the {backend} backend cannot reach"
        if stands_for_another(parameter):
            return f"{names(position)} {unreachable_reason(parameter)}"
        if parameter.dtype not in DTYPES:
            return f"{names(position)} is {parameter.dtype}, which the {backend} backend has no kernel for"
    devices = sorted({str(parameter.device) for parameter in parameters})
    if backend == "triton" and len(devices) > 1:
        return f"the parameters are on {' and '.join(devices)}, and the triton backend updates those of one device"
    return None


def _missing_reason(backend: str, parameters: Sequence[Tensor], names: Names, distributed: Refusal) -> str | None:
    """Why ``backend`` cannot update these parameters here; None where it can."""
    reason = unavailable_reason(backend) or unserved_reason(backend, parameters, names)
    return distributed(backend) if reason is None and backend in FUSED_BACKENDS else reason


def choose(
    requested: str | None, parameters: Sequence[Tensor], names: Names = _nameless, distributed: Refusal = alone
) -> str:
    """The backend that runs: the one asked for, or the first that serves all parameters.

    Args:
        requested: the one asked for.
        parameters: those that decide.
        names: what errors call them.
        distributed: why a fused backend does not take a step of these processes.

    Raises:
        ValueError: when there is no backend of that name.
        RuntimeError: when the one asked for cannot run, with the reason and the remedy.
    """
    if requested is not None:
        reason = _missing_reason(requested, parameters, names, distributed)
        if reason is not None:
            raise RuntimeError(f"backend={requested!r} is not available: {reason}")
        return requested
    return next(backend for backend in BACKENDS if _unpreferred_reason(backend, parameters, distributed) is None)


def holds_numbers(parameter: Tensor) -> bool:
    """Whether it is a dense tensor of a type that a step computes with."""
    held = held_part(parameter)
    is_dense = held.layout is torch.strided and not held.is_meta and not is_wrapper(held)
    return is_dense and held.dtype in DTYPES


def _deciding(param_groups: Sequence[Mapping[str, Any]]) -> list[tuple[int, int]]:
    """Group and index of the parameters that the choice goes by.

    Those that can step; where none can yet, those of a kind that a step could move; where there is no such, all.
    """
    places = [(number, index) for number, group in enumerate(param_groups) for index in range(len(group["params"]))]

    def those(holds: Callable[[Tensor], bool]) -> list[tuple[int, int]]:
        return [place for place in places if holds(param_groups[place[0]]["params"][place[1]])]

    return those(can_step) or those(holds_numbers) or places


def _tensors_at(param_groups: Sequence[Mapping[str, Any]], places: Sequence[tuple[int, int]]) -> list[Tensor]:
    return [param_groups[number]["params"][index] for number, index in places]


def _unpreferred_reason(backend: str, parameters: Sequence[Tensor], distributed: Refusal) -> str | None:
    """Why ``backend`` does not run where none is asked for; None where it serves the parameters."""
    if backend == "triton" and interprets_triton():
        return "it is interpreted here, and slower than all others: ask for it by name"
    # In this order: asking after GPUs starts CUDA, which an optimizer of CPU tensors must not.
    reason = unserved_reason(backend, parameters) or unavailable_reason(backend)
    return distributed(backend) if reason is None and backend in FUSED_BACKENDS else reason


def explain(requested: str | None, param_groups: Sequence[Mapping[str, Any]], distributed: Refusal = alone) -> str:
    """Why the backend runs that :func:`choose_for_groups` chose."""
    if requested is not None:
        return f"backend={requested!r} was asked for"
    flags = [flag for flag in map(reference_flag, param_groups) if flag is not None]
    if flags:
        return f"{flags[0]} chooses the reference path"
    return explain_choice(_tensors_at(param_groups, _deciding(param_groups)), distributed)


def explain_choice(parameters: Sequence[Tensor], distributed: Refusal = alone) -> str:
    """Why the backend runs that is chosen for these parameters where none is asked for."""
    reasons = []
    for backend in BACKENDS:
        reason = _unpreferred_reason(backend, parameters, distributed)
        if reason is None:
            break
        reasons.append(f"not {backend!r}: {reason}")
    return "; ".join(["the first that serves the parameters", *reasons])


def say_what_is_missing(requested: str | None, param_groups: Sequence[Mapping[str, Any]]) -> None:
    """Says on stderr, once in a process, why a step runs the reference path that nobody has asked for."""
    global _has_said
    if _has_said or native.NATIVE is not None or requested is not None:
        return
    if any(reference_flag(group) is not None for group in param_groups):
        return
    _has_said = True
    print(
        "torchclip: this step runs on the reference path, which took more than ten times as long as the compiled one "
        f"where the two were timed: {native.UNLOADED_REASON}; {_build_remedy('cpu')}",
        file=sys.stderr,
    )


_has_said = False


def choose_for_groups(
    requested: str | None, param_groups: Sequence[Mapping[str, Any]], distributed: Refusal = alone
) -> str:
    """The backend of an optimizer, whose groups may say ``fused``, ``differentiable`` or ``capturable``.

    A parameter that cannot step has no say: a frozen one may be of any kind. ``distributed`` is why a fused
    backend does not take a step of these processes.

    Raises:
        ValueError, RuntimeError: as :func:`choose`, and when ``fused=True`` cannot be had.
    """
    flags = [flag for flag in map(reference_flag, param_groups) if flag is not None]
    if flags:
        if any(group.get("capturable") for group in param_groups):
            raise RuntimeError(f"capturable=True contradicts {flags[0]}, which chooses the reference path; drop one")
        return "reference"
    places = _deciding(param_groups)
    parameters = _tensors_at(param_groups, places)

    def names(position: int) -> str:
        return describe_parameter(param_groups, *places[position])

    chosen = choose(requested, parameters, names, distributed)
    if chosen not in ON_DEVICE and any(group.get("capturable") for group in param_groups):
        reasons = "; ".join(
            f"{name}: {_missing_reason(name, parameters, names, distributed) or 'not asked for'}" for name in ON_DEVICE
        )
        raise RuntimeError(
            f"capturable=True demands a step that a CUDA graph can capture, and no backend that takes one can run here "
            f"({reasons}): leave capturable=False"
        )
    if chosen not in FUSED_BACKENDS and any(group.get("fused") for group in param_groups):
        reasons = "; ".join(
            f"{name}: {_missing_reason(name, parameters, names, distributed)}" for name in FUSED_BACKENDS
        )
        raise RuntimeError(f"fused=True demands a fused backend, and none can run here ({reasons})")
    return chosen
