"""``--algo`` and its options, every optimizer of the four papers by name; and ``--schedule``, of lr and of gamma.

A schedule takes gamma along: where lr is divided by ten, so is a clipping algorithm's threshold.
"""

import argparse
import inspect
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from torch import nn
from torch.optim import Optimizer

import torchclip
from torchclip.create import optimizer_class
from torchclip.step.fused_optimizer import FusedOptimizer

# Each with its defaults where they should differ from the class's own.
ALGORITHMS: Mapping[str, Mapping[str, Any]] = {
    # Zhang et al. 2020
    "sgd": {"lr": 0.1},
    "normalized_sgd": {"lr": 0.1},
    "sgd_clip": {"lr": 0.1, "gamma": 1.0},
    "mom_clip": {"lr": 1.0, "gamma": 1.0},
    "mix_clip": {"lr": 1.0, "gamma": 1.0},
    # The collection
    "momentum": {"lr": 0.1},
    "nesterov": {"lr": 0.1},
    "sgdw": {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4},
    "rmsprop": {"lr": 1e-3, "alpha": 0.9},
    **{name: {} for name in ("adam", "adamw", "radam", "radamw", "adagrad")},
    "adam_l2": {"weight_decay": 1e-4},
    "nadam": {"lr": 1e-3},
    # Chao et al. 2020
    "grda": {"lr": 0.1, "c": 0.005, "mu": 0.51},
    # Bungert et al. 2022
    "lin_breg": {"lr": 0.1, "lam": 0.1},
    "ada_breg": {"lr": 1e-3, "lam": 0.1},
    # Wu et al. 2022
    **{name: {} for name in ("adaloss", "adagrad_norm")},
    **{name: {"lr": 0.1} for name in ("sgd_constant", "sgd_sqrt")},
}

# Names that create_optimizer does not have: what they are of it, and their options beside its own. sgd_constant steps
# by lr / b0 for ever, and sgd_sqrt by lr / sqrt(b0² + alpha t).
_OTHERS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "adam_l2": ("adam", ()),
    "sgd_constant": ("sgd", ("b0",)),
    "sgd_sqrt": ("sgd", ("b0", "alpha")),
}

_OPTIONS = {  # the arguments that the command line has, with their flags
    "weight_decay": "--wd",
    "smooth": "--hard",
    "scope": "--layer",
    **{name: f"--{name}" for name in ("momentum", "dampening", "nesterov", "betas", "eps", "gamma", "nu", "c", "mu")},
    **{name: f"--{name}" for name in ("b0", "alpha", "lam")},
    "target_sparsity": "--target-sparsity",
}


def options_of(algo: str) -> set[str]:
    """The arguments of the algorithm that the command line has."""
    name, more = _OTHERS.get(algo, (algo, ()))
    cls = optimizer_class(name)[0]
    without = {"weight_decay"} - cls.hyperparameter_checks.keys()  # gRDA takes no other than 0
    return _OPTIONS.keys() & ({*inspect.signature(cls).parameters, *more} - without)


def add_algorithm_options(parser: argparse.ArgumentParser, algo: str = "sgd") -> None:
    """``--algo`` and the options of every algorithm; one that is not given has the algorithm's own default."""
    group = parser.add_argument_group("optimizer", "an option that is not given has the algorithm's own default")
    add = group.add_argument
    add("--algo", choices=tuple(ALGORITHMS), default=algo, metavar="NAME", help=", ".join(ALGORITHMS))
    add("--lr", "--learning-rate", type=float, metavar="ETA", help="learning rate")
    add("--momentum", type=float, metavar="BETA", help="of sgd as in torch, of the clipping algorithms an average")
    add("--dampening", type=float, help="of sgd: momentum and dampening of 0.9 are the clipping paper's average")
    add("--nesterov", action="store_const", const=True, help="Nesterov's momentum")
    add("--wd", "--weight-decay", dest="weight_decay", type=float, help="weight decay")
    add("--gamma", type=float, help="the clipping algorithms' threshold; at milestones it is divided with lr")
    add("--nu", type=float, help="the part of the momentum in mix_clip's step")
    add("--hard", dest="smooth", action="store_const", const=False, help="clip by min(lr, gamma / norm), not smoothly")
    add("--layer", dest="scope", action="store_const", const="group", help="a norm of its own for every layer")
    add("--c", type=float, help="of grda: how much it prunes; of adaloss: the loss to reach")
    add("--mu", type=float, help="of grda: how fast the pruning grows")
    add("--lam", type=float, help="of lin_breg and ada_breg: the threshold below which parameters are 0")
    add("--target-sparsity", type=float, metavar="SHARE", help="of those and grda: the share of zeros to steer to")
    add("--b0", type=float, help="of adaloss and its baselines: the first step is lr / b0")
    add("--alpha", type=float, help="of adaloss: the weight of the loss; of rmsprop: the average's")
    add("--betas", type=float, nargs=2, metavar="BETA", help="of the Adam family")
    add("--eps", type=float, help="added to the denominator")
    add("--clip", type=float, metavar="MAX_NORM", help="clip the gradient's norm, as clip_grad_norm_ does")
    add("--gradient-noise", type=float, nargs="?", const=0.3, metavar="ETA", help="N(0, ETA / (1 + t)^0.55) is added")
    add("--gradient-dropout", type=float, nargs="?", const=0.1, metavar="P", help="gradients zeroed with probability P")
    add("--lr-dropout", type=float, nargs="?", const=0.5, metavar="P", help="steps zeroed with probability P")
    add("--lookahead", type=int, nargs="?", const=5, metavar="K", help="slow weights, averaged every K steps")
    add("--backend", help="cpu, cuda, triton or reference; chosen by torchclip if not given")


def _chosen(options: argparse.Namespace) -> dict[str, Any]:
    """The algorithm's arguments. Raises ValueError for an option that it does not have."""
    arguments = {**ALGORITHMS[options.algo], **({} if options.lr is None else {"lr": options.lr})}
    has = options_of(options.algo)
    for name, flag in _OPTIONS.items():
        value = getattr(options, name)
        if value is not None and name not in has:
            having = ", ".join(other for other in ALGORITHMS if name in options_of(other))
            raise ValueError(f"{flag} is no option of --algo {options.algo}: those that have it are {having}")
        if value is not None:
            arguments[name] = tuple(value) if name == "betas" else value
    return arguments


def make_optimizer(options: argparse.Namespace, model: nn.Module) -> FusedOptimizer:
    """The optimizer of the command line; with ``--layer`` every module that owns parameters is a param group.

    Raises ValueError for an option that the algorithm does not have, a value that it refuses, a backend not here.
    """
    arguments = _chosen(options)
    params = torchclip.param_groups_per_layer(model) if arguments.get("scope") == "group" else model
    if options.algo == "sgd_constant":
        b0 = arguments.pop("b0", 1.0)
        if not b0 > 0:
            raise ValueError(f"Invalid b0: {b0}; it must be above 0")
        arguments["lr"] /= b0
    if options.algo == "sgd_sqrt":
        given = {name: arguments.pop(name) for name in ("b0", "alpha") if name in arguments}
        arguments["step_size"] = torchclip.SqrtDecay(**given)
    extensions = (
        (options.gradient_dropout, torchclip.GradientDropout),
        (options.gradient_noise, torchclip.GradientNoise),
        (options.lr_dropout, torchclip.LRDropout),
        (options.lookahead, torchclip.Lookahead),
    )
    arguments["extensions"] = tuple(make(value) for value, make in extensions if value is not None)
    name, _ = _OTHERS.get(options.algo, (options.algo, ()))
    try:
        return torchclip.create_optimizer(
            name, params, clip=options.clip, seed=options.seed, backend=options.backend, **arguments
        )
    except RuntimeError as error:  # what torchclip raises for a backend that cannot run
        raise ValueError(str(error)) from error


SCHEDULES = ("milestones", "linear", "plateau")
_SCALED = ("lr", "gamma")
_PATIENCE = 5  # epochs, of plateau


class Schedule:
    """Multiplies lr and gamma of every param group by :meth:`factor`, once an epoch.

    - ``milestones`` divides by ten at every milestone, as the clipping paper does: 80,120,150 is 150 epochs and two
      divisions.
    - ``linear`` is constant for half of the epochs, then falls to a hundredth at nine tenths: gRDA's CIFAR code.
    - ``plateau`` divides by ten after more than five epochs without a training loss lower by a ten-thousandth: the
      collection's ``torch.optim.lr_scheduler.ReduceLROnPlateau(patience=5)``.

    Raises:
        ValueError: milestones under another schedule.
    """

    def __init__(self, name: str, optimizer: Optimizer, epochs: list[int]) -> None:
        if name != "milestones" and len(epochs) > 1:
            raise ValueError(f"--schedule {name} has no milestones: give --epochs {epochs[-1]}, not {epochs}")
        *self._milestones, self.epochs = epochs
        self._name, self._optimizer = name, optimizer
        self._initial = [{key: group[key] for key in _SCALED if key in group} for group in optimizer.param_groups]
        self._state: dict[str, Any] = {"best": float("inf"), "bad_epochs": 0, "factor": 1.0}

    def factor(self, epoch: int) -> float:
        """The factor during this epoch, the first being 0."""
        if self._name == "plateau":
            return float(self._state["factor"])
        if self._name == "linear":
            return 1.0 - 0.99 * min(max(((epoch + 1) / self.epochs - 0.5) / 0.4, 0.0), 1.0)
        return 0.1 ** sum(epoch >= milestone for milestone in self._milestones)

    def start_epoch(self, epoch: int, factor: float = 1.0) -> None:
        """Sets lr and gamma for this epoch, times ``factor``."""
        for group, initial in zip(self._optimizer.param_groups, self._initial, strict=True):
            for key, value in initial.items():
                group[key] = value * self.factor(epoch) * factor

    def end_epoch(self, train_loss: float) -> None:
        """Hears the mean training loss of the epoch."""
        state = self._state
        if train_loss < state["best"] * (1 - 1e-4):
            state |= {"best": train_loss, "bad_epochs": 0}
            return
        state["bad_epochs"] += 1
        if state["bad_epochs"] > _PATIENCE:
            state |= {"factor": state["factor"] * 0.1, "bad_epochs": 0}

    def state_dict(self) -> dict[str, Any]:
        return dict(self._state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a :meth:`state_dict`."""
        self._state |= state


def epochs_of(text: str) -> list[int]:
    """``"80,120,150"``: increasing numbers, the last that of the epochs. For argparse."""
    epochs = [int(number) if number.strip().isdecimal() else 0 for number in text.split(",")]
    if epochs[0] < 1 or any(later <= earlier for earlier, later in pairwise(epochs)):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a list of increasing epochs: 80,120,150 divides by ten after 80 and 120 and ends at 150"
        )
    return epochs
