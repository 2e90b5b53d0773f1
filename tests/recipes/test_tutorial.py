"""`python -m recipes tutorial` in a few steps: curves that are torch's, what is printed, and the three pictures."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import torchclip
from recipes import tutorial


def test_it_is_a_port_with_the_losses_of_torch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tutorial.main(["--steps", "30", "--seeds", "1", "--result-dir", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    apart = float(said.splitlines()[0].rpartition(" ")[2])
    assert said.startswith("30 losses of torch.optim") and apart < 1e-10
    assert all(name in said for name in tutorial.POLICIES)
    for name in ("port", "norm", "policies"):
        assert (tmp_path / f"tutorial-{name}.png").stat().st_size > 5000


def test_the_sum_is_of_the_two_marked_numbers() -> None:
    sequences, sums = tutorial.draw_batch(torch.Generator().manual_seed(0))
    numbers, marks = sequences.unbind(2)
    assert (marks.sum(1) == 2).all() and (marks[:, : tutorial.LENGTH // 2].sum(1) == 1).all()
    torch.testing.assert_close((numbers * marks).sum(1, keepdim=True), sums, rtol=0, atol=0)


def test_a_policy_bounds_what_the_norm_measures() -> None:
    """The first gradients are what the tutorial says: far beyond the number that is clipped to."""
    run = tutorial.train(tutorial.clipped(1.0), steps=2, seed=0)
    assert run.norms[0] > 10 and run.losses[1] < run.losses[0]
    free = tutorial.train(tutorial.clipped(torchclip.ClipByGlobalNorm(float("inf"))), steps=2, seed=0)
    assert free.norms[0] == pytest.approx(run.norms[0]) and free.losses[1] > free.losses[0]


def test_a_mean_of_the_last_values() -> None:
    assert tutorial.smooth([4, 2, 0, 0], window=2) == [4, 3, 1, 0]
