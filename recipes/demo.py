"""``python -m recipes.demo``: torchclip's optimizers beside torch's on real handwritten digits.

Every optimizer trains the same network from the same start on the same batches. torchclip's SGD and AdamW must repeat
torch's loss curves to rounding, or the demo fails. It ends with one table and results/demo.png.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm

import torchclip
from recipes.digits import Digits, accuracy, exact_zeros, make_model

FLOAT64_EPOCHS = 2
SEED = 0
PICTURE = Path("results/demo.png")
MAX_NORM = 1.0
TIMED_STEPS = 200  # of each optimizer

# Training amplifies rounding errors: in float32 torch's own two implementations can part by hundredths. In float64 the
# curves stay within 1e-14 of each other, and a larger difference than this is another formula.
FLOAT64_BOUND = 1e-11


@dataclass(frozen=True)
class Contestant:
    make: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
    against: str | None = None  # the name of the contestant whose step time is the yardstick
    repeats: bool = False  # whether its loss curve must be that one's, to rounding
    clips: bool = False  # torch's own optimizers clip by a call before the step

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """What follows the backward pass."""
        if self.clips:
            nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], MAX_NORM)
        optimizer.step()


SGD: dict[str, Any] = {"lr": 0.02, "momentum": 0.9, "weight_decay": 5e-4}
ADAMW: dict[str, Any] = {"lr": 2e-3, "weight_decay": 1e-2}
AVERAGED: dict[str, Any] = {"gamma": 0.5, "weight_decay": 5e-4}  # momentum is an average there, so lr is larger

TORCH_SGD, TORCH_ADAMW = "torch SGD fused + clip_grad_norm_", "torch AdamW fused + clip_grad_norm_"
TORCH_PLAIN = "torch SGD fused, no clip, no momentum"

CONTESTANTS = {
    TORCH_SGD: Contestant(lambda p: torch.optim.SGD(p, **SGD, fused=True), clips=True),
    "SGD(clip=1.0)": Contestant(lambda p: torchclip.SGD(p, **SGD, clip=MAX_NORM), TORCH_SGD, repeats=True),
    "SGDClip": Contestant(lambda p: torchclip.SGDClip(p, lr=0.5, momentum=0.9, **AVERAGED), TORCH_SGD),
    "MomClip": Contestant(lambda p: torchclip.MomClip(p, lr=0.5, momentum=0.9, **AVERAGED), TORCH_SGD),
    "MixClip": Contestant(lambda p: torchclip.MixClip(p, lr=1.0, momentum=0.99, nu=0.7, **AVERAGED), TORCH_SGD),
    TORCH_ADAMW: Contestant(lambda p: torch.optim.AdamW(p, **ADAMW, fused=True), clips=True),
    "AdamW(clip=1.0)": Contestant(lambda p: torchclip.AdamW(p, **ADAMW, clip=MAX_NORM), TORCH_ADAMW, repeats=True),
    TORCH_PLAIN: Contestant(lambda p: torch.optim.SGD(p, lr=0.1, fused=True)),
    "GRDA": Contestant(lambda p: torchclip.GRDA(p, lr=0.1, c=0.05, mu=0.51), TORCH_PLAIN),
}
REPEATS = {name: contestant.against or "" for name, contestant in CONTESTANTS.items() if contestant.repeats}


@dataclass(frozen=True)
class Run:
    """What a training run leaves behind."""

    losses: list[float]  # [steps]
    zeros: list[float]  # [steps], the fraction of parameters that are exactly 0
    test_accuracy: float
    optimizer: torch.optim.Optimizer  # with the gradients of its last step


def train(name: str, digits: Digits, epochs: int, progress: tqdm) -> Run:
    progress.set_description(f"{name:<35}")
    contestant = CONTESTANTS[name]
    model = make_model(SEED, digits.train_images.dtype)
    optimizer = contestant.make(model.parameters())
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * digits.steps_per_epoch)
    losses, zeros = [], []
    for images, labels in digits.batches(epochs, SEED):
        loss = cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        contestant.step(optimizer)
        scheduler.step()
        losses.append(loss.item())
        zeros.append(exact_zeros(model))
        progress.update()
    return Run(losses, zeros, accuracy(model, digits.test_images, digits.test_labels), optimizer)


def train_all(digits: Digits, epochs: int) -> tuple[dict[str, Run], dict[str, Run]]:
    """Every contestant in float32, and in float64 the pairs that must agree."""
    in_pairs = [name for pair in REPEATS.items() for name in pair]
    steps = digits.steps_per_epoch * (epochs * len(CONTESTANTS) + FLOAT64_EPOCHS * len(in_pairs))
    with tqdm(total=steps, unit="step", mininterval=0.5, dynamic_ncols=True) as progress:
        runs = {name: train(name, digits, epochs, progress) for name in CONTESTANTS}
        double = Digits.load(torch.float64)
        doubles = {name: train(name, double, FLOAT64_EPOCHS, progress) for name in in_pairs}
        progress.set_description("trained")
    return runs, doubles


def agreement(doubles: Mapping[str, Run]) -> bool:
    """Prints how far our curves are from torch's, and whether that is rounding; NaN in one of them is not."""
    agree = True
    print("\nLargest difference between the loss curves of torchclip and torch, in float64:")
    for ours, torchs in REPEATS.items():
        largest = np.abs(np.subtract(doubles[ours].losses, doubles[torchs].losses)).max()
        fine = bool(largest <= FLOAT64_BOUND)
        agree &= fine
        print(f"  {ours:<16} {largest:.1e} (bound {FLOAT64_BOUND:.0e})   {'agrees' if fine else 'FAILS'}")
    return agree


def step_times(runs: Mapping[str, Run]) -> dict[str, float]:
    """The median step in microseconds. They step in turns, as a hot loop of one would not be like training."""
    times: dict[str, list[int]] = {name: [] for name in runs}
    for _ in range(TIMED_STEPS):
        for name, run in runs.items():
            start = time.perf_counter_ns()
            CONTESTANTS[name].step(run.optimizer)
            times[name].append(time.perf_counter_ns() - start)
    return {name: median(values) / 1e3 for name, values in times.items()}


def table(runs: Mapping[str, Run], times: Mapping[str, float]) -> str:
    columns = f"{'optimizer':<38}{'test accuracy':>14}{'exact zeros':>13}{'step':>10}   torch's time / ours"
    rows = [columns, "-" * (len(columns) + 30)]
    for name, run in runs.items():
        against = CONTESTANTS[name].against
        label = f"torchclip {name}" if against else name
        row = f"{label:<38}{run.test_accuracy:>13.1%} {run.zeros[-1]:>11.1%} {times[name]:>8.0f} µs"
        rows.append(row + (f"{times[against] / times[name]:>8.1f} x  {against}" if against else ""))
    return "\n".join(rows)


def draw(runs: Mapping[str, Run], steps: int) -> None:
    """results/demo.png: the loss curves, torch's under ours, and the exact zeros over time; an epoch has ``steps``."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 5), width_ratios=(1.6, 1), layout="constrained")
    mean = np.full(steps, 1 / steps)
    ours = [name for name, contestant in CONTESTANTS.items() if contestant.against]
    # Paul Tol's "bright" colours, which colour-blind readers can tell apart; paler ones lie under the dashed curves.
    styles: dict[str, dict[str, Any]] = {
        name: {"color": color, "linewidth": 7, "label": name}
        for name, color in zip(REPEATS.values(), ("#BBCCEE", "#FFCCCC"), strict=True)
    }
    for name, color in zip(ours, ("#4477AA", "#228833", "#CCBB44", "#66CCEE", "#EE6677", "#AA3377"), strict=True):
        styles[name] = {"color": color, "linestyle": "--" if name in REPEATS else "-", "label": f"torchclip {name}"}
    for name, style in styles.items():
        smooth = np.convolve(runs[name].losses, mean, mode="valid")
        left.plot(np.arange(steps, len(runs[name].losses) + 1) / steps, smooth, **style)
    left.set(yscale="log", ylabel="training loss, mean over the last epoch")
    left.set_title("Training loss (wide: torch; dashed on it: torchclip with the same arguments)")
    left.legend(fontsize=9, frameon=False, ncols=2, loc="upper right")
    others = np.max([run.zeros for name, run in runs.items() if name != "GRDA"], axis=0)
    for label, zeros, color in (
        ("GRDA", runs["GRDA"].zeros, "#AA3377"),
        ("the largest of all the others", others, "#777777"),
    ):
        percent = 100 * np.asarray(zeros)
        right.plot(np.arange(1, len(percent) + 1) / steps, percent, color=color, label=f"{label}: {percent[-1]:.0f} %")
    right.set(ylim=(-3, 100), ylabel="parameters that are exactly 0 (%)", title="Exact zeros")
    right.legend(frameon=False)
    for axes in (left, right):
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PICTURE, dpi=130)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.demo", description="torchclip beside torch on real digits."
    )
    parser.add_argument("--epochs", type=int, default=10, help="how long every optimizer trains (default 10)")
    epochs = parser.parse_args(arguments).epochs

    threads = torch.get_num_threads()
    digits = Digits.load()
    torch.set_num_threads(1)  # enough for images of 8 × 8, and the same result whatever the number of cores
    runs, doubles = train_all(digits, epochs)
    torch.set_num_threads(threads)
    grda = runs["GRDA"].optimizer
    assert isinstance(grda, torchclip.GRDA)

    correct = agreement(doubles)
    counted, reported = runs["GRDA"].zeros[-1], float(grda.sparsity())
    if abs(counted - reported) > 1e-6:
        correct = False
        print(f"FAILS: GRDA.sparsity() says {reported:.6f}, and the model has {counted:.6f} exact zeros")
    print(f"\ntorch {torch.__version__}, {threads} threads; torchclip {torchclip.__version__}, backend {grda.backend}")
    print("A step is everything after the backward pass, clipping included; the median of steps in turns.\n")
    print(table(runs, step_times(runs)))
    if grda.backend == "reference":
        print("\nThe compiled kernels are missing, so the times are the reference path's: see python -m torchclip.info")
    draw(runs, digits.steps_per_epoch)
    print(f"\n{PICTURE}: the loss curves, and the exact zeros over time")
    return 0 if correct else 1


if __name__ == "__main__":
    sys.exit(main())
