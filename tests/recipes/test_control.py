"""`python -m recipes control`: REINFORCE by its definition, episodes by their seeds, and a policy that improves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from recipes import control
from recipes.run_folder import read_log
from stopped_runs import check_stopped_run

SMALL = ["--hidden", "16", "--episodes", "3", "--epochs", "2"]


def gymnasium() -> Any:
    return pytest.importorskip("gymnasium")


def test_advantage_is_the_return_less_the_mean_of_the_episodes() -> None:
    rewards = torch.tensor([[1.0, 1.0], [1.0, 1.0], [0.0, 1.0]])  # the first episode ends after two steps
    episodes = control.Episodes(
        torch.zeros(5, 4),
        torch.zeros(5, dtype=torch.int64),
        torch.tensor([0, 0, 1, 1, 2]),
        torch.tensor([0, 1, 0, 1, 1]),
        rewards,
    )
    # Returns 1.5 and 1.75, 1 and 1.5, 0 and 1.
    expected = torch.tensor([-0.125, 0.125, -0.25, 0.25, 0.5])
    torch.testing.assert_close(control.advantages(episodes, 0.5), expected)
    assert episodes.returns.tolist() == [2.0, 3.0]


def test_seeds_come_from_the_key_alone() -> None:
    assert control.seeds(4, 3, 0, 1, 2) == control.seeds(4, 3, 0, 1, 2)
    keys = [(0, 0), (0, 1), (1, 0)]
    drawn = [control.seeds(3, 3, 0, *key) for key in keys]
    assert len({number for numbers in drawn for number in numbers}) == 9
    assert all(0 <= number < 2**31 for numbers in drawn for number in numbers)


def test_episodes_are_whole_and_the_same_for_the_same_seeds() -> None:
    make = gymnasium().make
    torch.manual_seed(0)
    policy = nn.Linear(4, 2)
    environments = [make("CartPole-v1") for _ in range(3)]

    def played(draws: int | None) -> control.Episodes:
        generator = None if draws is None else torch.Generator().manual_seed(draws)
        return control.play(policy, environments, [5, 6, 7], generator)

    first = played(1)
    assert all(torch.equal(one, other) for one, other in zip(first, played(1)))
    assert not all(torch.equal(one, other) for one, other in zip(first, played(2)))
    steps = first.numbers.bincount().float()
    assert torch.equal(first.returns, steps) and steps.min() >= 5
    assert len(set(first.observations[:3, 0].tolist())) == 3  # of another start each
    greedy = played(None)
    assert torch.equal(greedy.actions, policy(greedy.observations).argmax(1))


def test_loss_is_reinforces(tmp_path: Path) -> None:
    gymnasium()
    options = control.parse([*SMALL, "--quiet"])
    torch.manual_seed(0)
    task = control.ControlTask(options, torch.device("cpu"))
    loss = task.loss((0, 0))
    draws, *starts = control.seeds(4, 3, 0, 0, 0)
    episodes = control.play(task.model, task._environments[:3], starts, torch.Generator().manual_seed(draws))
    chosen = task.model(episodes.observations).log_softmax(1)[range(len(episodes.actions)), episodes.actions]
    expected = -(control.advantages(episodes, 0.99) * chosen).mean()
    torch.testing.assert_close(loss.backward, expected)
    metrics = task.evaluate()
    assert metrics["mean_return"] == pytest.approx(float(episodes.returns.mean()))


def test_policy_improves(tmp_path: Path) -> None:
    gymnasium()
    assert control.main(["--epochs", "3", "--episodes", "6", "--quiet", "--result-dir", str(tmp_path)]) == 0
    header, *epochs, _ = read_log(tmp_path)
    assert header["arguments"]["algo"] == "adaloss" and epochs[0]["lr"] == 1.0
    assert max(row["test_return"] for row in epochs) > 100
    assert epochs[-1]["mean_return"] > 2 * 20  # an untrained policy lasts about 20 steps


def test_stopped_run_goes_on(tmp_path: Path) -> None:
    gymnasium()
    check_stopped_run(control.main, SMALL, tmp_path, stop=13)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--episodes", "1"], "--episodes 1: wanted at least 2"),
        (["--discount", "1.5"], "--discount 1.5: wanted in [0, 1]"),
        (["--hidden", "0"], "--hidden 0: wanted at least 1"),
    ],
)
def test_impossible_option(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gymnasium()
    assert control.main([*arguments, "--result-dir", str(tmp_path)]) == 2
    assert words in capsys.readouterr().err


def test_gymnasium_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gymnasium", None)
    assert control.main(["--result-dir", str(tmp_path)]) == 2
    assert "gymnasium does not import" in (said := capsys.readouterr().err) and "pip install gymnasium" in said
