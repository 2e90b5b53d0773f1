"""``python docs/_site/speed_picture.py``: docs/figures/speed.png, the README's picture, from files of results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

ROOT = Path(__file__).resolve().parents[2]
PANELS = (
    ("nvidia-h200-step", "gpt2_xl", "GPT-2 XL, 1.56 billion parameters\nNVIDIA H200, torch 2.11, float32"),
    ("cpu-step", "gpt2", "GPT-2, 124 million parameters\ntwo cores of an AMD EPYC, torch 2.13, float32"),
)
RULES = {"clip_sgd": "SGD momentum", "clip_adamw": "AdamW"}
BARS = {"ours": ("torchclip", "#0072b2"), "fused": ("torch.optim, fused=True, after clip_grad_norm_", "#d55e00")}

# Legible on white and on black, since the picture has no background.
GREY = "#808080"
INK = dict.fromkeys(("text.color", "axes.labelcolor", "axes.titlecolor", "axes.edgecolor"), GREY)
INK |= dict.fromkeys(("xtick.color", "ytick.color"), GREY)


def times(results: str, shapes: str) -> dict[str, dict[str, Any]]:
    """By rule what the file has of each contender."""
    rows = json.loads((ROOT / "bench" / "results" / f"{results}.json").read_text())["rows"]
    return {row["algorithm"]: row["contenders"] for row in rows if row["set"] == shapes and row["algorithm"] in RULES}


def draw(path: Path) -> None:
    with plt.rc_context(INK):
        _draw(path)


def _draw(path: Path) -> None:
    figure, axes = plt.subplots(1, len(PANELS), figsize=(9, 2.6), layout="constrained")
    for axis, (results, shapes, title) in zip(axes, PANELS, strict=True):
        found = times(results, shapes)
        for place, rule in enumerate(RULES):
            for offset, (name, (label, color)) in zip((0.2, -0.2), BARS.items(), strict=True):
                seconds = found[rule][name]["seconds"]
                low, middle, high = (1e3 * seconds[key] for key in ("p20", "p50", "p80"))
                error = [[middle - low], [high - middle]]
                axis.barh(
                    -place + offset,
                    middle,
                    0.38,
                    xerr=error,
                    color=color,
                    ecolor="#808080",
                    label=None if place else label,
                )
                axis.text(high, -place + offset, f" {middle:.3g} ms", va="center", fontsize=8)
        axis.set_yticks([0, -1], RULES.values())
        axis.set_xlabel("time of one clipped step, ms (median; whiskers p20 to p80)", fontsize=8)
        axis.set_title(title, fontsize=9)
        axis.margins(x=0.15)
        axis.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    figure.savefig(path, dpi=160, transparent=True)


if __name__ == "__main__":
    draw(ROOT / "docs" / "figures" / "speed.png")
