"""``--algo`` and its options: every optimizer of the four papers by name, with its arguments from the command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

import torchclip
from torchclip.step.fused_optimizer import FusedOptimizer


def _constant(params: Any, lr: float, b0: float = 1.0, **others: Any) -> FusedOptimizer:
    """SGD_Constant of the AdaLoss paper: the step size is lr / b0 for ever. Raises ValueError unless b0 > 0."""
    if not b0 > 0:
        raise ValueError(f"Invalid b0: {b0}; it must be above 0")
    return torchclip.SGD(params, lr=lr / b0, **others)


def _sqrt_decay(params: Any, lr: float, b0: float = 1.0, alpha: float = 1.0, **others: Any) -> FusedOptimizer:
    """SGD_DecaySqrt of the AdaLoss paper: the step size is lr / sqrt(b0² + alpha t)."""
    return torchclip.SGD(params, lr=lr, step_size=torchclip.SqrtDecay(b0=b0, alpha=alpha), **others)


@dataclass(frozen=True)
class Algorithm:
    """What a name stands for."""

    make: Callable[..., FusedOptimizer]
    options: tuple[str, ...]  # the command line's options that are its arguments
    defaults: Mapping[str, Any] = field(default_factory=dict)  # where it should differ from the class's own


_SGD = ("momentum", "dampening", "weight_decay", "nesterov")
_ADAM = ("betas", "eps", "weight_decay")
_CLIPPED = ("gamma", "momentum", "weight_decay", "smooth", "scope")
_NESTEROV = {"momentum": 0.9, "nesterov": True}

ALGORITHMS: Mapping[str, Algorithm] = {
    # Zhang et al. 2020
    "sgd": Algorithm(torchclip.SGD, _SGD, {"lr": 0.1}),
    "normalized_sgd": Algorithm(torchclip.NormalizedSGD, ("momentum", "eps", "weight_decay", "scope"), {"lr": 0.1}),
    "sgd_clip": Algorithm(torchclip.SGDClip, _CLIPPED, {"lr": 0.1, "gamma": 1.0}),
    "mom_clip": Algorithm(torchclip.MomClip, _CLIPPED, {"lr": 1.0, "gamma": 1.0}),
    "mix_clip": Algorithm(torchclip.MixClip, (*_CLIPPED, "nu"), {"lr": 1.0, "gamma": 1.0}),
    # The collection
    "momentum": Algorithm(torchclip.SGD, _SGD, {"lr": 0.1, "momentum": 0.9}),
    "nesterov": Algorithm(torchclip.SGD, _SGD, {"lr": 0.1, **_NESTEROV}),
    "sgdw": Algorithm(torchclip.SGDW, _SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}),
    "rmsprop": Algorithm(torchclip.RMSprop, ("alpha", "eps", "weight_decay", "momentum"), {"lr": 1e-3, "alpha": 0.9}),
    "adam": Algorithm(torchclip.Adam, _ADAM),
    "adam_l2": Algorithm(torchclip.Adam, _ADAM, {"weight_decay": 1e-4}),
    "adamw": Algorithm(torchclip.AdamW, _ADAM),
    "nadam": Algorithm(torchclip.NAdam, _ADAM, {"lr": 1e-3}),
    "radam": Algorithm(torchclip.RAdam, _ADAM),
    "radamw": Algorithm(torchclip.RAdamW, _ADAM),
    "adagrad": Algorithm(torchclip.Adagrad, ("eps", "weight_decay")),
    # Chao et al. 2020
    "grda": Algorithm(torchclip.GRDA, ("c", "mu"), {"lr": 0.1, "c": 0.005, "mu": 0.51}),
    # Wu et al. 2022
    "adaloss": Algorithm(torchclip.AdaLoss, ("b0", "alpha", "c", "momentum", "weight_decay")),
    "adagrad_norm": Algorithm(torchclip.AdaGradNorm, ("b0", "momentum", "weight_decay", "scope")),
    "sgd_constant": Algorithm(_constant, ("b0", "momentum", "weight_decay"), {"lr": 0.1}),
    "sgd_sqrt": Algorithm(_sqrt_decay, ("b0", "alpha", "momentum", "weight_decay"), {"lr": 0.1}),
}


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


_ARGUMENTS = (*_SGD, *_CLIPPED, "nu", "c", "mu", "b0", "alpha", "betas", "eps")
_FLAGS = {"weight_decay": "--wd", "smooth": "--hard", "scope": "--layer"}


def _chosen(options: argparse.Namespace) -> dict[str, Any]:
    """The algorithm's arguments. Raises ValueError for an option that it does not have."""
    algorithm = ALGORITHMS[options.algo]
    arguments = dict(algorithm.defaults)
    if options.lr is not None:
        arguments["lr"] = options.lr
    for name in dict.fromkeys(_ARGUMENTS):
        value = getattr(options, name)
        if value is None:
            continue
        if name not in algorithm.options:
            flag = _FLAGS.get(name, f"--{name}")
            having = [other for other, one in ALGORITHMS.items() if name in one.options]
            raise ValueError(
                f"{flag} is no option of --algo {options.algo}: those that have it are {', '.join(having)}"
            )
        arguments[name] = tuple(value) if name == "betas" else value
    return arguments


def extensions_of(options: argparse.Namespace) -> tuple[torchclip.Extension, ...]:
    """The extensions that were asked for, in the order in which a step applies them."""
    made: list[torchclip.Extension] = []
    if options.gradient_dropout is not None:
        made.append(torchclip.GradientDropout(options.gradient_dropout))
    if options.gradient_noise is not None:
        made.append(torchclip.GradientNoise(eta=options.gradient_noise))
    if options.lr_dropout is not None:
        made.append(torchclip.LRDropout(options.lr_dropout))
    if options.lookahead is not None:
        made.append(torchclip.Lookahead(k=options.lookahead))
    return tuple(made)


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
    params: Iterable[Any] = model.named_parameters()
    if arguments.get("scope") == "group":
        params = torchclip.param_groups_per_layer(model)
    try:
        return ALGORITHMS[options.algo].make(
            params,
            **arguments,
            clip=options.clip,
            extensions=extensions_of(options),
            seed=options.seed,
            backend=options.backend,
        )
    except RuntimeError as error:  # what torchclip raises for a backend that cannot run
        raise ValueError(str(error)) from error
