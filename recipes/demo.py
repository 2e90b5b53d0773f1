"""``python -m recipes.demo``: torchclip's optimizers beside torch's on real handwritten digits.

Every optimizer trains the same network from the same start on the same batches. torchclip's SGD and AdamW must repeat
torch's loss curves to rounding, or the demo fails. It ends with one table and results/demo.png.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

import torchclip
from recipes.contestants import CONTESTANTS, Contestant
from recipes.digits import Digits, accuracy, exact_zeros, make_model, train
from recipes.plot import draw
from recipes.timing import step_times

FLOAT64_EPOCHS = 2
SEED = 0
PICTURE = Path("results/demo.png")

# Training amplifies rounding errors. In float32 torch's own two implementations can part by hundredths, so ours may
# part from torch by a few times as much, which shows gross errors only. In float64 the curves stay within 1e-14 of each
# other, and a larger difference than this is another formula.
FLOAT64_BOUND = 1e-11
FLOAT32_FACTOR = 10
FLOAT32_FLOOR = 0.01

BY_NAME = {contestant.name: contestant for contestant in CONTESTANTS}
REPEATS = {contestant.name: contestant.repeats for contestant in CONTESTANTS if contestant.repeats}


@dataclass(frozen=True)
class Run:
    """What a training run leaves behind."""

    losses: list[float]  # [steps]
    zeros: list[float]  # [steps], the fraction of parameters that are exactly 0
    test_accuracy: float
    optimizer: torch.optim.Optimizer


def train_one(contestant: Contestant, digits: Digits, epochs: int, progress: tqdm) -> Run:
    progress.set_description(f"{contestant.name:<35}")
    model = make_model(SEED, digits.train_images.dtype)
    optimizer = contestant.make(model.parameters())
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * digits.steps_per_epoch)
    losses, zeros = [], []
    for loss in train(model, optimizer, digits.batches(epochs, SEED), contestant.step(optimizer)):
        scheduler.step()
        losses.append(loss)
        zeros.append(exact_zeros(model))
        progress.update()
    return Run(losses, zeros, accuracy(model, digits.test_images, digits.test_labels), optimizer)


def train_all(digits: Digits, epochs: int) -> tuple[dict[str, Run], dict[str, Run]]:
    """Every contestant in float32, and in float64 the pairs that must agree."""
    in_pairs = [BY_NAME[name] for pair in REPEATS.items() for name in pair]
    steps = digits.steps_per_epoch * (epochs * len(CONTESTANTS) + FLOAT64_EPOCHS * len(in_pairs))
    with tqdm(total=steps, unit="step", mininterval=0.5, dynamic_ncols=True) as progress:
        runs = {contestant.name: train_one(contestant, digits, epochs, progress) for contestant in CONTESTANTS}
        double = Digits.load(torch.float64)
        doubles = {contestant.name: train_one(contestant, double, FLOAT64_EPOCHS, progress) for contestant in in_pairs}
        progress.set_description("trained")
    return runs, doubles


def largest_difference(ours: Run, theirs: Run) -> float:
    """Between two loss curves; NaN, which no bound admits, where either has one."""
    differences = torch.tensor(ours.losses, dtype=torch.float64) - torch.tensor(theirs.losses, dtype=torch.float64)
    return float(differences.abs().max())


def agreement(runs: dict[str, Run], doubles: dict[str, Run]) -> bool:
    """Prints how far our curves are from torch's, and whether that is rounding."""
    agree = True
    print("\nLargest difference between the loss curves of torchclip and torch:")
    for ours, torchs in REPEATS.items():
        double = largest_difference(doubles[ours], doubles[torchs])
        single = largest_difference(runs[ours], runs[torchs])
        between_torchs = largest_difference(runs[BY_NAME[ours].against or torchs], runs[torchs])
        fine = double <= FLOAT64_BOUND and single <= FLOAT32_FACTOR * max(between_torchs, FLOAT32_FLOOR)
        agree &= fine
        print(
            f"  {ours:<16} float64 {double:.1e} (bound {FLOAT64_BOUND:.0e}), float32 {single:.1e}"
            f" (torch's own two: {between_torchs:.1e})   {'agrees' if fine else 'FAILS'}"
        )
    return agree


def sparsity_is_right(grda: torchclip.GRDA, counted: float) -> bool:
    """Prints GRDA's own count of exact zeros if it is not what was counted in the model."""
    reported = float(grda.sparsity())
    if abs(counted - reported) < 1e-6:
        return True
    print(f"FAILS: GRDA.sparsity() says {reported:.6f}, and the model has {counted:.6f} exact zeros")
    return False


def table(runs: dict[str, Run], times: dict[str, float]) -> str:
    columns = f"{'optimizer':<38}{'test accuracy':>14}{'exact zeros':>13}{'step':>10}   torch's time / ours"
    rows = [columns, "-" * (len(columns) + 30)]
    for name, run in runs.items():
        contestant = BY_NAME[name]
        label = f"torchclip {name}" if contestant.against else name
        row = f"{label:<38}{run.test_accuracy:>13.1%} {run.zeros[-1]:>11.1%} {times[name]:>8.0f} µs"
        if contestant.against:
            row += f"{times[contestant.against] / times[name]:>8.1f} x  {contestant.against}"
        rows.append(row)
    return "\n".join(rows)


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
    times = step_times(digits, SEED)
    grda = runs["GRDA"].optimizer
    assert isinstance(grda, torchclip.GRDA)

    correct = agreement(runs, doubles) & sparsity_is_right(grda, runs["GRDA"].zeros[-1])
    print(f"\ntorch {torch.__version__}, {threads} threads; torchclip {torchclip.__version__}, backend {grda.backend}")
    print("A step is everything after the backward pass, clipping included; the median of interleaved steps.\n")
    print(table(runs, times))
    if grda.backend == "reference":
        print("\nThe compiled kernels are missing, so the times are the reference path's: see python -m torchclip.info")

    others = [run.zeros for name, run in runs.items() if name != "GRDA"]
    ours_and_repeated = [name for name in runs if BY_NAME[name].against or name in REPEATS.values()]
    draw(
        PICTURE,
        losses={name: runs[name].losses for name in ours_and_repeated},
        repeats=REPEATS,
        zeros={"GRDA": runs["GRDA"].zeros, "the largest of all the others": list(map(max, *others))},
        steps_per_epoch=digits.steps_per_epoch,
    )
    print(f"\n{PICTURE}: the loss curves, and the exact zeros over time")
    return 0 if correct else 1


if __name__ == "__main__":
    sys.exit(main())
