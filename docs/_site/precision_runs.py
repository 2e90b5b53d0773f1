"""Writes docs/figures/precision.png and prints docs/precision.md's table of losses.

A small network guesses the next character of a text from the eight before it, once for each precision and seed:

    python docs/_site/precision_runs.py TEXT [STEPS]

Its last losses are over one sample of the text's last tenth, which no step has seen.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import torchclip

matplotlib.use("agg")
from matplotlib import pyplot

FIGURE = Path(__file__).resolve().parents[1] / "figures" / "precision.png"
CONTEXT, BATCH, SEEDS, LR = 8, 64, (1, 2, 3), 3e-4

RUNS: dict[str, tuple[torch.dtype, torchclip.Precision | None]] = {
    "float32": (torch.float32, None),
    "float32, StateDtype('bfloat16')": (torch.float32, torchclip.StateDtype("bfloat16")),
    "float32, Blockwise8bit(min_elements=1024)": (torch.float32, torchclip.Blockwise8bit(min_elements=1024)),
    "bfloat16": (torch.bfloat16, None),
    "bfloat16, SplitMaster()": (torch.bfloat16, torchclip.SplitMaster()),
    "bfloat16, MasterWeights()": (torch.bfloat16, torchclip.MasterWeights()),
    "bfloat16, StochasticRounding()": (torch.bfloat16, torchclip.StochasticRounding()),
}
"""The model's type and ``precision=`` by what the table calls them."""


def network(characters: int) -> nn.Sequential:
    """[batch, CONTEXT] character numbers -> [batch, characters] logits."""
    return nn.Sequential(
        nn.Embedding(characters, 16), nn.Flatten(), nn.Linear(CONTEXT * 16, 128), nn.ReLU(), nn.Linear(128, characters)
    )


def sampler(text: Tensor, count: int, generator: torch.Generator) -> Callable[[], tuple[Tensor, Tensor]]:
    """Draws ``count`` places of the text: the characters before each, and the one there."""

    def draw() -> tuple[Tensor, Tensor]:
        places = torch.randint(CONTEXT, len(text), (count,), generator=generator)
        return text[places.unsqueeze(1) + torch.arange(-CONTEXT, 0)], text[places]

    return draw


def train(
    text: Tensor, steps: int, seed: int, dtype: torch.dtype, precision: torchclip.Precision | None
) -> list[float]:
    """Validation losses, in nats a character, at ten places of the run."""
    torch.manual_seed(seed)
    characters, border = int(text.max()) + 1, len(text) * 9 // 10
    model = network(characters).to(dtype)
    draw = sampler(text[:border], BATCH, torch.Generator().manual_seed(seed))
    inputs, targets = sampler(text[border:], 4096, torch.Generator().manual_seed(0))()
    optimizer = torchclip.AdamW(
        model.parameters(), lr=LR, precision=precision, clip=1.0, seed=seed, backend="reference"
    )
    losses = []
    for step in range(1, steps + 1):
        batch, wanted = draw()
        optimizer.zero_grad()
        cross_entropy(model(batch).float(), wanted).backward()
        optimizer.step()
        if step % (steps // 10) == 0:
            with torch.no_grad():
                losses.append(cross_entropy(model(inputs).float(), targets).item())
    return losses


def main(file: str, steps: int) -> None:
    content = Path(file).read_text()
    numbers = {character: number for number, character in enumerate(sorted(set(content)))}
    text = torch.tensor([numbers[character] for character in content])
    _, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    print("| model, `precision=` | validation loss after the last step, nats a character: mean (least to most) |")
    print("|---|---|")
    for name, (dtype, precision) in RUNS.items():
        losses = torch.tensor([train(text, steps, seed, dtype, precision) for seed in SEEDS])
        last = losses[:, -1]
        print(f"| {name} | {last.mean():.3f} ({last.min():.3f} to {last.max():.3f}) |", flush=True)
        places = [steps // 10 * (1 + place) for place in range(losses.shape[1])]
        axes.plot(places, losses.mean(dim=0), label=name, linestyle="-" if "float16" not in name[:8] else "--")
    axes.set(xlabel="step", ylabel="validation loss, nats a character, mean of three seeds")
    axes.legend(fontsize=7)
    pyplot.savefig(FIGURE, dpi=110)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 600)
