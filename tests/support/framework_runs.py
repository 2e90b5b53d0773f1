"""A small model and data for each framework, and what its runs with torch.optim and with torchclip must share."""

from __future__ import annotations

from importlib import metadata
from typing import Any

import pytest
import torch
from torch import Tensor, nn


def _declare_vision_operators() -> Any:
    """Those without which torchvision's wheel for CUDA, which PyPI has, is not imported beside a torch for the CPU.

    timm imports torchvision, and transformers does where it is installed. Nothing here runs one of its operators.
    """
    try:
        version = metadata.version("torchvision")
    except metadata.PackageNotFoundError:
        return None
    if torch.version.cuda is not None or version.endswith("+cpu"):
        return None
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


_VISION_OPERATORS = _declare_vision_operators()

ROWS, FEATURES = 32, 6
MAX_NORM = 0.05
"""Below every norm of these runs, so that each step is clipped."""

OPTIONS: dict[str, Any] = {"lr": 0.01, "weight_decay": 0.1}
"""Of AdamW, in both runs."""


class Net(nn.Module):
    """Called as Hugging Face's models are: with labels it returns the loss too."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.up, self.down = nn.Linear(FEATURES, 8), nn.Linear(8, 1)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        out = self.down(self.up(x).tanh())
        return {"logits": out} if labels is None else {"loss": (out - labels).square().mean(), "logits": out}


def rows() -> list[dict[str, Tensor]]:
    """Of a data set."""
    drawn = torch.Generator().manual_seed(11)
    inputs = torch.randn(ROWS, FEATURES, generator=drawn)
    return [{"x": row, "labels": row.sum(0, keepdim=True)} for row in inputs]


def batches(size: int = 4) -> list[tuple[Tensor, Tensor]]:
    """Of the same rows, in their order."""
    all_rows = rows()
    parts = [all_rows[start : start + size] for start in range(0, ROWS, size)]
    return [(torch.stack([r["x"] for r in part]), torch.stack([r["labels"] for r in part])) for part in parts]


def values(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def assert_alike(tested: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Equal to rounding, after steps that moved every one of them far beyond it."""
    start = values(Net())
    assert tested.keys() == expected.keys()
    for name, value in expected.items():
        key = name.removeprefix("net.")
        assert (value - start[key]).abs().max() > 1e-3, name
        torch.testing.assert_close(tested[name], value, rtol=1e-5, atol=1e-6)


def assert_alike_numbers(tested: list[float], expected: list[float]) -> None:
    assert tested == pytest.approx(expected, rel=1e-5) and len(tested) > 2
