"""What a person expects of a constructor and a step who changes one import."""

from __future__ import annotations

import gc
import inspect
import warnings
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

import torchclip
from builders import (
    LOSS,
    SPARSE,
    build,
    copies_of,
    draw_gradients,
    each_optimizer,
    leaves,
)
from memory_guard import largest_allocation
from torchclip.backends.choice import BACKENDS


@pytest.mark.parametrize(
    "ours, theirs",
    [
        (torchclip.SGD, torch.optim.SGD),
        (torchclip.SGDW, torch.optim.SGD),
        (torchclip.Adam, torch.optim.Adam),
        (torchclip.AdamW, torch.optim.AdamW),
    ],
    ids=lambda cls: f"{cls.__module__.split('.')[0]}.{cls.__name__}",
)
def test_arguments_are_those_of_the_namesake(
    ours: type[torch.optim.Optimizer], theirs: type[torch.optim.Optimizer]
) -> None:
    def arguments(cls: type[torch.optim.Optimizer]) -> dict[str, tuple[Any, Any]]:
        return {name: (p.kind, p.default) for name, p in inspect.signature(cls).parameters.items()}

    mine, torchs = arguments(ours), arguments(theirs)
    for name, argument in torchs.items():
        if not (ours is torchclip.SGDW and name == "weight_decay"):
            assert mine[name] == argument, name
    keyword = inspect.Parameter.KEYWORD_ONLY
    for name in ("clip", "step_size", "extensions", "seed", "backend"):
        assert mine[name] == (keyword, None)
    positional = [name for name, (kind, _) in mine.items() if kind is not keyword]
    assert positional == [name for name, (kind, _) in torchs.items() if kind is not keyword]


def test_backend_attribute(backend: str) -> None:
    assert torchclip.SGD(leaves(), backend=backend).backend == backend
    assert torchclip.SGD(leaves(), foreach=True, backend=backend).backend == backend
    assert torchclip.SGD(leaves(), fused=False).backend == "reference"
    assert torchclip.Adam(leaves(), differentiable=True).backend == "reference"
    if backend not in ("triton", "reference"):  # an interpreted one is for those who ask for it
        assert torchclip.SGD(leaves(), fused=True).backend == backend
        assert torchclip.SGD(leaves()).backend == torchclip.SGD(leaves(), foreach=True).backend == backend


def test_backend_reason(backend: str) -> None:
    assert torchclip.SGD(leaves(), backend=backend).backend_reason == f"backend={backend!r} was asked for"
    assert torchclip.SGD(leaves(), fused=False).backend_reason == "fused=False chooses the reference path"
    chosen = torchclip.SGD(leaves())
    reason = chosen.backend_reason
    assert reason.startswith("the first that serves the parameters")
    for name in BACKENDS[: BACKENDS.index(chosen.backend)]:
        assert f"; not {name!r}: " in reason


def test_grda_has_the_authors_name() -> None:
    assert torchclip.gRDA is torchclip.GRDA


def test_clip_attribute(backend: str) -> None:
    assert torchclip.SGD(leaves(), clip=2.0, backend=backend).clip == torchclip.ClipByGlobalNorm(2.0)
    assert torchclip.SGD(leaves(), backend=backend).clip is None


@each_optimizer
def test_closure(name: str, backend: str) -> None:
    params = leaves()
    for p in params:
        p.grad = None
    optimizer = build(name, params, backend=backend)
    before = [p.detach().clone() for p in params]
    calls = []

    def closure() -> Tensor:
        assert torch.is_grad_enabled()
        optimizer.zero_grad()
        loss = sum((p**2).sum() for p in params)
        loss.backward()
        calls.append(loss.detach())
        return loss

    with torch.no_grad():
        loss = optimizer.step(closure)
    assert len(calls) == 1 and torch.equal(loss, calls[0])
    assert not any(torch.equal(p, b) for p, b in zip(params, before))
    assert optimizer.step(closure=closure) is not None
    assert optimizer.step(loss=LOSS) is None


@each_optimizer
def test_hooks_fire_once(name: str, backend: str) -> None:
    fired: list[str] = []
    optimizer = build(name, leaves(), backend=backend)
    handles = [
        optimizer.register_step_pre_hook(lambda *_: fired.append("pre")),
        optimizer.register_step_post_hook(lambda *_: fired.append("post")),
        register_optimizer_step_pre_hook(lambda *_: fired.append("global pre")),
        register_optimizer_step_post_hook(lambda *_: fired.append("global post")),
    ]
    try:
        optimizer.step(loss=LOSS)
    finally:
        for handle in handles:
            handle.remove()
    assert sorted(fired) == ["global post", "global pre", "post", "pre"]
    optimizer.step(loss=LOSS)
    assert len(fired) == 4


def test_a_hook_of_all_optimizers_alone_fires(backend: str) -> None:
    """Without hooks of its own a step looks for these alone."""
    for register in (register_optimizer_step_pre_hook, register_optimizer_step_post_hook):
        fired: list[object] = []
        optimizer = build("adamw", leaves(), backend=backend)
        handle = register(lambda opt, *_, fired=fired: fired.append(opt))
        try:
            optimizer.step()
        finally:
            handle.remove()
        assert fired == [optimizer]


@each_optimizer
def test_step_is_seen_by_autograd(name: str, backend: str) -> None:
    params = leaves()
    optimizer = build(name, params, backend=backend)
    without = torch.nn.Parameter(torch.ones(3))
    optimizer.add_param_group({"params": [without]})
    loss = (params[0] ** 2).sum()
    versions = [p._version for p in params]
    optimizer.step(loss=LOSS)
    assert all(p._version > v for p, v in zip(params, versions))
    assert without._version == 0
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@each_optimizer
def test_step_under_autograd_and_inference_settings(name: str, backend: str) -> None:
    """The step itself is never recorded, whatever the grad mode."""
    for mode in (torch.enable_grad, torch.no_grad):
        params = leaves()
        optimizer = build(name, params, backend=backend)
        with mode():
            optimizer.step(loss=LOSS)
        assert all(p.is_leaf and p.requires_grad for p in params)
        for state in optimizer.state.values():
            assert not any(value.requires_grad for value in state.values())


@each_optimizer
def test_lr_as_a_tensor(name: str, backend: str) -> None:
    params = leaves()
    copies = copies_of(params)
    lr = torch.tensor(0.25)
    ours, plain = build(name, params, lr=lr, backend=backend), build(name, copies, lr=0.25, backend=backend)
    for step in range(3):
        draw_gradients(step, params, copies)
        ours.step(loss=LOSS)
        plain.step(loss=LOSS)
        torch.testing.assert_close(params, copies, rtol=1e-6, atol=1e-6)
        lr.mul_(0.5)  # as schedulers do: in place
        plain.param_groups[0]["lr"] *= 0.5
    assert ours.param_groups[0]["lr"] is lr


@each_optimizer
def test_scheduler(name: str, backend: str) -> None:
    params = leaves()
    optimizer = build(name, params, backend=backend)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warns when it thinks that step() was not called
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
        start = optimizer.param_groups[0]["lr"]
        optimizer.step(loss=LOSS)
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] == start / 2


@each_optimizer
def test_a_fused_step_allocates_nothing_the_size_of_a_parameter(name: str, backend: str) -> None:
    if backend == "reference":
        pytest.skip("the reference path is written for clarity and makes temporaries")
    params = [torch.nn.Parameter(torch.randn(100_000)) for _ in range(2)]
    params.append(torch.nn.Parameter(torch.randn(200, 300).t()))
    for p in params:
        p.grad = torch.randn_like(p)
    options = {} if name in SPARSE else {"weight_decay": 0.1}
    optimizer = build(name, params, clip=1.0, backend=backend, **options)
    optimizer.step(loss=LOSS)  # makes the state
    assert largest_allocation(lambda: params[0].detach().clone()) == 400_000  # the measurement works
    assert largest_allocation(lambda: optimizer.step(loss=LOSS)) < 60_000


def test_a_parameter_that_refers_to_the_optimizer_does_not_keep_it_alive(backend: str) -> None:
    params = leaves()
    optimizer = torchclip.SGD(params, lr=0.1, momentum=0.9, backend=backend)
    optimizer.step(loss=LOSS)
    params[0].owner = optimizer
    watched = weakref.ref(optimizer)
    del optimizer, params
    gc.collect()
    assert watched() is None
