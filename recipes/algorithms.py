"""``--algo`` and its options: every optimizer of the four papers by name, with its arguments from the command line."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

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
    **{name: f"--{name}" for name in ("b0", "alpha")},
}


def options_of(algo: str) -> set[str]:
    """The arguments of the algorithm that the command line has."""
    name, more = _OTHERS.get(algo, (algo, ()))
    return _OPTIONS.keys() & {*inspect.signature(optimizer_class(name)[0]).parameters, *more}


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
    """The optimizer of the command line, over the parameters of ``model``.

    Args:
        options: what :func:`add_algorithm_options` parsed, and ``seed``, which fixes the extensions' draws.
        model: with ``--layer``, every module of it that owns parameters gets a param group of its own.

    Raises:
        ValueError: for an option that the algorithm does not have, a value that it refuses, or a backend that is not
            here.
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
