"""results/demo.png: the loss curves, and the exact zeros over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

# Paul Tol's "bright" colours, which colour-blind readers can tell apart.
COLORS = ("#4477AA", "#228833", "#CCBB44", "#66CCEE", "#EE6677", "#AA3377")
TORCH_COLORS = ("#BBCCEE", "#FFCCCC")  # under the dashed curves
GREY = "#777777"

Curves = Mapping[str, Sequence[float]]  # name -> a value for every step


def draw(path: Path, losses: Curves, repeats: Mapping[str, str], zeros: Curves, steps_per_epoch: int) -> None:
    """Writes the picture. ``repeats`` maps a torchclip run to the torch run whose curve it must lie on."""
    ours = [name for name in losses if name not in repeats.values()]
    colors = dict(zip(ours, COLORS, strict=True)) | dict(zip(repeats.values(), TORCH_COLORS, strict=True))
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 5), width_ratios=(1.6, 1), layout="constrained")
    _draw_losses(left, losses, repeats, colors, steps_per_epoch)
    _draw_zeros(right, zeros, colors, steps_per_epoch)
    for axes in (left, right):
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _draw_losses(
    axes: Axes, losses: Curves, repeats: Mapping[str, str], colors: Mapping[str, str], steps_per_epoch: int
) -> None:
    mean = np.full(steps_per_epoch, 1 / steps_per_epoch)
    for name in sorted(losses, key=lambda name: name not in repeats.values()):  # torch's first, to lie underneath
        smooth = np.convolve(losses[name], mean, mode="valid")
        epochs = np.arange(steps_per_epoch, len(losses[name]) + 1) / steps_per_epoch
        is_torch = name in repeats.values()
        axes.plot(
            epochs,
            smooth,
            color=colors[name],
            linewidth=7 if is_torch else 1.8,
            linestyle="--" if name in repeats else "-",
            label=name if is_torch else f"torchclip {name}",
        )
    axes.set_yscale("log")
    axes.set_ylabel("training loss, mean over the last epoch")
    axes.set_title("Training loss (wide: torch; dashed on it: torchclip with the same arguments)")
    axes.legend(fontsize=9, frameon=False, ncols=2, loc="upper right")


def _draw_zeros(axes: Axes, zeros: Curves, colors: Mapping[str, str], steps_per_epoch: int) -> None:
    for name, values in zeros.items():
        epochs = np.arange(1, len(values) + 1) / steps_per_epoch
        percent = 100 * np.asarray(values)
        color = colors.get(name, GREY)
        axes.plot(epochs, percent, color=color, linewidth=2.2)
        label = f"{name}: {percent[-1]:.0f}%"
        axes.annotate(label, (epochs[-1], percent[-1]), (0, 9), textcoords="offset points", ha="right", color=color)
    axes.set_ylim(-3, 100)
    axes.set_ylabel("parameters that are exactly 0 (%)")
    axes.set_title("Exact zeros")
