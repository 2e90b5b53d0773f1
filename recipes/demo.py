"""``python -m recipes.demo``: torchclip's optimizers beside torch's on real handwritten digits.

Every optimizer trains the same network from the same start on the same batches. torchclip's SGD and AdamW must repeat
torch's loss curves to rounding, or the demo fails. It ends with one table and results/demo.png.
"""

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm

import torchclip

FLOAT64_EPOCHS = 2
SEED = 0
PICTURE = Path("results/demo.png")
MAX_NORM = 1.0
BATCH_SIZE = 64

# Training amplifies rounding errors: in float32 torch's own two implementations can part by hundredths. In float64 the
# curves stay within 1e-14 of each other, and a larger difference than this is another formula.
FLOAT64_BOUND = 1e-11


@dataclass(frozen=True)
class Contestant:
    make: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
    repeats: str | None = None  # the contestant of torch's whose loss curve it must have, to rounding
    clips: bool = False  # torch's own optimizers clip by a call before the step


SGD: dict[str, Any] = {"lr": 0.02, "momentum": 0.9, "weight_decay": 5e-4}
ADAMW: dict[str, Any] = {"lr": 2e-3, "weight_decay": 1e-2}
AVERAGED: dict[str, Any] = {"gamma": 0.5, "weight_decay": 5e-4}  # momentum is an average there, so lr is larger

TORCH_SGD, TORCH_ADAMW = "torch SGD fused + clip_grad_norm_", "torch AdamW fused + clip_grad_norm_"

CONTESTANTS = {
    TORCH_SGD: Contestant(lambda p: torch.optim.SGD(p, **SGD, fused=True), clips=True),
    "torchclip SGD(clip=1.0)": Contestant(lambda p: torchclip.SGD(p, **SGD, clip=MAX_NORM), TORCH_SGD),
    "torchclip SGDClip": Contestant(lambda p: torchclip.SGDClip(p, lr=0.5, momentum=0.9, **AVERAGED)),
    "torchclip MomClip": Contestant(lambda p: torchclip.MomClip(p, lr=0.5, momentum=0.9, **AVERAGED)),
    "torchclip MixClip": Contestant(lambda p: torchclip.MixClip(p, lr=1.0, momentum=0.99, nu=0.7, **AVERAGED)),
    TORCH_ADAMW: Contestant(lambda p: torch.optim.AdamW(p, **ADAMW, fused=True), clips=True),
    "torchclip AdamW(clip=1.0)": Contestant(lambda p: torchclip.AdamW(p, **ADAMW, clip=MAX_NORM), TORCH_ADAMW),
    "torch SGD fused, no clip, no momentum": Contestant(lambda p: torch.optim.SGD(p, lr=0.1, fused=True)),
    "torchclip GRDA": Contestant(lambda p: torchclip.GRDA(p, lr=0.1, c=0.05, mu=0.51)),
}
REPEATS = {name: contestant.repeats for name, contestant in CONTESTANTS.items() if contestant.repeats}


class Digits(NamedTuple):
    """scikit-learn's digits, in [0, 1], shuffled once with a fixed seed and split 80 to 20."""

    train_images: Tensor  # [1438, 1, 8, 8]
    train_labels: Tensor  # [1438]
    test_images: Tensor  # [359, 1, 8, 8]
    test_labels: Tensor  # [359]

    @classmethod
    def load(cls, dtype: torch.dtype = torch.float32) -> "Digits":
        from sklearn.datasets import load_digits  # which takes as long to import as all the rest

        digits = load_digits()
        order = torch.randperm(len(digits.images), generator=torch.Generator().manual_seed(0))
        images = torch.tensor(digits.images, dtype=dtype)[order].unsqueeze(1) / 16
        labels = torch.tensor(digits.target)[order]
        tests = len(images) // 5
        return cls(images[tests:], labels[tests:], images[:tests], labels[:tests])

    @property
    def steps_per_epoch(self) -> int:
        return len(self.train_images) // BATCH_SIZE

    def batches(self, epochs: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Full batches, in the same order for every optimizer."""
        generator = torch.Generator().manual_seed(SEED)
        for _ in range(epochs):
            order = torch.randperm(len(self.train_images), generator=generator)
            for batch in order.split(BATCH_SIZE)[: self.steps_per_epoch]:
                yield self.train_images[batch], self.train_labels[batch]


def make_model(dtype: torch.dtype) -> nn.Sequential:
    """Six convolutions with batch normalisation: 72,666 parameters in 20 tensors, most of them small."""
    torch.manual_seed(SEED)
    layers: list[nn.Module] = []
    channels = 1
    for width, stride in ((16, 1), (16, 1), (32, 2), (32, 1), (64, 2), (64, 1)):
        layers += [nn.Conv2d(channels, width, 3, stride, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10)).to(dtype)


@dataclass(frozen=True)
class Run:
    """What a training run leaves behind."""

    losses: list[float]  # [steps]
    zeros: list[float]  # [steps], the fraction of parameters that are exactly 0
    test_accuracy: float


def train(name: str, digits: Digits, epochs: int, progress: tqdm) -> Run:
    progress.set_description(f"{name:<35}")
    contestant, model = CONTESTANTS[name], make_model(digits.train_images.dtype)
    optimizer = contestant.make(model.parameters())
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * digits.steps_per_epoch)
    losses, zeros = [], []
    for images, labels in digits.batches(epochs):
        loss = cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        if contestant.clips:
            nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
        zeros.append(float((nn.utils.parameters_to_vector(model.parameters()) == 0).double().mean()))
        progress.update()
    right = model.eval()(digits.test_images).argmax(1) == digits.test_labels
    return Run(losses, zeros, float(right.float().mean()))


def train_all(digits: Digits, epochs: int) -> tuple[dict[str, Run], dict[str, Run]]:
    """Every contestant in float32, and in float64 the pairs that must agree."""
    in_pairs = [name for pair in REPEATS.items() for name in pair]
    steps = digits.steps_per_epoch * (epochs * len(CONTESTANTS) + FLOAT64_EPOCHS * len(in_pairs))
    with tqdm(total=steps, unit="step", mininterval=0.5, dynamic_ncols=True) as progress:
        runs = {name: train(name, digits, epochs, progress) for name in CONTESTANTS}
        double = Digits.load(torch.float64)
        return runs, {name: train(name, double, FLOAT64_EPOCHS, progress) for name in in_pairs}


def agreement(doubles: Mapping[str, Run]) -> bool:
    """Prints how far our curves are from torch's, and whether that is rounding; NaN in one of them is not."""
    agree = True
    print("\nLargest difference between the loss curves of torchclip and torch, in float64:")
    for ours, torchs in REPEATS.items():
        largest = np.abs(np.subtract(doubles[ours].losses, doubles[torchs].losses)).max()
        fine = bool(largest <= FLOAT64_BOUND)
        agree &= fine
        print(f"  {ours:<26} {largest:.1e} (bound {FLOAT64_BOUND:.0e})   {'agrees' if fine else 'FAILS'}")
    return agree


def draw(runs: Mapping[str, Run], steps: int) -> None:
    """results/demo.png: the loss curves and the exact zeros, torch's wide and pale; an epoch has ``steps``."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 5), layout="constrained")
    for name, run in runs.items():
        style = {"label": name} | ({} if name.startswith("torchclip") else {"linewidth": 7, "alpha": 0.3})
        smooth = np.convolve(run.losses, np.full(steps, 1 / steps), mode="valid")
        left.plot(np.arange(steps, len(run.losses) + 1) / steps, smooth, **style)
        right.plot(np.arange(1, len(run.zeros) + 1) / steps, 100 * np.array(run.zeros), **style)
    left.set(xlabel="epoch", ylabel="training loss, mean over the last epoch", yscale="log")
    right.set(xlabel="epoch", ylabel="parameters that are exactly 0 (%)", ylim=(-3, 100))
    right.legend(frameon=False, fontsize=9)
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
    correct = agreement(doubles)
    backend = torchclip.SGD([torch.zeros(1, requires_grad=True)], lr=0.1).backend
    print(f"\ntorch {torch.__version__}; torchclip {torchclip.__version__}, backend {backend}\n")
    print(f"{'optimizer':<38}{'test accuracy':>14}{'exact zeros':>13}")
    for name, run in runs.items():
        print(f"{name:<38}{run.test_accuracy:>14.1%}{run.zeros[-1]:>13.1%}")
    draw(runs, digits.steps_per_epoch)
    print(f"\n{PICTURE}: the loss curves, and the exact zeros over time")
    return 0 if correct else 1


if __name__ == "__main__":
    sys.exit(main())
