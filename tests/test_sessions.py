"""Whole sessions with everything that happens to an optimizer, by chance: a backend stays with the reference path."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import torchclip
from builders import OPTIMIZERS, assert_state_is_new
from records import EXTENSIONS, STEP_SIZES, WITHOUT_STEPS
from torchclip.clip import measures

STEPS = 12
SHAPES = ((4, 5), (17,), (2, 3, 3), (), (0,), (5, 1), (300,))

POLICIES = (
    None,
    2.0,
    torchclip.ClipByValue(0.5),
    torchclip.ClipByGlobalNorm(3.0, scope="group", nonfinite="skip"),
    torchclip.ClipByTensorNorm(1.0, nonfinite="skip"),
    torchclip.AdaptiveGradientClip(0.3, nonfinite="skip"),
    torchclip.AutoClip(40.0, window=3, nonfinite="skip"),
    torchclip.ZClip(alpha=0.7, z_threshold=1.0, warmup_steps=3, nonfinite="skip"),
)


class Session:
    """Two optimizers that must stay alike, and a source of chance."""

    def __init__(self, seed: int, backend: str) -> None:
        self.chance = random.Random(seed)
        self.generator = torch.Generator().manual_seed(seed)
        self.params, self.copies = self.leaves(5), []
        self.copies = [torch.nn.Parameter(p.detach().clone()) for p in self.params]
        cls, options = OPTIMIZERS[self.chance.choice(list(OPTIMIZERS))]
        extensions = [extras.extensions[0] for extras in EXTENSIONS if self.chance.random() < 0.4]
        if cls is torchclip.GRDA:
            extensions = [extension for extension in extensions if not isinstance(extension, WITHOUT_STEPS)]
        pace = self.chance.choice((None, *STEP_SIZES))
        step_size = {} if cls is torchclip.AdaLoss or pace is None else {"step_size": pace.step_size}
        clip = self.chance.choice(POLICIES)
        self.what = f"{cls.__name__}({options}, {clip=}, {step_size}, {extensions=})"
        self.tested, self.expected = (
            cls(
                [{"params": params[:2]}, {"params": params[2:], "lr": 0.07}],
                **options,
                **step_size,
                clip=clip,
                extensions=extensions,
                seed=seed,
                backend=chosen,
            )
            for params, chosen in ((self.params, backend), (self.copies, "reference"))
        )

    def leaves(self, count: int) -> list[torch.nn.Parameter]:
        shapes = self.chance.sample(SHAPES, count)
        return [torch.nn.Parameter(torch.randn(shape, generator=self.generator)) for shape in shapes]

    @property
    def both(self) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
        return self.tested, self.expected

    def step(self, spoil: bool = False, overflow: bool = False) -> None:
        """New gradients, some of them missing, and a step of both."""
        missing = self.chance.random() < 0.3
        size = self.chance.choice((0.2, 1.0, 5.0))
        for p, q in zip(self.params, self.copies):
            absent = missing and self.chance.random() < 0.5
            value = size * torch.randn(p.shape, generator=self.generator)
            p.grad, q.grad = (None, None) if absent else (value, value.clone())
        if spoil and self.params[0].grad is not None and self.params[0].numel():
            self.params[0].grad.view(-1)[0] = self.copies[0].grad.view(-1)[0] = math.nan
        for optimizer in self.both:
            if overflow:
                optimizer.grad_scale, optimizer.found_inf = torch.tensor(2.0), torch.tensor(1.0)
            optimizer.step(loss=size)
            if overflow:
                del optimizer.grad_scale, optimizer.found_inf

    # What may happen between two steps.

    def another_policy(self) -> None:
        clip = self.chance.choice(POLICIES)
        for optimizer in self.both:
            optimizer.clip = clip

    def another_rate(self) -> None:
        for optimizer in self.both:
            optimizer.param_groups[-1]["lr"] *= 0.7

    def another_group(self) -> None:
        leaf = self.leaves(1)[0]
        self.params.append(leaf)
        self.copies.append(torch.nn.Parameter(leaf.detach().clone()))
        for optimizer, params in zip(self.both, (self.params, self.copies)):
            optimizer.add_param_group({"params": [params[-1]]})

    def reload(self) -> None:
        for optimizer in self.both:
            optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))

    def duplicate(self) -> None:
        self.tested = copy.deepcopy(self.tested)
        self.params = [p for group in self.tested.param_groups for p in group["params"]]

    def forget(self) -> None:
        for optimizer, p in zip(self.both, (self.params[1], self.copies[1])):
            optimizer.state.pop(p, None)

    def overflow(self) -> None:
        self.step(overflow=True)

    def spoiled(self) -> None:
        """Under a policy that skips such steps."""
        if getattr(self.tested.clip, "nonfinite", None) == "skip":
            self.step(spoil=True)

    def compare(self, where: str) -> None:
        def same(ours: Tensor, theirs: Tensor, name: str) -> None:
            torch.testing.assert_close(
                ours, theirs, rtol=2e-5, atol=2e-5, equal_nan=True, msg=lambda text: f"{where}: {name}: {text}"
            )

        for position, (p, q) in enumerate(zip(self.params, self.copies)):
            same(p.detach(), q.detach(), f"parameter {position}")
            ours, theirs = self.tested.state.get(p, {}), self.expected.state.get(q, {})
            if ours.keys() != theirs.keys():  # no step of it was taken yet, which the device alone may know
                group = next(
                    group for group in self.tested.param_groups if any(p is other for other in group["params"])
                )
                assert_state_is_new(self.tested, p, group)
                assert not theirs, where
            for name, value in theirs.items():
                same(ours[name], value, f"{name} of {position}")
        for ours, theirs in zip(self.tested.param_groups, self.expected.param_groups):
            shared, others = ours.get("shared", {}), theirs.get("shared", {})
            assert shared.keys() == others.keys(), where
            for name, value in shared.items():
                same(value, others[name], name)
        metrics, others = self.tested.metrics(), self.expected.metrics()
        # How the count goes on under another policy, and whose factor a rule that clips itself shows, is tested apart.
        apart = {"clipped_fraction"} if measures(self.tested.clip) else {"clipped_fraction", "clip_factor"}
        for name in metrics.keys() & others.keys() - apart:
            same(metrics[name], others[name], name)


EVENTS: tuple[Callable[[Session], None], ...] = (
    Session.another_policy,
    Session.another_rate,
    Session.another_group,
    Session.reload,
    Session.duplicate,
    Session.forget,
    Session.overflow,
    Session.spoiled,
)


@pytest.mark.parametrize("seed", range(40))
def test_session(seed: int, backend: str) -> None:
    session = Session(seed, backend)
    happened = []
    for step in range(STEPS):
        event = session.chance.choice(EVENTS) if session.chance.random() < 0.6 else None
        if event is not None and len(session.params) < len(SHAPES) + 2:
            event(session)
            happened.append(event.__name__)
        session.step()
        session.compare(f"{session.what} after step {step} and {happened}")
