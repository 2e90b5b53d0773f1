"""What csrc/bindings.cpp exports. Sizes in brackets are those of lists and tensors."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict, type_check_only

import torch
from torch import Tensor

from torchclip.distributed.cells import Cells
from torchclip.state.group_values import Key

build: str  # by which compilers
cuda_device: str | None  # the type of the devices that CudaPlan serves; None without CUDA kernels

@type_check_only
class Algorithm(TypedDict):
    hyperparameters: int  # without lr; two for betas
    scalars: int
    coefficients: int
    takes_complex: bool  # complex parameters, as their real views

def algorithms() -> dict[str, Algorithm]: ...
def coefficients(
    name: str,
    hyperparameters: Sequence[float],  # [1 + hyperparameters], lr first
    scalars: Sequence[float],  # [scalars], before the step
    first: bool,
    /,
) -> list[float]: ...  # [coefficients], for a norm of 0
def philox4x32(seed: int, c0: int, c1: int, c2: int, c3: int, /) -> list[int]: ...  # [4], each below 2**32
def serves_gradients(gradients: Sequence[Tensor], /) -> bool: ...  # whether the next two do
def total_norm(gradients: Sequence[Tensor], order: float, /) -> float: ...  # order above 0, infinity included
def scale_gradients(gradients: Sequence[Tensor], factor: float, /) -> None: ...  # in place

# What reads tensors from now on: torchclip._torch.reader, or None to ask by DLPack, which the first use chooses where
# nobody has; once for the life of the process.
def use_reader(table: object, /) -> None: ...
def reader() -> str: ...  # "torch" or "dlpack"

@type_check_only
class AnyPlan:
    # Positions of parameters that cannot step as they are.
    def refresh(self, param_groups: Sequence[dict[str, Any]], state: dict[Tensor, Any], /) -> list[int]: ...
    def mark_fresh(self, positions: Sequence[int], /) -> None: ...  # in the last refresh
    # Parameters with whose state no step has been taken, and their slots by name.
    def unstarted(self) -> list[tuple[Tensor, dict[str, Tensor]]]: ...
    # By the names of csrc/step/modifier_fields.h; groups: [param groups], (unit, limit, smooth, nonfinite) of its
    # GroupClip, or empty where no group has a policy of its own.
    def configure(
        self, numbers: Mapping[str, float], groups: Sequence[tuple[int, float, bool, int]] = ..., /
    ) -> None: ...
    # What is asked of other processes, with None for nothing; see torchclip.distributed.cells. loss_share: what part of
    # this process's loss counts, 0 where others are not asked for theirs. places: [parameters], the number of each in
    # draws, and torchclip.distributed.places.Place. zeros: of torchclip.distributed.cells.ZeroCells.
    def share(
        self,
        add: Callable[[Any], None] | None,  # called with the numbers: a buffer, or a tensor on the device
        policy: Cells,
        rule: Cells,
        loss_share: float,
        places: Sequence[tuple[int, int, int, int]],
        zeros: tuple[Sequence[int], Sequence[float], Sequence[int]],
        /,
    ) -> None: ...
    # What a precision policy holds, and how: see torchclip.backends.held.Held.
    def hold(
        self,
        parameter: int,
        slots: Sequence[int],
        min_elements: int,
        embedding_rows: int,
        beside: str,
        absmax: Sequence[str],
        /,
    ) -> None: ...
    # [parameters], whether the state of each stays wide under a policy of blocks; empty where the shapes here tell.
    def keep_wide(self, wide: Sequence[bool], /) -> None: ...
    @property
    def steps(self) -> int: ...  # those that have written parameters and state

class Plan(AnyPlan):
    def __init__(
        self,
        rule: str,
        keys: Sequence[Key],  # the pipeline's four, the rule's own, and those that are only checked
        slots: Sequence[str],  # without Lookahead's
        scalars: Sequence[str],
        scope: int,  # a position in torchclip.backends.codes.SCOPES
        /,
    ) -> None: ...
    # Which the next step takes in place of its own; None for that.
    def set_norm(self, norm: Tensor | float | None, /) -> None: ...
    def step(
        self,
        param_groups: Sequence[dict[str, Any]],
        state: dict[Tensor, Any],
        grad_scale: Tensor | float | None,  # one number, as the next two
        found_inf: Tensor | float | None,
        loss: Tensor | float | None,
        /,
    ) -> int: ...  # STEPPED, SKIPPED, NON_FINITE or UNREADY of torchclip.backends.codes
    # One number, or [groups] or [parameters] by the scope of the norm.
    def report(self) -> dict[str, float | list[float]]: ...
    @property
    def skipped(self) -> None: ...  # steps say it themselves
    @property
    def zeros(self) -> list[int]: ...  # [parameters], -1 where they are not known

@type_check_only
class GpuPlan(AnyPlan):
    def step(
        self,
        param_groups: Sequence[dict[str, Any]],
        state: dict[Tensor, Any],
        grad_scale: Tensor | None,
        found_inf: Tensor | None,
        loss: Tensor | None,
        /,
    ) -> int: ...
    def report(self) -> dict[str, Tensor]: ...  # on the device, of shape [], [groups] or [parameters]
    @property
    def skipped(self) -> Tensor | None: ...  # [], not 0 where the last step was left out; None where nothing decided so
    @property
    def zeros(self) -> Tensor | None: ...  # [], those of all parameters together

class TritonPlan(GpuPlan):
    def __init__(
        self,
        rule: str,
        keys: Sequence[Key],
        slots: Sequence[str],
        scalars: Sequence[str],
        scope: int,
        device: str,  # on whose type everything lies
        make_launcher: Callable[[torch.device], Any],  # torchclip.backends.triton.launcher.Launcher, but for the rule
        /,
    ) -> None: ...

# Offset and size in bytes of the fields of the structs that kernels read, by the names of kernels/tables.py.
def table_layout() -> dict[str, tuple[int, int]]: ...

# The following three are there where CUDA kernels were built.

class CudaPlan(GpuPlan):
    def __init__(
        self,
        rule: str,
        keys: Sequence[Key],
        slots: Sequence[str],
        scalars: Sequence[str],
        scope: int,
        /,
    ) -> None: ...

def cuda_reason() -> str: ...  # why no device can be used; "" where one can
def cuda_versions() -> tuple[int, int]: ...  # of the driver and of the runtime, 1000 * major + 10 * minor
