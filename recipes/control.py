"""``python -m recipes control``: a policy for CartPole by REINFORCE, AdaLoss' application to control in small.

The policy π(a | s) is a network of one hidden layer. A step is a batch of whole episodes, an epoch ten steps::

    A_t = G_t − mean over the batch's episodes of G_t,    G_t = Σ_k discount^k · r_{t+k},  0 after an episode's end
    loss = −Σ A_t log π(a_t | s_t) / (number of time steps in the batch)

Williams 1992, "Simple statistical gradient-following algorithms for connectionist reinforcement learning", with the
mean as the baseline, for every time step its own.

What AdaLoss sees is this loss: b² grows by |loss − c|. It is not a distance to an optimum, as cross-entropy is: its
gradient is the policy's, but its value is how much the batch's episodes differ, times how surprising the actions were.
Where all episodes are alike, as when all reach the limit of 500 steps, it is 0, and b² stays: the default c = 0 lets
the step size fall only as long as there is something to learn from. Another c would make it fall also then.

    python -m recipes control
    python -m recipes compare --recipe control --metric test_return --run "AdaLoss=--algo adaloss" \\
        --run "SGD=--algo sgd" --run "AdamW=--algo adamw --lr 0.01"
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from recipes.algorithms import ALGORITHMS
from recipes.command import make_parser, run_recipe
from recipes.packages import GYMNASIUM, package
from recipes.training import Loss, Task
from recipes.world import World

_ENVIRONMENT, _OBSERVATION, _ACTIONS = "CartPole-v1", 4, 2
_STEPS = 10  # in an epoch
_TEST_EPISODES = 10
_TRAINING, _TEST = 3, 4  # what seeds are for, beside those of recipes.data (0, 1, 2)


def seeds(count: int, *key: int) -> list[int]:
    """``count`` numbers below 2³¹, drawn from the key alone."""
    return [int(number) >> 1 for number in np.random.SeedSequence(key).generate_state(count)]


class Episodes(NamedTuple):
    """Whole episodes, whose time steps stand one after another, first all episodes' first ones."""

    observations: Tensor  # float32 [time steps, 4]
    actions: Tensor  # int64 [time steps]
    times: Tensor  # int64 [time steps], from 0
    numbers: Tensor  # int64 [time steps], of the episode
    rewards: Tensor  # float32 [times, episodes], 0 after an episode's end

    @property
    def returns(self) -> Tensor:
        """[episodes], undiscounted."""
        return self.rewards.sum(0)


@torch.no_grad()
def play(
    policy: nn.Module, environments: Sequence[Any], starts: Sequence[int], draws: torch.Generator | None
) -> Episodes:
    """One episode in every environment, all at once, so that the policy is asked once for a time step.

    Args:
        policy: [n, 4] -> logits [n, 2].
        starts: the seeds of the first states.
        draws: of the actions, on the CPU; None takes the likeliest action.
    """
    device = next(policy.parameters()).device
    states = {number: environments[number].reset(seed=start)[0] for number, start in enumerate(starts)}
    observations, actions, times, numbers = [], [], [], []
    rewards: list[Tensor] = []
    while states:
        seen = torch.from_numpy(np.stack(list(states.values())).astype(np.float32))
        logits = policy(seen.to(device)).float().cpu()
        chosen = logits.argmax(1) if draws is None else torch.multinomial(logits.softmax(1), 1, generator=draws)[:, 0]
        observations.append(seen)
        actions.append(chosen)
        times.append(torch.full_like(chosen, len(rewards)))
        numbers.append(torch.tensor(list(states)))
        row = torch.zeros(len(environments))
        for number, action in zip(list(states), chosen.tolist(), strict=True):
            states[number], reward, terminated, truncated, _ = environments[number].step(action)
            row[number] = reward
            if terminated or truncated:
                del states[number]
        rewards.append(row)
    return Episodes(
        torch.cat(observations), torch.cat(actions), torch.cat(times), torch.cat(numbers), torch.stack(rewards)
    )


def advantages(episodes: Episodes, discount: float) -> Tensor:
    """[time steps]: the discounted return from each on, less the mean of all episodes' at the same time."""
    to_go = torch.zeros_like(episodes.rewards)
    later = torch.zeros_like(episodes.rewards[0])
    for time in range(len(to_go) - 1, -1, -1):
        later = episodes.rewards[time] + discount * later
        to_go[time] = later
    return (to_go - to_go.mean(1, keepdim=True))[episodes.times, episodes.numbers]


class ControlTask(Task):
    """REINFORCE. The episodes are played when their step comes, by the policy as it then is."""

    def __init__(self, options: argparse.Namespace, device: torch.device) -> None:
        gymnasium = package("gymnasium", GYMNASIUM)
        if options.episodes < 2:
            raise ValueError(f"--episodes {options.episodes}: wanted at least 2, whose mean is the baseline")
        if not 0 <= options.discount <= 1:
            raise ValueError(f"--discount {options.discount}: wanted in [0, 1]")
        if options.hidden < 1:
            raise ValueError(f"--hidden {options.hidden}: wanted at least 1")
        hidden = options.hidden
        self.model = nn.Sequential(nn.Linear(_OBSERVATION, hidden), nn.ReLU(), nn.Linear(hidden, _ACTIONS)).to(device)
        self._environments = [
            gymnasium.make(_ENVIRONMENT, disable_env_checker=True) for _ in range(max(options.episodes, _TEST_EPISODES))
        ]
        self._seed, self._episodes, self._discount, self._device = (
            options.seed,
            options.episodes,
            options.discount,
            device,
        )
        self._return_sum, self._played = 0.0, 0

    def steps(self, epoch: int) -> int:
        return _STEPS

    def batches(self, epoch: int, start: int) -> Iterator[tuple[int, int]]:
        return ((epoch, step) for step in range(start, _STEPS))

    def loss(self, batch: tuple[int, int]) -> Loss:
        draws, *starts = seeds(1 + self._episodes, _TRAINING, self._seed, *batch)
        episodes = play(self.model, self._environments[: self._episodes], starts, torch.Generator().manual_seed(draws))
        self._return_sum += float(episodes.returns.sum())
        self._played += self._episodes
        weights = advantages(episodes, self._discount).to(self._device)
        logits = self.model(episodes.observations.to(self._device))
        loss = (weights * cross_entropy(logits, episodes.actions.to(self._device), reduction="none")).mean()
        return Loss(loss, loss, self._episodes)

    def evaluate(self) -> dict[str, float]:
        """The mean return in training, and that of ten episodes in which the likeliest action is taken."""
        starts = seeds(_TEST_EPISODES, _TEST, self._seed)
        test = play(self.model, self._environments[:_TEST_EPISODES], starts, draws=None)
        return {"mean_return": self._return_sum / max(self._played, 1), "test_return": float(test.returns.mean())}

    def end_epoch(self, metrics: Mapping[str, float]) -> None:
        self._return_sum, self._played = 0.0, 0

    def state_dict(self) -> dict[str, Any]:
        return {"return_sum": self._return_sum, "played": self._played}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._return_sum, self._played = state["return_sum"], state["played"]


def make_task(options: argparse.Namespace, device: torch.device, world: World) -> ControlTask:
    world.refuse_others()
    return ControlTask(options, device)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = make_parser("control", "REINFORCE on CartPole.", epochs="15", algo="adaloss")
    add = parser.add_argument_group("control").add_argument
    add("--episodes", type=int, default=8, help="in a step (default 8)")
    add("--discount", type=float, default=0.99, help="of later rewards, in [0, 1] (default 0.99)")
    add("--hidden", type=int, default=128, help="units of the policy (default 128)")
    options = parser.parse_args(arguments)
    if options.lr is None and "b0" in ALGORITHMS[options.algo].options:
        options.lr = 1.0  # of AdaLoss and its baselines: the steps are then lr / b0 and shorter
    if options.quick:
        options.epochs = [5]
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    return run_recipe("control", options, f"{options.algo}-seed{options.seed}", make_task)
