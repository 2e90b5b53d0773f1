"""Optimizers by name, parameters with gradients, and a pair of optimizers that must agree."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import torchclip
from memory_guard import same_bits
from torchclip.backends.choice import ON_DEVICE

OPTIMIZERS: dict[str, tuple[type[torch.optim.Optimizer], dict[str, Any]]] = {
    "sgd": (torchclip.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "sgdw": (torchclip.SGDW, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}),
    "adam": (torchclip.Adam, {"lr": 0.1, "amsgrad": True}),
    "adamw": (torchclip.AdamW, {"lr": 0.1}),
    "nadam": (torchclip.NAdam, {"lr": 0.1}),
    "radam": (torchclip.RAdam, {"lr": 0.1}),
    "radamw": (torchclip.RAdamW, {"lr": 0.1, "betas": (0.9, 0.8)}),
    "rmsprop": (torchclip.RMSprop, {"lr": 0.1, "momentum": 0.9, "centered": True, "eps": 0.1}),
    "adagrad": (torchclip.Adagrad, {"lr": 0.1}),
    "normalized_sgd": (torchclip.NormalizedSGD, {"lr": 1.0, "momentum": 0.9}),
    "sgd_clip": (torchclip.SGDClip, {"lr": 0.5, "gamma": 2.0}),
    "mom_clip": (torchclip.MomClip, {"lr": 0.5, "gamma": 2.0}),
    "mix_clip": (torchclip.MixClip, {"lr": 0.5, "gamma": 2.0, "momentum": 0.9}),
    "grda": (torchclip.GRDA, {"lr": 0.1, "c": 0.5}),
    "lion": (torchclip.Lion, {"lr": 0.1}),
    "lin_breg": (torchclip.LinBreg, {"lr": 0.1, "lam": 0.3, "momentum": 0.9}),
    "ada_breg": (torchclip.AdaBreg, {"lr": 0.1, "lam": 0.3}),
    "ada_loss": (torchclip.AdaLoss, {"lr": 0.2, "momentum": 0.9}),
    "ada_grad_norm": (torchclip.AdaGradNorm, {"lr": 1.0, "momentum": 0.9}),
    "ada_grad_norm_row": (torchclip.AdaGradNorm, {"lr": 1.0, "momentum": 0.9, "scope": "row"}),
}

NAMESAKES: dict[str, tuple[type[torch.optim.Optimizer], type[torch.optim.Optimizer], dict[str, Any]]] = {
    "sgd": (torchclip.SGD, torch.optim.SGD, {"lr": 0.1}),
    "sgd_momentum": (torchclip.SGD, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.3}),
    "sgd_nesterov": (torchclip.SGD, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "sgd_decay": (torchclip.SGD, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.2, "maximize": True}),
    "adam": (torchclip.Adam, torch.optim.Adam, {"lr": 0.1, "weight_decay": 0.2}),
    "adam_amsgrad": (torchclip.Adam, torch.optim.Adam, {"lr": 0.1, "amsgrad": True}),
    "adam_decoupled": (
        torchclip.Adam,
        torch.optim.Adam,
        {"lr": 0.1, "weight_decay": 0.2, "decoupled_weight_decay": True},
    ),
    "adamw": (torchclip.AdamW, torch.optim.AdamW, {"lr": 0.1, "weight_decay": 0.2}),
    "nadam": (torchclip.NAdam, torch.optim.NAdam, {"lr": 0.1, "weight_decay": 0.1, "momentum_decay": 0.1}),
    "radam": (torchclip.RAdam, torch.optim.RAdam, {"lr": 0.1, "weight_decay": 0.1, "decoupled_weight_decay": True}),
    "rmsprop": (torchclip.RMSprop, torch.optim.RMSprop, {"lr": 0.1, "weight_decay": 0.1}),
    "rmsprop_momentum": (
        torchclip.RMSprop,
        torch.optim.RMSprop,
        {"lr": 0.1, "momentum": 0.9, "centered": True, "eps": 0.1, "maximize": True},
    ),
    "adagrad": (
        torchclip.Adagrad,
        torch.optim.Adagrad,
        {"lr": 0.1, "lr_decay": 0.1, "initial_accumulator_value": 0.5},
    ),
    "adamw_amsgrad": (torchclip.AdamW, torch.optim.AdamW, {"lr": 0.1, "amsgrad": True, "maximize": True}),
}

LOSS = 1.0
"""For every step of tests that run each class: AdaLoss needs one, and nothing else looks at it."""

each_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)
each_namesake = pytest.mark.parametrize("name", NAMESAKES)


def leaves(count: int = 3) -> list[torch.nn.Parameter]:
    """Parameters with gradients."""
    params = [torch.nn.Parameter(torch.randn(shape)) for shape in ((4, 5), (17,), (2, 3, 3), ())[:count]]
    for p in params:
        p.grad = torch.randn_like(p)
    return params


def copies_of(params: list[torch.nn.Parameter]) -> list[torch.nn.Parameter]:
    """Independent parameters with the same values and gradients."""
    copies = [torch.nn.Parameter(p.detach().clone()) for p in params]
    for p, q in zip(copies, params):
        p.grad = None if q.grad is None else q.grad.clone()
    return copies


def build(name: str, params: list[torch.nn.Parameter], **options: Any) -> torch.optim.Optimizer:
    """The optimizer of this name."""
    cls, defaults = OPTIMIZERS[name]
    return cls(params, **{**defaults, **options})


def assert_same_params(ours: list[torch.nn.Parameter], theirs: list[torch.nn.Parameter]) -> None:
    """Equal bits."""
    assert all(same_bits(p, q) for p, q in zip(ours, theirs))


def draw_gradients(step: int, *sets: list[torch.nn.Parameter]) -> None:
    """The same new gradients for every set of parameters."""
    generator = torch.Generator().manual_seed(step)
    for group in zip(*sets):
        value = torch.randn(group[0].shape, generator=generator).to(group[0].dtype)
        for p in group:
            p.grad = value.clone()


REQUIRED: dict[type[torch.optim.Optimizer], dict[str, Any]] = {
    torchclip.SGD: {"momentum": 0.9},
    torchclip.SGDW: {"momentum": 0.9},
    torchclip.Adam: {},
    torchclip.AdamW: {"amsgrad": True},
    torchclip.NAdam: {},
    torchclip.RAdam: {},
    torchclip.RAdamW: {},
    torchclip.RMSprop: {"momentum": 0.9, "centered": True},
    torchclip.Adagrad: {},
    torchclip.NormalizedSGD: {"lr": 0.1, "momentum": 0.9},
    torchclip.SGDClip: {"lr": 0.1, "gamma": 1.0},
    torchclip.MomClip: {"lr": 0.1, "gamma": 1.0},
    torchclip.MixClip: {"lr": 0.1, "gamma": 1.0},
    torchclip.GRDA: {"c": 0.1},
    torchclip.Lion: {},
    torchclip.LinBreg: {"lr": 0.1, "lam": 0.3, "momentum": 0.9},
    torchclip.AdaBreg: {"lr": 0.1, "lam": 0.3},
    torchclip.AdaLoss: {"momentum": 0.9},
    torchclip.AdaGradNorm: {"momentum": 0.9},
}
"""Every class with what its constructor needs."""

SPARSE = ("grda", "lin_breg", "ada_breg")
"""Those that set their parameters anew from an accumulator: without decay, maximize, and extensions on the step."""

SGDS = (torchclip.SGD, torchclip.SGDW)
ADAMS = (torchclip.Adam, torchclip.AdamW, torchclip.NAdam, torchclip.RAdam, torchclip.RAdamW)
ROOT_MEAN_SQUARES = (torchclip.RMSprop, torchclip.Adagrad)
GAMMAS = (torchclip.SGDClip, torchclip.MomClip, torchclip.MixClip)
CLIPPING = (torchclip.NormalizedSGD, *GAMMAS)

each_class = pytest.mark.parametrize("cls", REQUIRED, ids=lambda cls: cls.__name__)


def fresh(count: int = 3) -> list[torch.nn.Parameter]:
    """Parameters of 20 elements with gradients."""
    params = [torch.nn.Parameter(torch.randn(4, 5)) for _ in range(count)]
    for p in params:
        p.grad = torch.randn_like(p)
    return params


def assert_no_step_was_taken(optimizer: torch.optim.Optimizer) -> None:
    """Fails when a parameter has state; where only the device knows that the step was skipped, the state that was made
    for it is as new."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            assert_state_is_new(optimizer, parameter, group)


def assert_state_is_new(
    optimizer: torch.optim.Optimizer, parameter: Tensor, group: dict[str, Any], names: list[str] | None = None
) -> None:
    """The same of one parameter, or of some of its state."""
    state = optimizer.state.get(parameter, {})
    for name in state if names is None else names:
        value = state[name]
        assert optimizer.backend in ON_DEVICE, name
        new = optimizer.spec.create_state(name, parameter, group).to(value.device)
        assert same_bits(value, new), name


class unchanged:
    """Fails when parameters, state, the step count or shared numbers differ at the end of the block."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer

    def snapshot(self) -> dict[tuple[int, str], Tensor]:
        params = [p for group in self.optimizer.param_groups for p in group["params"]]
        values = {(i, ""): p.detach().clone() for i, p in enumerate(params)}
        for i, p in enumerate(params):
            values.update({(i, name): v.clone() for name, v in self.optimizer.state.get(p, {}).items()})
        for i, group in enumerate(self.optimizer.param_groups):
            values.update({(-1 - i, name): v.clone() for name, v in group.get("shared", {}).items()})
        return values

    def __enter__(self) -> unchanged:
        self.before = self.snapshot()
        return self

    def __exit__(self, *exc: object) -> None:
        after = self.snapshot()
        params = [(p, group) for group in self.optimizer.param_groups for p in group["params"]]
        for position, name in after.keys() - self.before.keys():
            assert_state_is_new(self.optimizer, *params[position], [name])
        assert all(same_bits(after[key], value) for key, value in self.before.items())


KERNELS: dict[str, tuple[type[torch.optim.Optimizer], dict[str, Any]]] = {
    "sgd": (torchclip.SGD, {"lr": 0.1, "momentum": 0.9}),
    "adamw": (torchclip.AdamW, {"lr": 0.1, "amsgrad": True}),
    "rmsprop": (torchclip.RMSprop, {"lr": 0.1, "momentum": 0.9, "centered": True, "eps": 0.1}),
    "normalized_sgd": (torchclip.NormalizedSGD, {"lr": 1.0, "momentum": 0.9}),
    "mix_clip": (torchclip.MixClip, {"lr": 0.5, "gamma": 2.0, "momentum": 0.9}),
    "grda": (torchclip.GRDA, {"lr": 0.1, "c": 0.5}),
    "lion": (torchclip.Lion, {"lr": 0.1}),
    "ada_breg": (torchclip.AdaBreg, {"lr": 0.1, "lam": 0.01}),
    "ada_grad_norm": (torchclip.AdaGradNorm, {"lr": 1.0, "momentum": 0.9, "scope": "row"}),
    # No draws here: they go by the order in memory, which some of these tests change.
    "lookahead": (
        torchclip.SGD,
        {"lr": 0.1, "extensions": (torchclip.Lookahead(k=2),), "step_size": torchclip.SqrtDecay()},
    ),
}
"""One per kernel: what these tests change does not depend on a rule's options."""

each_kernel = pytest.mark.parametrize("name", KERNELS)


class Pair:
    """The tested optimizer, and the reference path over copies of its parameters with the same gradients."""

    def __init__(self, name: str, backend: str, values: list[Tensor], clip: object = 1.5) -> None:
        cls, options = KERNELS[name]
        self.build = lambda params, chosen: cls(params, **options, clip=clip, backend=chosen)
        self.params = [torch.nn.Parameter(v) for v in values]
        self.copies = [torch.nn.Parameter(v.clone()) for v in values]
        self.tested = self.build(self.params, backend)
        self.expected = self.build(self.copies, "reference")
        self.generator = torch.Generator().manual_seed(17)

    def draw(self, like: Tensor) -> Tensor:
        """A gradient."""
        return torch.randn(like.shape, generator=self.generator).to(like.dtype)

    def step(self, without: tuple[int, ...] = (), layout: Callable[[Tensor], Tensor] = Tensor.clone) -> None:
        """One step of both, with new gradients except for the parameters at ``without``."""
        for position, (param, copy) in enumerate(zip(self.params, self.copies)):
            value = None if position in without else self.draw(param)
            param.grad = None if value is None else layout(value)
            copy.grad = value
        before = [p.detach().clone() for p in self.params]
        self.tested.step()
        self.expected.step()
        for position, (param, start) in enumerate(zip(self.params, before)):
            if param.numel() > 1:  # gRDA may hold a single number at zero
                assert (position in without) == torch.equal(param.detach(), start)
        self.compare()

    def compare(self) -> None:
        """Parameters and state agree."""
        for param, copy in zip(self.params, self.copies):
            torch.testing.assert_close(param.detach(), copy.detach())
            ours, theirs = self.tested.state.get(param, {}), self.expected.state.get(copy, {})
            assert ours.keys() == theirs.keys()
            for key, value in ours.items():
                torch.testing.assert_close(value, theirs[key], msg=lambda text, key=key: f"{key}: {text}")


def tensors() -> list[Tensor]:
    """Starting values of a few shapes."""
    return [torch.randn(shape) for shape in ((5, 7), (33,), (), (2, 3, 4))]
