"""``python -m recipes theory``: the setting of AdaLoss's theorems, and what is seen in it.

Wu, Xie, Du, Ward (AAAI 2022, arXiv 2109.08282) prove that gradient descent with steps eta / b and
b² ← b² + alpha (f − f*) converges linearly from every b0: in linear regression, and in two-layer networks that are wide
enough. Here both are run by full gradients in float64, AdaLoss beside AdaGradNorm and beside constant and
square-root-decayed steps, all with eta = alpha = 1::

    f(w) = ‖X w − y‖² / (2 n),                                 y = X w*, with noise or without
    f(W) = ½ ‖u − y‖²,   u_i = m^(−1/2) Σ_r a_r relu(w_r · x_i),  a_r = ±1 fixed, w_r ~ N(0, I), ‖x_i‖ = 1

What the theorems say of b follows in three lines. Let L and mu be the largest and the smallest eigenvalue that the
gradient meets: of XᵀX / n, and of the network's Gram matrix at its start. From the first step T on with b_T ≥ eta L,

    f_{t+1} − f* ≤ (1 − eta mu / b_{t+1}) (f_t − f*),    so that    Σ (f_t − f*) / b_{t+1} ≤ (f_T − f*) / (eta mu),
    b_{t+1} − b_t ≤ alpha (f_t − f*) / b_{t+1},          and        b ≤ b_T + alpha (f_T − f*) / (eta mu) for ever.
"""

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

import torchclip
from recipes.data.images import load_images

GOAL = 1e-6  # of f − f*
_ALGORITHMS: Mapping[str, Callable[..., Any]] = {
    "AdaLoss": lambda w, b0, best: torchclip.AdaLoss([w], lr=1.0, b0=b0, c=best),
    "AdaGradNorm": lambda w, b0, best: torchclip.AdaGradNorm([w], lr=1.0, b0=b0),
    "SGD_Constant": lambda w, b0, best: torchclip.SGD([w], lr=1.0 / b0),
    "SGD_DecaySqrt": lambda w, b0, best: torchclip.SGD([w], lr=1.0, step_size=torchclip.SqrtDecay(b0=b0)),
}
_COLORS = ("#4477AA", "#228833", "#EE6677", "#CCBB44")


@dataclass(frozen=True)
class Problem:
    """f, where it starts, its lowest value, and the eigenvalues mu and L."""

    name: str
    loss: Callable[[Tensor], Tensor]
    start: Tensor
    eigenvalues: tuple[float, float]
    best: float = 0.0


def regression(noise: float, n: int = 1000, d: int = 20, seed: int = 0) -> Problem:
    """Gaussian X [n, d] and w*, from w = 0."""
    draws = torch.Generator().manual_seed(seed)
    x, w, e = (torch.randn(*shape, generator=draws, dtype=torch.float64) for shape in ((n, d), (d,), (n,)))
    y = x @ w + noise * e
    nearest = torch.linalg.lstsq(x, y[:, None]).solution[:, 0]

    def loss(w: Tensor) -> Tensor:
        return (x @ w - y).square().sum() / (2 * n)

    low, *_, high = torch.linalg.eigvalsh(x.T @ x / n).tolist()
    return Problem(f"linear regression, noise {noise:g}", loss, torch.zeros_like(w), (low, high), float(loss(nearest)))


def network(name: str, x: Tensor, y: Tensor, width: int, seed: int = 0) -> Problem:
    """Two layers over unit rows x [n, d], of which the first is trained."""
    draws = torch.Generator().manual_seed(seed)
    a = torch.randint(2, (width,), generator=draws).double() * 2 - 1
    start = torch.randn(x.shape[1], width, generator=draws, dtype=torch.float64)

    def loss(w: Tensor) -> Tensor:
        return ((x @ w).relu() @ a / math.sqrt(width) - y).square().sum() / 2

    active = (x @ start > 0).double()
    low, *_, high = torch.linalg.eigvalsh((x @ x.T) * (active @ active.T) / width).tolist()
    return Problem(f"network on {name}, m = {width:,}", loss, start, (low, high))


def gaussian(n: int = 100, d: int = 50, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Unit rows [n, d], and labels N(0, 1)."""
    draws = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=draws, dtype=torch.float64)
    return x / x.norm(dim=1, keepdim=True), torch.randn(n, generator=draws, dtype=torch.float64)


def digits(data_dir: Path, n: int = 100) -> tuple[Tensor, Tensor]:
    """The first n zeros and ones of MNIST, unit rows [n, n], with labels −1 and 1.

    The rows are in an orthonormal basis of the space that they span: weights move in that space alone, and a normal
    vector is normal in every basis, so that nothing changes but the work.
    """
    images = load_images("mnist", data_dir)
    chosen = (images.train_labels < 2).nonzero()[:n, 0]
    x = images.train_images[chosen].flatten(1).double()
    x = x @ torch.linalg.qr(x.T).Q
    return x / x.norm(dim=1, keepdim=True), images.train_labels[chosen].double() * 2 - 1


@dataclass
class Run:
    """What came of one algorithm with one b0."""

    problem: Problem
    algorithm: str
    b0: float
    gaps: list[float] = field(default_factory=list)  # f − f* before every step
    b: float = math.nan  # at the end, of AdaLoss
    bound: float = math.nan  # of b

    @property
    def steps(self) -> float:
        """To the goal; infinite where it was not reached."""
        return len(self.gaps) - 1 if self.gaps[-1] <= GOAL else math.inf

    def told(self) -> str:
        if math.isfinite(self.steps):
            return f"{self.steps:,.0f}"
        return f"{self.gaps[-1]:.0e}" if self.gaps[-1] < self.gaps[0] else "diverged"

    def rate(self) -> tuple[float, float]:
        """log(f_t − f*) falls by so much a step over the second half, by least squares; and the fit's R²."""
        logs = np.log(self.gaps[len(self.gaps) // 2 :])
        slope, _ = np.polyfit(np.arange(len(logs)), logs, 1) if len(logs) > 2 else (math.nan, 0)
        return -slope, np.corrcoef(np.arange(len(logs)), logs)[0, 1] ** 2 if len(logs) > 2 else math.nan


def descend(problem: Problem, algorithm: str, b0: float, limit: int) -> Run:
    """Full gradients until the goal, the limit, or a loss a million times that of the start."""
    run = Run(problem, algorithm, b0)
    w = torch.nn.Parameter(problem.start.clone())
    optimizer = _ALGORITHMS[algorithm](w, b0, problem.best)
    adaloss, (low, high) = isinstance(optimizer, torchclip.AdaLoss), problem.eigenvalues
    run.b = b0 if adaloss else math.nan
    while True:
        optimizer.zero_grad()
        loss = problem.loss(w)
        run.gaps.append(float(loss.detach()) - problem.best)
        if adaloss and math.isnan(run.bound) and run.b >= high:
            run.bound = run.b + run.gaps[-1] / low
        if not GOAL < run.gaps[-1] < 1e6 * run.gaps[0] or len(run.gaps) > limit:
            return run
        loss.backward()
        optimizer.step(**({"loss": loss.detach()} if adaloss else {}))
        run.b = 1 / float(optimizer.metrics()["lr_scale"]) if adaloss else math.nan


def tables(runs: Sequence[Run]) -> Iterator[str]:
    """Steps to the goal; and of AdaLoss b, its bound, and the rate."""
    for problem in dict.fromkeys(run.problem.name for run in runs):
        here = [run for run in runs if run.problem.name == problem]
        b0s = list(dict.fromkeys(run.b0 for run in here))
        low, high = here[0].problem.eigenvalues
        yield f"\n**{problem}**: mu = {low:.3g}, L = {high:.3g}; f − f* is {here[0].gaps[0]:.3g} at the start\n"
        yield "| b0 | " + " | ".join(f"{b0:g}" for b0 in b0s) + " |\n|---" + "|---" * len(b0s) + "|"
        for name in dict.fromkeys(run.algorithm for run in here):
            yield f"| {name} | " + " | ".join(run.told() for run in here if run.algorithm == name) + " |"
        ours = [run for run in here if run.algorithm == "AdaLoss"]
        yield "| b at the end | " + " | ".join(f"{run.b:.4g}" for run in ours) + " |"
        yield "| its bound | " + " | ".join(f"{run.bound:.4g}" for run in ours) + " |"
        rates = [run.rate() for run in ours]
        yield "| rate seen | " + " | ".join(f"{rate:.3g}, R² {fit:.4f}" for rate, fit in rates) + " |"
        yield "| rate proven, mu / b | " + " | ".join(f"{low / run.b:.3g}" for run in ours) + " |"


def draw(runs: Sequence[Run], path: Path) -> None:
    """Steps to the goal over b0, a panel for every problem; what did not reach it is at the top edge."""
    names = list(dict.fromkeys(run.problem.name for run in runs))
    figure, grid = plt.subplots(2, -(-len(names) // 2), figsize=(14, 7), layout="constrained", sharey=True)
    most = 2 * max((run.steps for run in runs if math.isfinite(run.steps)), default=1.0)
    for axes, problem in zip(grid.flat, names, strict=False):
        for color, name in zip(_COLORS, _ALGORITHMS, strict=True):
            here = [run for run in runs if run.problem.name == problem and run.algorithm == name]
            x, y = [run.b0 for run in here], [max(1.0, min(run.steps, most)) for run in here]
            axes.plot(x, y, color=color, label=name, alpha=0.6)
            for reached, marker in ((True, "o"), (False, "x")):
                chosen = [index for index, run in enumerate(here) if math.isfinite(run.steps) == reached]
                axes.scatter([x[i] for i in chosen], [y[i] for i in chosen], color=color, marker=marker, zorder=3)
        axes.axvline(here[0].problem.eigenvalues[1], color="#BBBBBB", linestyle="--", linewidth=1)
        axes.set_title(problem, fontsize=9)
        axes.set(xscale="log", yscale="log", xlabel="b0 (dashed: L)")
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid.flat[len(names) :]:
        axes.remove()
    for axes in grid[:, 0]:
        axes.set_ylabel(f"steps to f − f* = {GOAL:g} (×: not reached)")
    grid.flat[0].legend(frameon=False, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m recipes theory", description="AdaLoss's theorems, run.")
    add = parser.add_argument
    add(
        "--widths",
        type=int,
        nargs="+",
        default=[100, 300, 1000, 3000, 10_000],
        help="m of the networks on Gaussian data",
    )
    add("--steps", type=int, default=5000, help="after which a run ends (default 5000)")
    add("--data-dir", type=Path, default=Path("data"), help="where mnist.npz lies; without it, no digits")
    add("--result-dir", type=Path, default=Path("results/theory"), help="default results/theory")
    add("--quick", action="store_true", help="one small network, three b0")
    options = parser.parse_args(arguments)
    b0s = [1e-2, 1.0, 1e2] if options.quick else [10.0**power for power in range(-3, 4)]
    problems = [regression(noise) for noise in (0.0, 1.0)]
    problems += [network("Gaussian data", *gaussian(), m) for m in ([100] if options.quick else options.widths)]
    if (options.data_dir / "mnist.npz").is_file() and not options.quick:
        problems.append(network("digits 0 and 1", *digits(options.data_dir), 1000))
    cases = list(product(problems, _ALGORITHMS, b0s))
    bar = tqdm(cases, unit="run", disable=None)
    runs = [descend(problem, algorithm, b0, options.steps) for problem, algorithm, b0 in bar]
    text = "\n".join(tables(runs)) + "\n"
    draw(runs, options.result_dir / "figure.png")
    (options.result_dir / "table.md").write_text(text)
    print(f"{text}\n{options.result_dir}/figure.png, {options.result_dir}/table.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
