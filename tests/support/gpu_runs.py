"""Parameters on a GPU, the combinations that are run on them, and what they end with."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

import torchclip
from builders import OPTIMIZERS, SPARSE, build
from memory_guard import same_bits

DEVICE = "cuda"
BACKEND = os.environ.get("TORCHCLIP_GPU_BACKEND", "cuda")
"""Of the optimizers under test; the Triton backend takes the same tests."""
SHAPES = ((40, 33), (17,), (2, 3, 3), (), (5000,))
MANY_BLOCKS = ((1 << 20, 3), (333, 77), (5,), (100_003,), (64, 64, 3, 3))

EXTENSIONS = (
    torchclip.GradientNoise(eta=0.01),
    torchclip.GradientDropout(0.2),
    torchclip.LRDropout(0.5),
    torchclip.Lookahead(k=2),
)
# They have no step to drop and no slow weights.
SPARSE_EXTENSIONS = EXTENSIONS[:2]

MIXES: dict[str, dict[str, Any]] = {
    "plain": {},
    "clip": {"clip": 1.0},
    "extensions": {"clip": torchclip.ClipByGlobalNorm(1.0, nonfinite="skip"), "extensions": EXTENSIONS},
}
POLICIES: dict[str, dict[str, Any]] = {
    "smooth": {"clip": torchclip.ClipByGlobalNorm(1.0, smooth=True)},
    "tensor_norm": {"clip": torchclip.ClipByTensorNorm(0.5)},
    "value": {"clip": torchclip.ClipByValue(0.5)},
    "adaptive": {"clip": torchclip.AdaptiveGradientClip(0.1)},
    "autoclip": {"clip": torchclip.AutoClip(50, window=4)},
    "zclip": {"clip": torchclip.ZClip(warmup_steps=2)},
    "ada_loss_step": {"clip": 1.0, "step_size": torchclip.AdaLossStep()},
    "sqrt_decay": {"clip": 1.0, "step_size": torchclip.SqrtDecay()},
}
PRECISIONS: dict[str, dict[str, Any]] = {
    "state_dtype": {"clip": 1.0, "precision": torchclip.StateDtype("bfloat16", stochastic=True)},
    "blockwise": {"clip": 1.0, "precision": torchclip.Blockwise8bit(min_elements=0)},
}
COMBINATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    **{f"{name}-{mix}": (name, options) for name in OPTIMIZERS for mix, options in MIXES.items()},
    **{f"{name}-{policy}": (name, options) for name in ("sgd", "adamw") for policy, options in POLICIES.items()},
    **{f"adamw-{policy}": ("adamw", options) for policy, options in PRECISIONS.items()},
    **{f"{name}-target": (name, {"target_sparsity": 0.5}) for name in SPARSE},
}
"""Every class plain, clipped and with all extensions; every policy with a rule that counts its steps and one that does
not; state in fewer bytes; and steered thresholds."""


def made(name: str, params: list[Parameter], **options: Any) -> torch.optim.Optimizer:
    """The optimizer of this name on the GPU, with a seed of its own."""
    if name in SPARSE and "extensions" in options:
        options["extensions"] = SPARSE_EXTENSIONS
    return build(name, params, **{"seed": 7, "backend": BACKEND, **options})


def combined(combination: str, params: list[Parameter], **options: Any) -> torch.optim.Optimizer:
    """The optimizer of this combination."""
    name, mix = COMBINATIONS[combination]
    return made(name, params, **{**mix, **options})


def parameters(
    shapes: Sequence[tuple[int, ...]] = SHAPES, dtype: torch.dtype = torch.float32, device: str = DEVICE
) -> list[Parameter]:
    """Parameters with gradients; the same ones at every call."""
    generator = torch.Generator().manual_seed(1)
    params = [Parameter(torch.randn(shape, generator=generator).to(device, dtype)) for shape in shapes]
    for param in params:
        param.grad = torch.zeros_like(param)
    write_gradients(0, params)
    return params


def write_gradients(step: int, *sets: list[Parameter], scale: float = 1.0) -> None:
    """The same new gradients for every set of parameters, into the tensors that hold them."""
    generator = torch.Generator().manual_seed(100 + step)
    for group in zip(*sets):
        value = torch.randn(group[0].shape, generator=generator) * scale
        for param in group:
            param.grad.copy_(value)


def loss_of(step: int) -> float:
    """A loss that goes up and down."""
    return 0.5 + 0.25 * (5 * step % 7)


def outcome(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Parameters, state, shared numbers and measurements, in memory of their own."""
    values = {f"metrics {name}": value.clone() for name, value in optimizer.metrics().items()}
    for number, group in enumerate(optimizer.param_groups):
        values |= {f"shared {number} {name}": value.clone() for name, value in group.get("shared", {}).items()}
        for position, param in enumerate(group["params"]):
            values[f"parameter {number} {position}"] = param.detach().clone()
            state = optimizer.state.get(param, {})
            values |= {f"{name} {number} {position}": value.clone() for name, value in state.items()}
    return values


def assert_same(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    """Equal bits."""
    assert left.keys() == right.keys()
    different = [name for name, value in left.items() if not same_bits(value, right[name])]
    assert not different, different


@contextmanager
def unfinished_work(milliseconds: int = 150) -> Iterator[torch.cuda.Event]:
    """Keeps the current stream busy, and fails when the block has waited for it, by whatever call."""
    done = torch.cuda.Event()
    torch.cuda.synchronize()
    torch.cuda._sleep(milliseconds * 2_000_000)  # cycles, of at most 2 GHz
    done.record()
    yield done
    waited = done.query()
    torch.cuda.synchronize()
    assert not waited, "the host has waited for the device"


@contextmanager
def torch_must_not_wait() -> Iterator[None]:
    """Makes every call of torch that would wait for the device an error."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
