"""The benchmark on tensors so small that a row takes milliseconds."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from bench import bandwidth, step
from bench.algorithm import Algorithm
from bench.counts import Launches
from bench.measure import Samples, Settings
from bench.row import Row, Tensors, measure_row
from bench.shapes import SHAPE_SETS

CPU = torch.device("cpu")
SETTINGS = Settings(seconds=1e-3, warmup=1, min_rounds=4, max_rounds=4)
SHAPES = ((40, 3), (17,), (), (5, 2, 9))


def shrink(monkeypatch: pytest.MonkeyPatch) -> bandwidth.BandwidthProbe:
    """The bandwidth of tiny arrays, and tiny shapes under every name."""
    monkeypatch.setattr(bandwidth, "_MIN_ARRAY_BYTES", 1 << 12)
    monkeypatch.setattr(bandwidth, "last_level_cache_bytes", lambda device: 1 << 10)
    monkeypatch.setattr(step, "SHAPE_SETS", dict.fromkeys(SHAPE_SETS, lambda: SHAPES))
    return bandwidth.BandwidthProbe(CPU)


def measured(algorithm: Algorithm, probe: bandwidth.BandwidthProbe, **settings: Any) -> Row:
    return measure_row("tiny", algorithm, probe, dataclasses.replace(SETTINGS, **settings), Tensors(SHAPES))


def edited(document: dict[str, Any], place: str, value: object) -> dict[str, Any]:
    """The document with another value at a place such as "rows.0.rounds"; in place."""
    *path, last = place.split(".")
    inner: Any = document
    for name in path:
        inner = inner[int(name)] if isinstance(inner, list) else inner[name]
    inner[int(last) if isinstance(inner, list) else last] = value
    return document


def as_on_cuda(row: Row, kernels: int = 2, queued: Samples | None = None) -> Row:
    """The row with launches counted, and no swept form."""
    names = row.algorithm.contenders
    launches_of = dict.fromkeys(names, Launches(kernels, 0))
    return dataclasses.replace(
        row, launches=launches_of, warm_host=dict.fromkeys(names, 1e-5), queued=queued or {}, swept={}
    )
