"""Steps of the CPU backend in many threads, more than this processor has, leave the bits of a step in one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import torchclip
from builders import KERNELS, draw_gradients
from memory_guard import same_bits
from records import ALL_EXTENSIONS, SEED
from torchclip.backends.choice import unavailable_reason

pytestmark = pytest.mark.skipif(unavailable_reason("cpu") is not None, reason="the CPU passes are not built")

# As many chunks as 64 threads want to share, some of them of one tensor, and more parameters than one thread refreshes.
SHAPES = ((300_001,), (70, 999), (17,), *((1_003,) for _ in range(400)), *((3,) for _ in range(200)))
THREADS = (4, 5, 8, 64)

# How the work is shared does not depend on the rule: one of each kind of pass.
CASES = {
    **{name: KERNELS[name] for name in ("adamw", "mix_clip", "ada_grad_norm")},
    "draws": (torchclip.SGD, {"lr": 0.1, "extensions": ALL_EXTENSIONS.extensions, "seed": SEED}),
}


def results(name: str, threads: int) -> dict[str, Tensor]:
    """Everything that two steps leave, and what torchclip.clip_grad_norm_ makes of the last gradients."""
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(1)
    params = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]
    cls, options = CASES[name]
    optimizer = cls(params, **options, clip=100.0, backend="cpu")
    for step in range(2):
        draw_gradients(step, params)
        optimizer.step()
    norm = torchclip.clip_grad_norm_(params, 100.0)
    found = {**optimizer.metrics(), "norm of clip_grad_norm_": norm}
    for position, param in enumerate(params):
        found[f"parameter {position}"], found[f"gradient {position}"] = param.detach(), param.grad
        found |= {f"{key} of {position}": value for key, value in optimizer.state.get(param, {}).items()}
    return found


@pytest.mark.parametrize("name", CASES)
def test_every_number_of_threads_leaves_the_same_bits(name: str) -> None:
    alone = results(name, 1)
    for threads in THREADS:
        together = results(name, threads)
        assert together.keys() == alone.keys()
        different = [key for key, value in alone.items() if not same_bits(together[key], value)]
        assert not different, f"{threads} threads: {different[:3]}"
