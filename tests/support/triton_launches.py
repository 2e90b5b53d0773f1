"""Which variants of Triton's kernels the cases of ``records.py`` launch. Launches are recorded, and none is run.

For processes without TRITON_INTERPRET; no GPU is needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
import torch.distributed
from torch import Tensor
from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh
from torch.testing._internal.distributed.fake_pg import FakeStore
from triton.runtime.jit import JITFunction

import torchclip
from records import ADAMW_PLAIN, CASES, GLOBAL_NORM, GRDA_PLAIN, MIX_CLIP_PLAIN, NO_CLIP, Case
from rule_records import ADA_GRAD_NORM_ROW
from torchclip.backends import choice as backend
from torchclip.backends.triton import launcher
from torchclip.backends.triton.blocks import BLOCKS, Block

PLAIN_CASES = tuple(case for case in CASES if case == Case(case.rule, NO_CLIP))

STEPS = (
    (CASES, torch.float32, False),
    (CASES, torch.float32, True),  # the parameters under a GradScaler are float32
    (CASES, torch.bfloat16, False),
    (PLAIN_CASES, torch.float16, False),
    (PLAIN_CASES, torch.float64, False),
)
"""Cases, element type, and whether a GradScaler's numbers are given. Not the product of all: these alone are some 900
variants, and no kernel asks for the type and for the GradScaler at once."""

HELD = (
    torchclip.SplitMaster(state=torchclip.Blockwise8bit(min_elements=0)),
    torchclip.StochasticRounding(state=torchclip.StateDtype("bfloat16", stochastic=True)),
)
"""Precision policies that between them have each form but the master, of which a split parameter's is the same code."""

UNALIGNED = ("grad_scale", "found_inf", "loss")
"""Tensors that come from elsewhere; the package's own begin at multiples of 16 bytes."""

POINTERS = {torch.int64: "*i64", torch.float64: "*fp64", torch.float32: "*fp32"}
NUMBER = "i32"
"""The type of a number that a launch is given and that the kernel is not compiled for."""


class Variant(NamedTuple):
    """What a kernel is compiled for."""

    kernel: Any
    options: tuple[tuple[str, Any], ...]  # of the compiler
    pointers: tuple[tuple[str, str], ...]  # name and type of each argument that is a tensor, or a number
    constants: tuple[tuple[str, Any], ...]  # of each other argument; None for a tensor that is not given

    @property
    def name(self) -> str:
        """The kernel, its constants, and which of the tensors that come from elsewhere there are."""
        constants = [f"{name}={value!r}" for name, value in self.constants]
        given = [f"{name}: {kind}" for name, kind in self.pointers if name in UNALIGNED]
        return f"{self.kernel.fn.__name__}({', '.join(constants + given)})"

    @property
    def elements(self) -> dict[str, Any]:
        """Of a pass over elements what it is compiled for, by the names of ``Run``; empty for other kernels."""
        constants = dict(self.constants)
        return constants["run"]._asdict() if "run" in constants else constants if "access" in constants else {}

    def with_access(self, access: int) -> Variant:
        """The same for elements that are reached otherwise."""
        constants = dict(self.constants)
        if "run" in constants:
            constants["run"] = constants["run"]._replace(access=access)
        else:
            constants["access"] = access
        return self._replace(constants=tuple(constants.items()))


def type_of(value: Tensor | int) -> str:
    """The name that Triton has for the type of an argument."""
    return POINTERS[value.dtype] if isinstance(value, Tensor) else NUMBER


@contextmanager
def recorded(block: Block) -> Iterator[dict[Variant, None]]:
    """Meanwhile the Triton backend serves tensors on the CPU in a GPU's blocks, and launches are recorded, each variant
    once, instead of run."""
    found: dict[Variant, None] = {}

    def run(kernel: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> None:
        named = list(zip(kernel.arg_names, arguments, strict=True))
        inlined = {parameter.name for parameter in kernel.params if parameter.is_constexpr}
        types = {name: type_of(value) for name, value in named if name not in inlined and value is not None}
        pointers = tuple(types.items())
        constants = tuple((name, value) for name, value in named if name not in types)
        found[Variant(kernel, tuple(options.items()), pointers, constants)] = None

    with (
        patch.object(backend, "unavailable_reason", lambda name: None),
        patch.object(backend, "served_device", lambda name: "cpu"),
        patch.object(JITFunction, "run", run),
        patch.object(launcher, "block_for", lambda device: block),
    ):
        yield found


def parameters(dtype: torch.dtype) -> list[Tensor]:
    """Of both param groups one that is aligned and one that is not; no kernel depends on the sizes."""
    misaligned = [torch.zeros(1 + count, dtype=dtype)[1:] for count in (35, 12)]
    tensors = [torch.zeros(16, 24, dtype=dtype), torch.zeros(37, dtype=dtype)]
    return with_gradients([*tensors, misaligned[0].view(5, 7), misaligned[1]])


def strided_parameters(dtype: torch.dtype) -> list[Tensor]:
    """A pair whose elements have gaps."""
    return with_gradients([torch.zeros(6, 10, dtype=dtype)[:, ::2] for _ in range(2)])


def with_gradients(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The same as parameters."""
    for tensor in tensors:
        tensor.requires_grad_()
        tensor.grad = torch.zeros_like(tensor)
    return list(tensors)


def step(case: Case, params: Sequence[Tensor], under_scaler: bool, **own: Any) -> None:
    """One step of the case, with the numbers of a GradScaler where there is one; ``own`` is for the first group."""
    built = case.build(params, "triton")
    built.param_groups[0].update(own)
    if under_scaler:
        built.grad_scale, built.found_inf = torch.ones([]), torch.zeros([])
    built.step(loss=torch.ones([]) if case.takes_loss else None)


def shards(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Parameters of two processes, between which rows are split."""
    mesh = init_device_mesh("cpu", (2,))
    made = [distribute_tensor(torch.zeros(shape, dtype=dtype), mesh, [Shard(1)]) for shape in ((6, 16), (3, 10))]
    return with_gradients([torch.nn.Parameter(each) for each in made])


def shared_steps() -> None:
    """Those of one of two processes, of which the other one is not there: nothing is sent."""
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    try:
        for under_scaler in (False, True):
            for rule, policy in ((ADAMW_PLAIN, GLOBAL_NORM), (MIX_CLIP_PLAIN, NO_CLIP), (MIX_CLIP_PLAIN, GLOBAL_NORM)):
                step(Case(rule, policy), shards(), under_scaler)
        step(Case(ADA_GRAD_NORM_ROW, NO_CLIP), shards(), False)
        for options in (
            {"clip": torchclip.AdaptiveGradientClip(0.1)},
            {"clip": 1.0, "step_size": torchclip.AdaLossStep()},
            {"extensions": (torchclip.GradientNoise(),), "seed": 1},
        ):
            torchclip.AdamW(shards(), lr=0.1, **options, backend="triton").step(loss=torch.ones([]))
        torchclip.AdamW(shards(torch.bfloat16), lr=0.1, precision=HELD[1], seed=1, backend="triton").step()
    finally:
        torch.distributed.destroy_process_group()


def variants(kind: str) -> list[Variant]:
    """All variants in use.

    Args:
        kind: of the device, "cuda" or "hip".
    """
    with recorded(BLOCKS[kind]) as found:
        for cases, dtype, under_scaler in STEPS:
            for case in cases:
                step(case, parameters(dtype), under_scaler)
        step(Case(ADAMW_PLAIN, GLOBAL_NORM), strided_parameters(torch.float32), False)
        step(Case(ADAMW_PLAIN, GLOBAL_NORM), parameters(torch.float32), False, clip=0.5)
        step(Case(GRDA_PLAIN, NO_CLIP), parameters(torch.float32), False, target_sparsity=0.5)
        for policy in HELD:
            torchclip.AdamW(parameters(torch.bfloat16), lr=0.1, precision=policy, seed=1, backend="triton").step()
        for rule in (MIX_CLIP_PLAIN, ADA_GRAD_NORM_ROW):
            step(Case(rule, GLOBAL_NORM), with_gradients([torch.zeros(0), torch.zeros(0, 3)]), False)
        shared_steps()
    return list(found)
