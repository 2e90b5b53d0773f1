"""The metrics of an optimizer for TensorBoard and Weights & Biases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def on_host(metrics: Mapping[str, Tensor], prefix: str) -> dict[str, float]:
    """Every metric as a number, with one transfer: a vector is its smallest, its mean and its largest number."""
    names, values = [], []
    for name, value in metrics.items():
        if value.ndim == 0:
            names.append(f"{prefix}{name}")
            values.append(value.reshape(1))
        elif value.numel() > 0:
            names += [f"{prefix}{name}/{kind}" for kind in ("min", "mean", "max")]
            values.append(torch.stack([value.min(), value.mean(), value.max()]))
    if not values:
        return {}
    devices = [value.device for value in values if value.device.type != "cpu"]
    device = devices[0] if devices else torch.device("cpu")
    joined = torch.cat([value.to(device, torch.float32 if device.type == "mps" else torch.float64) for value in values])
    return dict(zip(names, joined.tolist(), strict=True))


def log(writer: Any, numbers: Mapping[str, float], step: int | None) -> None:
    """Hands numbers to a writer of TensorBoard's form, or of that of Weights & Biases.

    Raises:
        TypeError: for what has neither ``add_scalar`` nor ``log``.
    """
    if callable(getattr(writer, "add_scalar", None)):
        for name, number in numbers.items():
            writer.add_scalar(name, number, step)
    elif callable(getattr(writer, "log", None)):
        writer.log(dict(numbers), step=step)
    else:
        raise TypeError(
            "log_metrics takes a writer with add_scalar(name, number, step), as TensorBoard's SummaryWriter, or with "
            f"log(numbers, step=step), as a run of wandb; got {type(writer).__name__}"
        )
