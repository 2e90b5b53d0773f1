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
from recipes.algorithms import ALGORITHMS, add_algorithm_options, make_optimizer
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
    text: str  # every option that the algorithm has
    given: Mapping[str, Any]  # of the param group then
    step_size: torchclip.StepSize | None = None  # then


_SGD = "--momentum 0.8 --dampening 0 --wd 0.03 --nesterov"
_SGD_GIVEN = {"momentum": 0.8, "dampening": 0.0, "weight_decay": 0.03, "nesterov": True}
_CLIPPED = "--gamma 3 --momentum 0.8 --wd 0.03 --hard --layer"
_CLIPPED_GIVEN = {"gamma": 3.0, "momentum": 0.8, "weight_decay": 0.03, "smooth": False}
_ADAM = "--betas 0.5 0.6 --eps 1e-3 --wd 0.03"
_ADAM_GIVEN = {"betas": (0.5, 0.6), "eps": 1e-3, "weight_decay": 0.03}
_DECAY = "--momentum 0.8 --wd 0.03"
_DECAY_GIVEN = {"momentum": 0.8, "weight_decay": 0.03}
_COUPLED, _DECOUPLED = {"decoupled_weight_decay": False}, {"decoupled_weight_decay": True}

# What the papers' scripts take where nothing is said, for each name; `lr` is always 0.7 in the second.
CASES = {
    "sgd": Case(torchclip.SGD, {"lr": 0.1, "momentum": 0, "weight_decay": 0, **_COUPLED}, _SGD, _SGD_GIVEN),
    "normalized_sgd": Case(
        torchclip.NormalizedSGD,
        {"lr": 0.1, "momentum": 0.0},
        f"{_DECAY} --eps 1e-3 --layer",
        {**_DECAY_GIVEN, "eps": 1e-3},
    ),
    "sgd_clip": Case(torchclip.SGDClip, {"lr": 0.1, "gamma": 1.0, "momentum": 0.0}, _CLIPPED, _CLIPPED_GIVEN),
    "mom_clip": Case(
        torchclip.MomClip,
        {"lr": 1.0, "gamma": 1.0, "momentum": 0.9, "nu": 1.0, "smooth": True},
        _CLIPPED,
        _CLIPPED_GIVEN,
    ),
    "mix_clip": Case(
        torchclip.MixClip,
        {"lr": 1.0, "gamma": 1.0, "momentum": 0.999, "nu": 0.7, "smooth": True},
        f"{_CLIPPED} --nu 0.4",
        {**_CLIPPED_GIVEN, "nu": 0.4},
    ),
    "momentum": Case(torchclip.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": False}, _SGD, _SGD_GIVEN),
    "nesterov": Case(torchclip.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}, _SGD, _SGD_GIVEN),
    "sgdw": Case(torchclip.SGDW, {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4, **_DECOUPLED}, _SGD, _SGD_GIVEN),
    "rmsprop": Case(
        torchclip.RMSprop,
        {"lr": 1e-3, "alpha": 0.9},
        f"{_DECAY} --alpha 0.95 --eps 1e-3",
        {**_DECAY_GIVEN, "alpha": 0.95, "eps": 1e-3},
    ),
    "adam": Case(torchclip.Adam, {"lr": 1e-3, "weight_decay": 0, **_COUPLED}, _ADAM, _ADAM_GIVEN),
    "adam_l2": Case(torchclip.Adam, {"lr": 1e-3, "weight_decay": 1e-4, **_COUPLED}, _ADAM, _ADAM_GIVEN),
    "adamw": Case(torchclip.AdamW, {"lr": 1e-3, "weight_decay": 0.01, **_DECOUPLED}, _ADAM, _ADAM_GIVEN),
    "nadam": Case(torchclip.NAdam, {"lr": 1e-3, **_COUPLED}, _ADAM, _ADAM_GIVEN),
    "radam": Case(torchclip.RAdam, {"lr": 1e-3, "weight_decay": 0, **_COUPLED}, _ADAM, _ADAM_GIVEN),
    "radamw": Case(torchclip.RAdamW, {"lr": 1e-3, "weight_decay": 0.01, **_DECOUPLED}, _ADAM, _ADAM_GIVEN),
    "adagrad": Case(torchclip.Adagrad, {"lr": 0.01}, "--eps 1e-3 --wd 0.03", {"eps": 1e-3, "weight_decay": 0.03}),
    "grda": Case(torchclip.GRDA, {"lr": 0.1, "c": 0.005, "mu": 0.51}, "--c 0.02 --mu 0.6", {"c": 0.02, "mu": 0.6}),
    "adaloss": Case(
        torchclip.AdaLoss,
        {"lr": 0.1},
        f"{_DECAY} --b0 2 --alpha 3 --c 0.5",
        _DECAY_GIVEN,
        torchclip.AdaLossStep(b0=2.0, alpha=3.0, c=0.5),
    ),
    "adagrad_norm": Case(
        torchclip.AdaGradNorm, {"lr": 0.1, "b0": 1.0}, f"{_DECAY} --b0 2 --layer", {**_DECAY_GIVEN, "b0": 2.0}
    ),
    "sgd_constant": Case(torchclip.SGD, {"lr": 0.1}, f"{_DECAY} --b0 2", {**_DECAY_GIVEN, "lr": 0.35}),
    "sgd_sqrt": Case(
        torchclip.SGD, {"lr": 0.1}, f"{_DECAY} --b0 2 --alpha 3", _DECAY_GIVEN, torchclip.SqrtDecay(b0=2.0, alpha=3.0)
    ),
}

OPTIONS = {
    "momentum": "--momentum 0.5",
    "dampening": "--dampening 0.1",
    "nesterov": "--nesterov",
    "weight_decay": "--wd 0.1",
    "gamma": "--gamma 2",
    "nu": "--nu 0.5",
    "smooth": "--hard",
    "scope": "--layer",
    "c": "--c 0.1",
    "mu": "--mu 0.6",
    "b0": "--b0 2",
    "alpha": "--alpha 0.5",
    "betas": "--betas 0.5 0.6",
    "eps": "--eps 0.1",
}


def test_the_cases_are_all_algorithms_with_all_their_options() -> None:
    assert list(CASES) == list(ALGORITHMS)
    for name, case in CASES.items():
        options = parsed(case.text)
        assert {option for option in OPTIONS if getattr(options, option) is not None} == set(ALGORITHMS[name].options)


@pytest.mark.parametrize("name", CASES)
def test_what_a_name_makes(name: str) -> None:
    case = CASES[name]
    group = made(f"--algo {name}").param_groups[0]
    assert case.defaults == {key: group[key] for key in case.defaults}
    optimizer = made(f"--algo {name} --lr 0.7 {case.text}")
    assert type(optimizer) is case.cls
    assert optimizer.step_size == case.step_size
    wanted = {"lr": 0.7, **case.given}
    for group in optimizer.param_groups:
        assert wanted == {key: group[key] for key in wanted}
    assert len(optimizer.param_groups) == (2 if "--layer" in case.text else 1)


@pytest.mark.parametrize("name", CASES)
def test_takes_a_step(name: str) -> None:
    network = model()
    optimizer, before = made(f"--algo {name}", network), [p.detach().clone() for p in network.parameters()]
    for _ in range(2):  # RAdam's first step may be small
        loss = network(torch.ones(2, 4)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step(loss=loss.detach())
    assert all(bool((p != old).any()) and bool(p.isfinite().all()) for p, old in zip(network.parameters(), before))


@pytest.mark.parametrize("name", CASES)
def test_an_option_of_others_is_an_error_that_names_them(name: str) -> None:
    for option, text in OPTIONS.items():
        if option in ALGORITHMS[name].options:
            continue
        having = [other for other, case in ALGORITHMS.items() if option in case.options]
        with pytest.raises(ValueError, match="is no option of") as caught:
            made(f"--algo {name} {text}")
        flag = text.split()[0]
        assert str(caught.value) == (
            f"{flag} is no option of --algo {name}: those that have it are {', '.join(having)}"
        )


def test_layers_have_norms_of_their_own() -> None:
    """Of two layers of which one has gradients a thousand times as large, only that one is clipped."""
    network = model()
    optimizer = made("--algo sgd_clip --hard --layer --lr 1 --gamma 1", network)
    assert [group["param_names"] for group in optimizer.param_groups] == [
        ["0.weight", "0.bias"],
        ["2.weight", "2.bias"],
    ]
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
        ("", set()),
        ("--lookahead", {torchclip.Lookahead(k=5)}),
        ("--lookahead 3", {torchclip.Lookahead(k=3)}),
        ("--lr-dropout", {torchclip.LRDropout(0.5)}),
        ("--gradient-noise --gradient-dropout", {torchclip.GradientNoise(eta=0.3), torchclip.GradientDropout(0.1)}),
        (
            "--gradient-noise 0.2 --gradient-dropout 0.4 --lr-dropout 0.6 --lookahead 7",
            {
                torchclip.GradientNoise(eta=0.2, gamma=0.55),
                torchclip.GradientDropout(0.4),
                torchclip.LRDropout(0.6),
                torchclip.Lookahead(k=7, alpha=0.5),
            },
        ),
    ],
)
def test_extensions(text: str, wanted: set[Any]) -> None:
    extensions = made(f"--algo adamw {text}").extensions
    assert set(extensions) == wanted and len(extensions) == len(wanted)


def test_a_number_for_clip_is_a_global_norm() -> None:
    assert made("--algo adamw").clip is None
    assert made("--algo adamw --clip 0.25").clip == torchclip.ClipByGlobalNorm(0.25)


def test_the_seed_decides_the_draws_and_the_backend_is_the_one_asked_for() -> None:
    def after(text: str) -> torch.Tensor:
        network = model()
        optimizer = made(f"--algo sgd --lr-dropout {text}", network)
        network(torch.ones(2, 4)).square().mean().backward()
        optimizer.step()
        return network[0].weight.detach()

    assert torch.equal(after("--seed 3"), after("--seed 3"))
    assert not torch.equal(after("--seed 3"), after("--seed 4"))
    assert made("--backend reference").backend == "reference"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("--lr -1", "Invalid learning rate: -1.0"),
        ("--lr nan", "Invalid learning rate: nan"),
        ("--algo mix_clip --gamma 0", "gamma"),
        ("--algo adaloss --b0 0", "Invalid b0: 0.0; it must be above 0"),
        ("--algo sgd_constant --b0 0", "Invalid b0: 0.0; it must be above 0"),
        ("--algo sgd_constant --b0 nan", "Invalid b0: nan; it must be above 0"),
        ("--nesterov", "Nesterov"),
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
