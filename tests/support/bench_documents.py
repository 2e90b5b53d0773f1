"""Files of results with numbers of a known kind, as the commands write them."""

from __future__ import annotations

from typing import Any

from bench.results import VERSION, describe_environment
from tiny_bench import CPU

SPEEDUPS = {"ours": 1.0, "loop": 4.0, "fused": 2.0}


def header(command: str, **environment: Any) -> dict[str, Any]:
    return {
        "version": VERSION,
        "command": command,
        "environment": {**describe_environment(CPU), **environment},
        "commit": "0123456789abcdef",
        "settings": {"seconds": 1.0},
    }


def time(seconds: float) -> dict[str, float]:
    return {"p20": 0.9 * seconds, "p50": seconds, "p80": 1.2 * seconds}


def row(set_name: str, algorithm: str, elements: int = 1000, **more: Any) -> dict[str, Any]:
    contenders = {
        name: {
            "seconds": time(1e-4 * factor),
            "speedup_of_ours": time(factor),
            "gigabytes_per_second": 40.0 / factor,
            "share_of_triad": 0.8 / factor,
            "share_of_copy": 0.9 / factor,
            "temporary_bytes": 0 if name == "ours" else 4 * elements,
        }
        for name, factor in SPEEDUPS.items()
    }
    return {
        "set": set_name,
        "algorithm": algorithm,
        "title": f"title of {algorithm}",
        "tensors": 10,
        "elements": elements,
        "words_per_element": 6.0,
        "rounds": 4,
        "in_cache": True,
        "different": {},
        "contenders": contenders,
        "bandwidth": {name: {"bytes": 10**9, "seconds": time(0.02)} for name in ("triad", "copy")},
        **more,
    }


def step(**environment: Any) -> dict[str, Any]:
    rows = [row(name, algorithm) for name in ("small", "large") for algorithm in ("clip_sgd", "adamw")]
    return {**header("step", **environment), "rows": rows}


def kernels(**environment: Any) -> dict[str, Any]:
    names = ("norm", "adamw", "adamw+clip")
    rows = [row(dtype, name) for dtype in ("float32", "bfloat16") for name in names]
    return {**header("kernels", **environment), "rows": rows}


def scaling(**environment: Any) -> dict[str, Any]:
    rows = [row(f"parameters-1e{e}", "clip_sgd", 10**e, threads=n) for e in (3, 4) for n in (1, 2)]
    rows += [row(f"tensors-{count}", "clip_sgd", threads=1) | {"tensors": count} for count in (1, 10)]
    return {**header("scaling", **environment), "rows": rows}


def train(**environment: Any) -> dict[str, Any]:
    speed = {name: {"seconds": time(0.1), "speedup_of_ours": time(1.1)} for name in ("ours", "torch")}
    rows = [{"set": "resnet", "algorithm": "SGD", "beside": "torch SGD, fused, clip_grad_norm_", "contenders": speed}]
    return {**header("train", **environment), "rows": rows}
