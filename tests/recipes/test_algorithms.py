"""recipes.algorithms: what every --algo makes of the command line, and what it refuses."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

import torchclip
from recipes.algorithms import ALGORITHMS, add_algorithm_options, make_optimizer, options_of
from torchclip.step.fused_optimizer import FusedOptimizer


def parsed(text: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_algorithm_options(parser)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(shlex.split(text))


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


def made(text: str, of: nn.Module | None = None) -> FusedOptimizer:
    return make_optimizer(parsed(text), model() if of is None else of)


class Case(NamedTuple):
    cls: type[FusedOptimizer]
    defaults: Mapping[str, Any]  # of the param group without a word on the command line
    options: tuple[str, ...]  # which of the command line it has
    step_size: torchclip.StepSize | None = None  # with all of them


_SGD = ("momentum", "dampening", "weight_decay", "nesterov")
_CLIPPED = ("gamma", "momentum", "weight_decay", "smooth", "scope")
_ADAM = ("betas", "eps", "weight_decay")
_COUPLED, _DECOUPLED = {"decoupled_weight_decay": False}, {"decoupled_weight_decay": True}

# What the papers' scripts take where nothing is said, for each name.
CASES = {
    "sgd": Case(torchclip.SGD, {"lr": 0.1, "momentum": 0, "weight_decay": 0, **_COUPLED}, _SGD),
    "normalized_sgd": Case(
        torchclip.NormalizedSGD, {"lr": 0.1, "momentum": 0.0}, ("momentum", "eps", "weight_decay", "scope")
    ),
    "sgd_clip": Case(torchclip.SGDClip, {"lr": 0.1, "gamma": 1.0, "momentum": 0.0}, _CLIPPED),
    "mom_clip": Case(torchclip.MomClip, {"lr": 1.0, "gamma": 1.0, "momentum": 0.9, "smooth": True}, _CLIPPED),
    "mix_clip": Case(torchclip.MixClip, {"lr": 1.0, "gamma": 1.0, "momentum": 0.999, "nu": 0.7}, (*_CLIPPED, "nu")),
    "momentum": Case(torchclip.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": False}, _SGD),
    "nesterov": Case(torchclip.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}, _SGD),
    "sgdw": Case(torchclip.SGDW, {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4, **_DECOUPLED}, _SGD),
    "rmsprop": Case(torchclip.RMSprop, {"lr": 1e-3, "alpha": 0.9}, ("alpha", "eps", "weight_decay", "momentum")),
    "adam": Case(torchclip.Adam, {"lr": 1e-3, "weight_decay": 0, **_COUPLED}, _ADAM),
    "adam_l2": Case(torchclip.Adam, {"lr": 1e-3, "weight_decay": 1e-4, **_COUPLED}, _ADAM),
    "adamw": Case(torchclip.AdamW, {"lr": 1e-3, "weight_decay": 0.01, **_DECOUPLED}, _ADAM),
    "nadam": Case(torchclip.NAdam, {"lr": 1e-3, **_COUPLED}, _ADAM),
    "radam": Case(torchclip.RAdam, {"lr": 1e-3, "weight_decay": 0, **_COUPLED}, _ADAM),
    "radamw": Case(torchclip.RAdamW, {"lr": 1e-3, "weight_decay": 0.01, **_DECOUPLED}, _ADAM),
    "adagrad": Case(torchclip.Adagrad, {"lr": 0.01}, ("eps", "weight_decay")),
    "grda": Case(torchclip.GRDA, {"lr": 0.1, "c": 0.005, "mu": 0.51}, ("c", "mu", "target_sparsity")),
    "lin_breg": Case(
        torchclip.LinBreg, {"lr": 0.1, "lam": 0.1, "momentum": 0.0}, ("lam", "momentum", "target_sparsity")
    ),
    "ada_breg": Case(torchclip.AdaBreg, {"lr": 1e-3, "lam": 0.1}, ("lam", "betas", "eps", "target_sparsity")),
    "adaloss": Case(
        torchclip.AdaLoss, {"lr": 0.1}, (*_SGD, "b0", "alpha", "c"), torchclip.AdaLossStep(b0=2.0, alpha=0.5, c=0.1)
    ),
    "adagrad_norm": Case(torchclip.AdaGradNorm, {"lr": 0.1, "b0": 1.0}, ("b0", "momentum", "weight_decay", "scope")),
    "sgd_constant": Case(torchclip.SGD, {"lr": 0.1}, (*_SGD, "b0")),
    "sgd_sqrt": Case(torchclip.SGD, {"lr": 0.1}, (*_SGD, "b0", "alpha"), torchclip.SqrtDecay(b0=2.0, alpha=0.5)),
}

GIVEN: Mapping[str, tuple[str, Any]] = {
    "momentum": ("--momentum 0.5", 0.5),
    "dampening": ("--dampening 0", 0.0),
    "nesterov": ("--nesterov", True),
    "weight_decay": ("--wd 0.2", 0.2),
    "gamma": ("--gamma 2", 2.0),
    "nu": ("--nu 0.5", 0.5),
    "smooth": ("--hard", False),
    "scope": ("--layer", "group"),
    "c": ("--c 0.1", 0.1),
    "mu": ("--mu 0.6", 0.6),
    "b0": ("--b0 2", 2.0),
    "alpha": ("--alpha 0.5", 0.5),
    "betas": ("--betas 0.5 0.6", (0.5, 0.6)),
    "eps": ("--eps 0.1", 0.1),
    "lam": ("--lam 0.2", 0.2),
    "target_sparsity": ("--target-sparsity 0.4", 0.4),
}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_what_a_name_makes(name: str) -> None:
    """Its defaults, and all of its options with another lr; and it takes a step."""
    case = CASES[name]
    assert options_of(name) == set(case.options)
    group = made(f"--algo {name}").param_groups[0]
    assert case.defaults == {key: group[key] for key in case.defaults}
    network = model()
    text = " ".join(GIVEN[option][0] for option in case.options)
    optimizer, before = (
        made(f"--algo {name} --lr 0.7 {text}", network),
        [p.detach().clone() for p in network.parameters()],
    )
    assert type(optimizer) is case.cls and optimizer.step_size == case.step_size
    wanted = {"lr": 0.35 if name == "sgd_constant" else 0.7, **{option: GIVEN[option][1] for option in case.options}}
    for group in optimizer.param_groups:
        assert {key: group[key] for key in wanted if key in group} == {
            key: wanted[key] for key in wanted if key in group
        }
    assert len(optimizer.param_groups) == (2 if "scope" in case.options else 1)
    for _ in range(2):  # RAdam's first step may be small
        loss = network(torch.ones(2, 4)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step(loss=loss.detach())
    assert all(bool((p != old).any()) and bool(p.isfinite().all()) for p, old in zip(network.parameters(), before))


@pytest.mark.parametrize("name", CASES)
def test_an_option_of_others_is_an_error_that_names_them(name: str) -> None:
    for option in GIVEN.keys() - set(CASES[name].options):
        having = ", ".join(other for other in ALGORITHMS if option in CASES[other].options)
        flag = GIVEN[option][0].split()[0]
        with pytest.raises(ValueError) as caught:
            made(f"--algo {name} {GIVEN[option][0]}")
        assert str(caught.value) == f"{flag} is no option of --algo {name}: those that have it are {having}"


def test_layers_have_norms_of_their_own() -> None:
    """Of two layers of which one has gradients a thousand times as large, only that one is clipped."""
    network = model()
    optimizer = made("--algo sgd_clip --hard --layer --lr 1 --gamma 1", network)
    first, last = network[0], network[2]
    before = {layer: layer.bias.detach().clone() for layer in (first, last)}
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    first.bias.grad[0], last.bias.grad[0] = 1000.0, 0.5
    optimizer.step()
    assert float(before[first][0] - first.bias.detach()[0]) == pytest.approx(1.0, rel=1e-5)
    assert float(before[last][0] - last.bias.detach()[0]) == pytest.approx(0.5, rel=1e-5)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", ()),
        ("--lookahead", (torchclip.Lookahead(k=5),)),
        ("--lr-dropout", (torchclip.LRDropout(0.5),)),
        (
            "--lookahead 7 --gradient-noise 0.2 --gradient-dropout 0.4 --lr-dropout 0.6",
            (
                torchclip.GradientDropout(0.4),
                torchclip.GradientNoise(eta=0.2, gamma=0.55),
                torchclip.LRDropout(0.6),
                torchclip.Lookahead(k=7, alpha=0.5),
            ),
        ),
    ],
)
def test_extensions(text: str, wanted: tuple[Any, ...]) -> None:
    extensions = made(f"--algo adamw {text}").extensions
    assert set(extensions) == set(wanted) and len(extensions) == len(wanted)


def test_what_goes_with_every_algorithm() -> None:
    def after(text: str) -> torch.Tensor:
        network = model()
        optimizer = made(f"--algo sgd --lr-dropout {text}", network)
        network(torch.ones(2, 4)).square().mean().backward()
        optimizer.step()
        return network[0].weight.detach()

    assert torch.equal(after("--seed 3"), after("--seed 3"))
    assert not torch.equal(after("--seed 3"), after("--seed 4"))
    assert made("--backend reference").backend == "reference"
    assert made("--algo adamw --clip 0.25").clip == torchclip.ClipByGlobalNorm(0.25)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("--lr -1", "Invalid learning rate: -1.0"),
        ("--algo sgd_constant --b0 0", "Invalid b0: 0.0; it must be above 0"),
        ("--algo sgd_constant --b0 nan", "Invalid b0: nan; it must be above 0"),
        ("--lookahead 0", "k"),
        ("--clip -1", "Invalid max_norm: -1.0"),
        ("--backend none", "unknown backend='none'; choose one of"),
        ("--backend cuda --algo sgd", "backend='cuda' is not available: it is switched off here"),
    ],
)
def test_values_that_are_refused(text: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reason = torchclip.backends.choice.unavailable_reason
    off = "it is switched off here"
    monkeypatch.setattr(
        "torchclip.backends.choice.unavailable_reason", lambda name: off if name == "cuda" else reason(name)
    )
    with pytest.raises(ValueError) as caught:
        made(text)
    assert words in str(caught.value)
