"""``python -m recipes tutorial``: the runs and the pictures of docs/tutorial.md, in some minutes.

The task is the adding problem (Hochreiter, Schmidhuber 1997): of a sequence of numbers two are marked, and their sum is
to be told. A recurrent network of rectified linear units with an identity to start from (Le, Jaitly, Hinton 2015,
arXiv 1504.00941) learns it, and its first gradients are hundreds of times as large as the later ones. Runs are in
float64, since this network amplifies rounding: two runs that differ by one rounding part after some hundred steps.
"""

import argparse
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from torch import Tensor, nn
from torch.nn.functional import mse_loss

import torchclip
from recipes.command import positive

LENGTH, BATCH = 12, 64
LR, MOMENTUM = 0.01, 0.9
MAX_NORM = 1.0
SAME_STEPS = 100
"""As long as rounding, which grows, is not seen: what the picture of the port shows."""
# Legible on white and on black, since the pictures have no background.
_INK, _COLORS = "#808080", ("#4477AA", "#EE6677", "#228833", "#CCBB44", "#AA3377")

Policy = float | torchclip.ClipPolicy
POLICIES: Mapping[str, Policy] = {
    "no clipping": math.inf,
    "clip=1.0": MAX_NORM,
    "clip=0.1": 0.1,
    "clip=AutoClip(percentile=50)": torchclip.AutoClip(percentile=50),
}


class Network(nn.Module):
    """Numbers and marks, [batch, LENGTH, 2] -> the sum, [batch, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.RNN(2, 64, batch_first=True, nonlinearity="relu")
        self.out = nn.Linear(64, 1)
        nn.init.eye_(cast(Tensor, self.rnn.weight_hh_l0))

    def forward(self, sequences: Tensor) -> Tensor:
        last: Tensor = self.rnn(sequences)[0][:, -1]
        told: Tensor = self.out(last)
        return told


def draw_batch(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Sequences, [BATCH, LENGTH, 2], of numbers and marks, one mark in each half; the sums, [BATCH, 1]."""
    numbers = torch.rand(BATCH, LENGTH, generator=generator, dtype=torch.float64)
    marks = torch.zeros_like(numbers)
    half = LENGTH // 2
    for start in (0, half):
        marks.scatter_(1, start + torch.randint(half, (BATCH, 1), generator=generator), 1)
    return torch.stack((numbers, marks), dim=2), (numbers * marks).sum(1, keepdim=True)


@dataclass
class Run:
    """What a run measured, at each step."""

    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)


def train(make: Callable[[nn.Module], torch.optim.Optimizer], steps: int, seed: int) -> Run:
    """torch's optimizers are clipped to MAX_NORM by a call, torchclip's by themselves."""
    torch.manual_seed(seed)
    network, generator, run = Network().double(), torch.Generator().manual_seed(seed), Run()
    optimizer = make(network)
    for _ in range(steps):
        sequences, sums = draw_batch(generator)
        loss = mse_loss(network(sequences), sums)
        optimizer.zero_grad()
        loss.backward()
        if isinstance(optimizer, torchclip.FusedOptimizer):
            optimizer.step()
            norm = optimizer.grad_norm
        else:
            norm = nn.utils.clip_grad_norm_(network.parameters(), MAX_NORM)
            optimizer.step()
        assert norm is not None
        run.losses.append(float(loss.detach()))
        run.norms.append(float(norm))
    return run


def of_torch(network: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(network.parameters(), lr=LR, momentum=MOMENTUM)


def clipped(policy: Policy) -> Callable[[nn.Module], torch.optim.Optimizer]:
    return lambda network: torchclip.SGD(network.parameters(), lr=LR, momentum=MOMENTUM, clip=policy)


def smooth(values: Sequence[float], window: int = 25) -> list[float]:
    """The mean of the last ``window`` values."""
    return [sum(values[max(0, end - window) : end]) / min(end, window) for end in range(1, len(values) + 1)]


def _figure(path: Path, paint: Callable[[Axes], None]) -> None:
    ink: dict[Any, Any] = {
        "text.color": _INK,
        "axes.labelcolor": _INK,
        "axes.edgecolor": _INK,
        "xtick.color": _INK,
        "ytick.color": _INK,
    }
    with plt.rc_context(ink):
        figure, axes = plt.subplots(figsize=(7, 2.6), layout="constrained")
        paint(axes)
        axes.set(xlabel="step", yscale="log")
        axes.legend(frameon=False, fontsize=8)
        axes.grid(alpha=0.3, color=_INK)
        axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(path, dpi=130, transparent=True)
        plt.close(figure)


def draw(runs: Mapping[str, Sequence[Run]], torchs: Run, folder: Path) -> None:
    """A picture for each step of the tutorial; ``runs`` by the names of POLICIES, a run for each seed."""
    folder.mkdir(parents=True, exist_ok=True)

    def port(axes: Axes) -> None:
        wide: dict[str, Any] = {"linewidth": 6, "alpha": 0.35, "color": _COLORS[1]}
        ours = runs["clip=1.0"][0].losses[:SAME_STEPS]
        axes.plot(torchs.losses[:SAME_STEPS], label="torch.optim.SGD after clip_grad_norm_(…, 1.0)", **wide)
        axes.plot(ours, label="torchclip.SGD(clip=1.0)", color=_COLORS[0])
        axes.set_ylabel("loss")

    def norm(axes: Axes) -> None:
        axes.plot(runs["no clipping"][0].norms, label="optimizer.grad_norm, not clipped", color=_COLORS[0], linewidth=1)
        axes.axhline(MAX_NORM, color=_COLORS[1], linestyle="--", label="1.0")
        axes.set_ylabel("norm of the gradient")

    def policies(axes: Axes) -> None:
        for color, (name, seeds) in zip(_COLORS, runs.items(), strict=False):
            mean = [sum(each) / len(each) for each in zip(*(run.losses for run in seeds), strict=True)]
            axes.plot(smooth(mean), label=name, color=color)
        axes.set_ylabel(f"loss, mean of 25 steps\nand of {len(seeds)} seeds")

    for paint in (port, norm, policies):
        _figure(folder / f"tutorial-{paint.__name__}.png", paint)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m recipes tutorial", description="The pictures of docs/tutorial.md.")
    add = parser.add_argument
    add("--steps", type=positive, default=600, help="of each run (default 600)")
    add("--seeds", type=positive, default=3, metavar="N", help="runs of each policy (default 3)")
    add("--result-dir", type=Path, default=Path("results/tutorial"), metavar="DIR", help="default results/tutorial")
    options = parser.parse_args(arguments)
    torchs = train(of_torch, min(SAME_STEPS, options.steps), seed=0)
    runs = {
        name: [train(clipped(policy), options.steps, seed) for seed in range(options.seeds)]
        for name, policy in POLICIES.items()
    }
    pairs = zip(runs["clip=1.0"][0].losses, torchs.losses, strict=False)
    apart = max(abs(ours - theirs) for ours, theirs in pairs)
    print(f"{len(torchs.losses)} losses of torch.optim and of torchclip differ by at most {apart:.1e}")
    for name, seeds in runs.items():
        last = [sum(run.losses[-100:]) / len(run.losses[-100:]) for run in seeds]
        norms = sorted(norm for run in seeds for norm in run.norms)
        middle, largest = norms[len(norms) // 2], norms[-1]
        print(f"{name:<30} last 100 losses {sum(last) / len(last):.3f}, {min(last):.3f} to {max(last):.3f};", end=" ")
        print(f"norm: median {middle:.2g}, largest {largest:.3g}")
    draw(runs, torchs, options.result_dir)
    print(f"{options.result_dir}: tutorial-port.png, tutorial-norm.png, tutorial-policies.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
