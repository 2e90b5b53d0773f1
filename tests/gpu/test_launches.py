"""How many kernels a step starts, and that it copies nothing."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from bench.row import Launches, count_launches
from gpu_runs import BACKEND, made, parameters

IN_CACHE = ((512,),) * 300
FROM_MEMORY = ((1 << 18,),) * 300  # 300 MB for each of parameter, gradient and state: above every cache there is


@pytest.mark.parametrize(
    ("name", "options", "shapes", "kernels"),
    [
        pytest.param("sgd", {"clip": 1.0}, FROM_MEMORY, 2, id="clip_sgd"),
        pytest.param("sgd", {"clip": 1.0}, IN_CACHE, 1, id="clip_sgd-in_cache"),
        pytest.param("adamw", {"clip": 1.0}, FROM_MEMORY, 2, id="clip_adamw"),
        pytest.param("adamw", {"clip": 1.0}, IN_CACHE, 1, id="clip_adamw-in_cache"),
        pytest.param("sgd", {"momentum": 0.0, "nesterov": False}, FROM_MEMORY, 1, id="sgd"),
        pytest.param("mix_clip", {}, FROM_MEMORY, 2, id="mix_clip"),
        pytest.param("mix_clip", {}, IN_CACHE, 1, id="mix_clip-in_cache"),
        pytest.param("grda", {}, FROM_MEMORY, 2, id="grda"),
    ],
)
def test_launches_of_a_step(name: str, options: dict[str, Any], shapes: Any, kernels: int) -> None:
    optimizer = made(name, parameters(shapes), **options)
    optimizer.step()
    found = count_launches(optimizer.step)
    assert found.kernels > 0, "the profiler has seen no kernel"
    # One cooperative launch, for a model that the cache holds, is something that CUDA alone has.
    in_cache = kernels == 1 and shapes is IN_CACHE
    assert found == Launches(2 if BACKEND == "triton" and in_cache else kernels, 0)


def test_gradients_that_have_moved_copy_nothing() -> None:
    params = parameters(IN_CACHE)
    optimizer = made("sgd", params, clip=1.0)
    places = itertools.cycle([torch.randn_like(param) for param in params] for _ in range(2))
    optimizer.step()

    def step() -> None:
        for param, gradient in zip(params, next(places)):
            param.grad = gradient
        optimizer.step()

    found = count_launches(step)
    # On CUDA addresses travel in the parameters of launches, on Triton in one copy of page-locked memory.
    assert found.copies == (0 if BACKEND == "cuda" else 1)
