"""`python -m recipes theory`: the eigenvalues are those of the losses, and what is proven is seen."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from recipes import theory


def test_eigenvalues_are_those_of_the_loss() -> None:
    regression = theory.regression(noise=1.0, n=40, d=5)
    hessian = torch.autograd.functional.hessian(regression.loss, regression.start)
    low, *_, high = torch.linalg.eigvalsh(hessian).tolist()
    assert regression.eigenvalues == pytest.approx((low, high))
    x, y = theory.gaussian(n=6, d=4)
    network = theory.network("few", x, y, width=30)
    # The Gram matrix of the network is that of the gradients of its outputs: u = y + residuals of the loss.
    a = torch.randint(2, (30,), generator=torch.Generator().manual_seed(0)).double() * 2 - 1

    def outputs(w: torch.Tensor) -> torch.Tensor:
        return (x @ w).relu() @ a / math.sqrt(30)

    assert float(network.loss(network.start)) == pytest.approx(float((outputs(network.start) - y).square().sum() / 2))
    slopes = torch.autograd.functional.jacobian(outputs, network.start).flatten(1)
    low, *_, high = torch.linalg.eigvalsh(slopes @ slopes.T).tolist()
    assert network.eigenvalues == pytest.approx((low, high))


@pytest.mark.parametrize("b0", [1e-2, 1.0, 30.0])
@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_linear_regression_converges_as_proven(b0: float, noise: float) -> None:
    problem = theory.regression(noise)
    run = theory.descend(problem, "AdaLoss", b0, limit=2000)
    low, _ = problem.eigenvalues
    assert run.steps < 1000 and b0 < run.b <= run.bound
    # b by hand: of all losses but the last, which no step has seen.
    assert run.b == pytest.approx(math.sqrt(b0**2 + sum(run.gaps[:-1])))
    rate, fit = run.rate()
    assert fit > 0.99 and rate >= -math.log(1 - low / run.b)


def test_steps_that_are_too_long_diverge() -> None:
    run = theory.descend(theory.regression(0.0), "SGD_Constant", 1e-2, limit=2000)
    assert run.told() == "diverged" and run.steps == math.inf
    short = theory.descend(theory.regression(0.0), "SGD_Constant", 1e3, limit=10)
    assert short.steps == math.inf and short.told() == "1e+01"


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert theory.main(["--quick", "--steps", "60", "--result-dir", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert said.startswith((tmp_path / "table.md").read_text())
    assert said.count("| AdaLoss |") == 3 and "| AdaLoss | 44 | 46 |" in said
    assert (tmp_path / "figure.png").stat().st_size > 10_000
