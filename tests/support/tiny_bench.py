"""The benchmark on tensors so small that a row takes milliseconds."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from bench import bandwidth, step
from bench.algorithm import Algorithm
from bench.measure import Settings
from bench.results import Found
from bench.row import Tensors, measure_row
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


def measured(algorithm: Algorithm, probe: bandwidth.BandwidthProbe, **settings: Any) -> Found:
    return measure_row("tiny", algorithm, probe, dataclasses.replace(SETTINGS, **settings), Tensors(SHAPES))


def edited(document: dict[str, Any], place: str, value: object) -> dict[str, Any]:
    """The document with another value at a place such as "rows.0.rounds"; in place."""
    *path, last = place.split(".")
    inner: Any = document
    for name in path:
        inner = inner[int(name)] if isinstance(inner, list) else inner[name]
    inner[int(last) if isinstance(inner, list) else last] = value
    return document
