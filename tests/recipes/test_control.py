"""`python -m recipes control`: REINFORCE by its definition, episodes by their seeds, and a policy that improves."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from recipes import control
from recipes.run_folder import read_log
from stopped_runs import check_stopped_run

SMALL = ["--hidden", "16", "--episodes", "3", "--epochs", "2"]


def task() -> control.ControlTask:
    pytest.importorskip("gymnasium")
    torch.manual_seed(0)
    return control.ControlTask(control.parse([*SMALL, "--quiet"]), torch.device("cpu"))


def test_episodes_are_whole_and_the_same_for_the_same_key() -> None:
    of = task()

    def played(*key: int, **greedy: Any) -> control.Episodes:
        return control.play(of.model, of._training, key, **greedy)

    first = played(3, 0, 0, 0)
    assert all(torch.equal(one, other) for one, other in zip(first, played(3, 0, 0, 0)))
    assert not torch.equal(first.observations[0], played(3, 0, 0, 1).observations[0])
    assert len(set(first.observations[0, :, 0].tolist())) == 3  # of another start each
    assert torch.equal(first.rewards, first.alive.float()) and first.alive.sum(0).min() >= 5
    assert torch.equal(first.alive, first.alive.cummin(0).values), "no episode goes on after its end"
    # CartPole ends where the pole leans by more than 12 degrees, or the cart has left.
    inside = (first.observations[..., 2].abs() <= 0.2095) & (first.observations[..., 0].abs() <= 2.4)
    assert inside[first.alive].all()
    greedy = played(3, 0, 0, 0, greedy=True)
    assert torch.equal(greedy.actions, of.model(greedy.observations).argmax(2))


def test_loss_is_reinforces() -> None:
    of = task()
    loss = of.loss((0, 0))
    played = control.play(of.model, of._training, (3, 0, 0, 0))
    logs = of.model(played.observations).log_softmax(2).gather(2, played.actions[..., None])[..., 0]
    powers = 0.99 ** torch.arange(len(logs))
    # G_t = (sum from t on of discount^s r_s) / discount^t, less the mean of the episodes at the same time.
    returns = (played.rewards * powers[:, None]).flip(0).cumsum(0).flip(0) / powers[:, None]
    terms = ((returns - returns.mean(1, keepdim=True)) * logs)[played.alive]
    torch.testing.assert_close(loss.backward, -terms.mean())


def test_policy_improves(tmp_path: Path) -> None:
    pytest.importorskip("gymnasium")
    assert control.main(["--epochs", "3", "--episodes", "6", "--quiet", "--result-dir", str(tmp_path)]) == 0
    header, *epochs, _ = read_log(tmp_path)
    assert header["arguments"]["algo"] == "adaloss" and epochs[0]["lr"] == 1.0
    assert max(row["test_return"] for row in epochs) > 5 * 9.5  # the likeliest action of an untrained one: about 9


def test_stopped_run_goes_on(tmp_path: Path) -> None:
    pytest.importorskip("gymnasium")
    check_stopped_run(control.main, SMALL, tmp_path, stop=13)


def test_mistakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        control.main(["--episodes", "1"])
    assert "'1' is not a whole number of at least 2" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    assert control.main(["--result-dir", str(tmp_path)]) == 2
    assert "gymnasium does not import" in (said := capsys.readouterr().err) and "pip install gymnasium" in said
