"""Small steps of every kernel, for compute-sanitizer:

    PYTHONPATH=.:tests/support compute-sanitizer --tool memcheck python tests/gpu/sanitize.py
    PYTHONPATH=.:tests/support compute-sanitizer --tool initcheck python tests/gpu/sanitize.py float32 bfloat16

A plain script, since under a tool every import costs seconds. Each tensor ends where its memory does, so that an access
beyond it is one beyond an allocation, when PYTORCH_NO_CUDA_MEMORY_CACHING=1 gives each tensor its own. It looks at no
result; the conformance tests do that.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

import torchclip
from builders import OPTIMIZERS, SPARSE
from gpu_runs import BACKEND
from memory_guard import contiguous_strides

DTYPES = ("float32", "bfloat16", "float16", "float64")
# Of Triton's kernels each variant takes half a second to compile: each family of rules in one type, the others with one
# rule, and the policies with another.
NAMES = tuple(OPTIMIZERS) if BACKEND == "cuda" else ("sgd", "adamw", "rmsprop", "mix_clip", "grda", "ada_grad_norm_row")
STEPS = 2

# Shape, strides, elements off a vector boundary, and the same of the gradient: vector widths and their multiples with
# head and tail, several chunks, rows of every length, gaps, and orders that differ.
Place = tuple[tuple[int, ...] | None, int]
LAYOUTS: tuple[tuple[tuple[int, ...], Place, Place], ...] = (
    ((0,), (None, 0), (None, 0)),
    ((), (None, 0), (None, 0)),
    ((1,), (None, 1), (None, 0)),
    ((64,), (None, 0), (None, 0)),
    ((65,), (None, 1), (None, 3)),
    ((257,), (None, 0), (None, 1)),
    ((33, 61), (None, 0), (None, 0)),
    ((3, 5000), (None, 0), (None, 0)),
    ((400, 3), (None, 2), (None, 2)),
    ((2, 3, 5, 4), ((60, 1, 12, 3), 0), ((60, 1, 12, 3), 0)),
    ((6, 10), ((16, 1), 1), ((10, 1), 0)),
    ((6, 8), (None, 0), ((1, 6), 0)),
    ((4, 5), ((1, 8), 0), ((1, 8), 0)),
    ((5, 9), (None, 0), ((0, 1), 0)),
    ((19,), ((3,), 2), (None, 0)),
)

EXTENSIONS = (torchclip.GradientNoise(0.01), torchclip.GradientDropout(0.2))
STEP_EXTENSIONS = (torchclip.LRDropout(0.5), torchclip.Lookahead(k=2))
POLICIES: tuple[dict[str, Any], ...] = (
    {"clip": torchclip.ClipByTensorNorm(0.5)},
    {"clip": torchclip.ClipByValue(0.5)},
    {"clip": torchclip.AdaptiveGradientClip(0.1)},
    {"clip": torchclip.AutoClip(50, window=2), "step_size": torchclip.AdaLossStep()},
    {"clip": torchclip.ZClip(warmup_steps=1), "weight_decay": 0.1},
)

CODES = torchclip.Blockwise8bit(min_elements=0)
PRECISIONS: dict[torch.dtype, tuple[torchclip.Precision, ...]] = {
    torch.float32: (torchclip.StateDtype("bfloat16", stochastic=True), CODES),
    torch.bfloat16: (torchclip.SplitMaster(state=CODES), torchclip.StochasticRounding()),
    torch.float16: (torchclip.MasterWeights(),),
}


def placed(shape: tuple[int, ...], place: Place, dtype: torch.dtype) -> Tensor:
    """A tensor on the GPU in a buffer that ends with it."""
    strides, offset = contiguous_strides(shape) if place[0] is None else place[0], place[1]
    extent = 0 if 0 in shape else 1 + sum((n - 1) * s for n, s in zip(shape, strides))
    # Made on the CPU: what is copied to the device counts as initialised there, gaps too.
    return torch.randn(offset + extent).to(dtype).to("cuda").as_strided(shape, strides, offset)


def parameters(dtype: torch.dtype) -> list[Parameter]:
    """One of each layout."""
    params = []
    for shape, place, grad_place in LAYOUTS:
        params.append(Parameter(placed(shape, place, dtype)))
        params[-1].grad = placed(shape, grad_place, dtype)
    return params


def mixes(name: str, position: int, dtype: torch.dtype) -> list[dict[str, Any]]:
    """What a rule is run with, in the type of that position. The policies' kernels are the same for every rule."""
    extensions = EXTENSIONS if name in SPARSE else EXTENSIONS + STEP_EXTENSIONS
    found: list[dict[str, Any]] = [{}, {"clip": 1.0}, {"clip": 1.0, "extensions": extensions}]
    if name == "adamw":
        for policy in PRECISIONS.get(dtype, ()):
            found += [{"clip": 1.0, "precision": policy}, {"extensions": extensions, "precision": policy}]
    if BACKEND != "cuda":
        return [found[0], *found[2:]] + (list(POLICIES) if name == "sgd" and position == 0 else [])
    return found + list(POLICIES) if name in ("sgd", "adamw") and position < 2 else found


def run(name: str, dtype: torch.dtype, mix: dict[str, Any], params: list[Parameter]) -> None:
    """A few steps, with a gradient that moves, one that is missing, and a scaler's tensors."""
    cls, options = OPTIMIZERS[name]
    optimizer = cls(params, **{**options, **mix, "seed": 7, "backend": BACKEND})
    loss = torch.ones((), device="cuda")
    gradient = params[4].grad
    for step in range(STEPS):
        params[4].grad = gradient if step % 2 == 0 else None
        params[5].grad = placed((257,), (None, 1), dtype)
        optimizer.step(loss=loss)
    params[4].grad = gradient
    optimizer.grad_scale = torch.full((), 2.0, device="cuda")
    optimizer.found_inf = torch.zeros((), device="cuda")
    optimizer.step(loss=loss)
    optimizer.metrics()


def main() -> None:
    torch.manual_seed(0)
    dtypes = [getattr(torch, name) for name in sys.argv[1:] or DTYPES]
    runs = 0
    for name in NAMES:
        for position, dtype in enumerate(dtypes if BACKEND == "cuda" or name == "adamw" else dtypes[:1]):
            for mix in mixes(name, position, dtype):
                run(name, dtype, mix, parameters(dtype))
                runs += 1
        torch.cuda.synchronize()
        print(f"{name}: done", flush=True)
    # Longer than one chunk, more tensors than ride in a launch's parameters, and a model that is not in the cache.
    for shapes in (((70_001,), (300, 701)), ((5,),) * 500, ((4_000_003,), (9_000_000,))):
        for name in ("sgd", "adamw", "mix_clip", "ada_grad_norm_row"):
            params = [Parameter(placed(shape, (None, 0), torch.float32)) for shape in shapes]
            for param in params:
                param.grad = placed(tuple(param.shape), (None, 0), torch.float32)
            cls, options = OPTIMIZERS[name]
            optimizer = cls(params, **options, clip=1.0, backend=BACKEND)
            for _ in range(STEPS):
                optimizer.step()
            runs += 1
    torch.cuda.synchronize()
    print(f"{runs} runs")


if __name__ == "__main__":
    main()
