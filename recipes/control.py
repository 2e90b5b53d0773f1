"""``python -m recipes control``: a policy for CartPole by REINFORCE, AdaLoss' application to control in small.

The policy π(a | s) is a network of one hidden layer. A step is a batch of whole episodes, an epoch ten steps::

    A_t = G_t − mean over the batch's episodes of G_t,    G_t = Σ_k discount^k · r_{t+k},  0 after an episode's end
    loss = −Σ A_t log π(a_t | s_t) / (number of time steps in the batch)

Williams 1992, "Simple statistical gradient-following algorithms for connectionist reinforcement learning", with the
mean as the baseline. AdaLoss sees this loss, which is no distance to an optimum: where all episodes are alike, as when
all reach the limit of 500 steps, it is 0, and the step size stays.

    python -m recipes control
    python -m recipes compare --recipe control --metric test_return --run "AdaLoss=--algo adaloss" \\
        --run "SGD=--algo sgd" --run "AdamW=--algo adamw --lr 0.01"
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from recipes.algorithms import options_of
from recipes.command import make_parser, positive, run_recipe
from recipes.data import package
from recipes.training import Loss, Task

_STEPS, _TEST_EPISODES = 10, 10  # of an epoch; of its evaluation
_TRAINING, _TEST = 3, 4  # what seeds are for, beside those of recipes.data (0, 1, 2)


class Episodes(NamedTuple):
    """Episodes that were played at the same time; ``alive`` until each has ended."""

    observations: Tensor  # float32 [times, episodes, 4]
    actions: Tensor  # int64 [times, episodes]
    rewards: Tensor  # float32 [times, episodes], 0 after an episode's end
    alive: Tensor  # bool [times, episodes]


@torch.no_grad()
def play(policy: nn.Module, environments: Any, key: tuple[int, ...], greedy: bool = False) -> Episodes:
    """One episode in every environment, by states and actions that the key alone decides; greedy: the likeliest."""
    draws_seed, states_seed = (int(seed) >> 1 for seed in np.random.SeedSequence(key).generate_state(2))
    draws = torch.Generator().manual_seed(draws_seed)
    states, _ = environments.reset(seed=states_seed)
    alive, times = torch.ones(environments.num_envs, dtype=torch.bool), []
    device = next(policy.parameters()).device
    while alive.any():
        seen = torch.from_numpy(states.astype(np.float32))
        chances = policy(seen.to(device)).float().cpu().softmax(1)
        actions = chances.argmax(1) if greedy else torch.multinomial(chances, 1, generator=draws)[:, 0]
        states, rewards, terminated, truncated, _ = environments.step(actions.numpy())
        times.append((seen, actions, torch.from_numpy(rewards).float() * alive, alive))
        alive = alive & ~torch.from_numpy(terminated | truncated)
    return Episodes(*map(torch.stack, zip(*times, strict=True)))


class ControlTask(Task):
    """REINFORCE. The episodes are played when their step comes, by the policy as it then is."""

    def __init__(self, options: argparse.Namespace, device: torch.device) -> None:
        gymnasium = package("gymnasium", "pip install gymnasium")
        self.model = nn.Sequential(nn.Linear(4, options.hidden), nn.ReLU(), nn.Linear(options.hidden, 2)).to(device)
        counts = (options.episodes, _TEST_EPISODES)
        self._training, self._test = (
            gymnasium.make_vec("CartPole-v1", num_envs=count, vectorization_mode="sync") for count in counts
        )
        self._seed, self._discount, self._device = options.seed, options.discount, device

    def steps(self, epoch: int) -> int:
        return _STEPS

    def batches(self, epoch: int, start: int) -> Iterator[tuple[int, int]]:
        return ((epoch, step) for step in range(start, _STEPS))

    def loss(self, batch: tuple[int, int]) -> Loss:
        played = play(self.model, self._training, (_TRAINING, self._seed, *batch))
        returns = played.rewards.clone()
        for time in range(len(returns) - 2, -1, -1):
            returns[time] += self._discount * returns[time + 1]
        weights = (returns - returns.mean(1, keepdim=True))[played.alive].to(self._device)
        logits = self.model(played.observations[played.alive].to(self._device))
        taken = played.actions[played.alive].to(self._device)
        loss = (weights * cross_entropy(logits, taken, reduction="none")).mean()
        return Loss(loss, loss, self._training.num_envs)

    def evaluate(self) -> dict[str, float]:
        """The mean return of ten episodes in which the likeliest action is taken."""
        test = play(self.model, self._test, (_TEST, self._seed), greedy=True)
        return {"test_return": float(test.rewards.sum(0).mean())}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = make_parser("control", "REINFORCE on CartPole.", epochs="15", algo="adaloss")
    add = parser.add_argument_group("control").add_argument
    add("--episodes", type=partial(positive, least=2), default=8, help="in a step; their mean is the baseline: 8")
    add("--discount", type=float, default=0.99, help="of later rewards, in [0, 1] (default 0.99)")
    add("--hidden", type=positive, default=128, help="units of the policy (default 128)")
    options = parser.parse_args(arguments)
    if options.lr is None and "b0" in options_of(options.algo):
        options.lr = 1.0  # of AdaLoss and its baselines: the steps are then lr / b0 and shorter
    if options.quick:
        options.epochs = [5]
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    return run_recipe("control", options, f"{options.algo}-seed{options.seed}", ControlTask)


if __name__ == "__main__":
    sys.exit(main())
