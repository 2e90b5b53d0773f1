"""Steps within ``torch.compile``: one graph, with the results of a step that is not compiled."""

from __future__ import annotations

import copy
import math
import pickle
import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch._dynamo.utils import counters

import torchclip
from builders import LOSS, build, copies_of, draw_gradients, each_optimizer, leaves
from memory_guard import same_bits

FUNCTIONAL = "aot_eager"
"""Traces, and makes every operator functional, as the default compiler does, but compiles no code."""

TRACED = "eager"
"""Traces alone, in a third of the time: enough where the tensors are written in the same way as in other tests, and
where what counts is what is traced, and how often."""

MODIFIERS: dict[str, dict[str, Any]] = {
    "global_norm": {"clip": 0.5},
    "group_norms": {"clip": torchclip.ClipByGlobalNorm(0.5, smooth=True, scope="group")},
    "skip": {"clip": torchclip.ClipByGlobalNorm(0.5, nonfinite="skip")},
    "error": {"clip": torchclip.ClipByGlobalNorm(0.5, nonfinite="error")},
    "tensor_norms": {"clip": torchclip.ClipByTensorNorm(0.5)},
    "value": {"clip": torchclip.ClipByValue(0.1)},
    "units": {"clip": torchclip.AdaptiveGradientClip()},
    "auto_clip": {"clip": torchclip.AutoClip(window=4)},
    "z_clip": {"clip": torchclip.ZClip(warmup_steps=2)},
    "sqrt_decay": {"step_size": torchclip.SqrtDecay()},
    "ada_loss": {"step_size": torchclip.AdaLossStep()},
    "noise": {"extensions": (torchclip.GradientNoise(eta=0.3, gamma=0.55),), "seed": 3},
    "dropout": {"extensions": (torchclip.GradientDropout(0.5), torchclip.LRDropout(0.5)), "seed": 3},
    "lookahead": {"extensions": (torchclip.Lookahead(k=2),)},
    "ada_gc": {"clip": torchclip.AdaGC(warmup_steps=2)},
    "skip_spikes": {"skip": torchclip.SkipSpikes(window=4, sigma=0.5)},
    "polyak": {"step_size": torchclip.PolyakStep(growth=1.5)},
    "ema": {"extensions": (torchclip.WeightEMA(decay=0.8),)},
    "tensor_lr": {"lr": torch.tensor(0.1)},
    "dampening": {"momentum": 0.9, "dampening": 0.5, "nesterov": False, "weight_decay": 0.1},
}
MODIFIERS["all"] = {
    **MODIFIERS["units"],
    **MODIFIERS["ada_loss"],
    **MODIFIERS["dampening"],
    "extensions": tuple(each for name in ("dropout", "lookahead") for each in MODIFIERS[name]["extensions"]),
    "seed": 3,
}
"""In one graph; what is not in it has operators that others have too."""


pytestmark = pytest.mark.usefixtures("forget_graphs")


def compiled_step(
    optimizer: torch.optim.Optimizer, compiler: str = FUNCTIONAL
) -> tuple[Callable[[], None], CompileCounterWithBackend]:
    """The step in one graph, and what counts the graphs."""
    counter = CompileCounterWithBackend(compiler)
    return torch.compile(lambda: optimizer.step(loss=LOSS), backend=counter, fullgraph=True), counter


def assert_same_run(name: str, backend: str, compiler: str = FUNCTIONAL, count: int = 2, **options: Any) -> None:
    """Three steps, which are two graphs, of a compiled optimizer beside one that is not.

    Of two parameters the last ``count`` have gradients: draws go by the place among all.
    """
    params = [leaves(4)[index] for index in (3, 0)]
    copies = copies_of(params)
    plain = build(name, params, backend=backend, **copy.deepcopy(options))
    tested = build(name, copies, backend=backend, **copy.deepcopy(options))
    step, _ = compiled_step(tested, compiler)
    for number in range(3):
        draw_gradients(number, params[-count:], copies[-count:])
        plain.step(loss=LOSS)
        step()
    # A compiler may contract a product and a sum; in these steps nothing is rounded more often than some ten times.
    limit = 64 * torch.finfo(torch.float32).eps if backend == "reference" else 0.0
    torch.testing.assert_close(copies, params, rtol=limit, atol=limit)
    for p, q in zip(params, copies):
        assert tested.state[q].keys() == plain.state[p].keys()
        for key, value in plain.state[p].items():
            torch.testing.assert_close(tested.state[q][key], value, rtol=limit, atol=limit)
    assert tested.metrics().keys() == plain.metrics().keys()
    for key, value in plain.metrics().items():
        torch.testing.assert_close(tested.metrics()[key], value, rtol=limit, atol=limit)


@each_optimizer
def test_one_graph_for_every_optimizer(name: str, backend: str) -> None:
    assert_same_run(name, backend)


APART = ("tensor_norms", "z_clip", "all")
"""Those with operators that the others have not; the others are in "all" together."""


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(options, id=name, marks=[pytest.mark.thorough] if name not in APART else [])
        for name, options in MODIFIERS.items()
    ],
)
def test_one_graph_for_every_modifier(options: dict[str, Any], backend: str) -> None:
    # Every parameter is traced anew, all modifiers at once in seconds.
    assert_same_run("sgd", backend, TRACED, count=1 if options is MODIFIERS["all"] else 2, **options)


@pytest.mark.thorough
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch's default compiler needs a C++ compiler")
def test_default_compiler(backend: str) -> None:
    assert_same_run("adamw", backend, "inductor", clip=0.5, extensions=(torchclip.Lookahead(k=2),))


def test_a_schedule_compiles_nothing_anew(backend: str) -> None:
    """On the reference path a number that changes is compiled into the graph, as torch's own is; a tensor is not."""
    params = leaves(1)
    lr = torch.tensor(0.5) if backend == "reference" else 0.5
    optimizer = build("adamw", params, lr=lr, clip=1.0, backend=backend)
    # Not a scheduler's doing: torch lets no graph have a step that one has wrapped.
    step, counter = compiled_step(optimizer, TRACED)
    for number in range(6):
        draw_gradients(number, params)
        before = params[0].detach().clone()
        step()
        group = optimizer.param_groups[0]
        group["lr"] = lr.mul_(0.5) if isinstance(lr, Tensor) else 0.5 * group["lr"]
        moved = float((params[0].detach() - before).abs().max())
        assert 0.1 * 0.5 ** (number + 1) < moved < 2 * 0.5 ** (number + 1)
        if number == 2:
            graphs = counter.frame_count  # the first makes the state, and the report that the next goes on from
    assert counter.frame_count == graphs


def test_a_training_step_breaks_where_torchs_does(backend: str) -> None:
    """That is at ``backward()``."""

    def breaks(make: Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]) -> dict[str, int]:
        torch._dynamo.reset()
        counters.clear()
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
        optimizer = make(list(model.parameters()))

        @torch.compile(backend=TRACED)
        def train(inputs: Tensor) -> Tensor:
            optimizer.zero_grad()
            loss = model(inputs).square().mean()
            loss.backward()
            optimizer.step()
            return loss.detach()

        inputs = torch.randn(8, 3)
        losses = [float(train(inputs)) for _ in range(8)]
        assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0]
        return dict(counters["graph_break"])

    ours = breaks(lambda params: torchclip.AdamW(params, lr=0.01, clip=1.0, backend=backend))
    theirs = breaks(lambda params: torch.optim.AdamW(params, lr=0.01))
    assert ours.items() <= theirs.items() and len(ours) == 2, ours


def test_step_that_is_skipped_in_a_graph(backend: str) -> None:
    params = leaves(1)
    optimizer = build("ada_loss", params, clip=torchclip.ClipByGlobalNorm(1.0, nonfinite="skip"), backend=backend)
    step, _ = compiled_step(optimizer)
    for number in range(3):
        draw_gradients(number, params)
        step()
    shared = optimizer.param_groups[0]["shared"]

    def everything() -> list[Tensor]:
        states = [value for p in params for value in optimizer.state[p].values()]
        return [tensor.detach().clone() for tensor in (*params, *states, *shared.values())]

    before = everything()
    params[0].grad[0, 0] = math.inf
    step()
    assert all(same_bits(a, b) for a, b in zip(everything(), before, strict=True))
    draw_gradients(4, params)
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(4.0), torch.tensor(2.0)
    step()
    assert all(same_bits(a, b) for a, b in zip(everything(), before, strict=True))
    optimizer.found_inf = torch.tensor(0.0)
    step()
    assert not any(same_bits(a, b) for a, b in zip(params, before))


def test_norm_that_is_not_finite_is_an_error_in_a_graph(backend: str) -> None:
    params = leaves(2)
    optimizer = build("sgd", params, clip=torchclip.ClipByGlobalNorm(1.0, nonfinite="error"), backend=backend)
    step, _ = compiled_step(optimizer)
    step()
    before = [p.detach().clone() for p in params]
    params[1].grad[3] = math.nan
    with pytest.raises(RuntimeError, match="the gradient norm is not finite"):
        step()
    assert all(same_bits(p, b) for p, b in zip(params, before))


def through_pickle(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    return pickle.loads(pickle.dumps(optimizer))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, through_pickle], ids=["deepcopy", "pickle"])
def test_copies_step_for_themselves(duplicate: Callable[[Any], Any], backend: str) -> None:
    params = leaves(1)
    optimizer = build("adam", params, backend=backend)
    compiled_step(optimizer, TRACED)[0]()
    before = [p.detach().clone() for p in params]
    twin = duplicate(optimizer)
    copies = twin.param_groups[0]["params"]
    draw_gradients(1, copies)
    compiled_step(twin, TRACED)[0]()
    assert all(same_bits(p, b) for p, b in zip(params, before))
    assert not any(same_bits(p, b) for p, b in zip(copies, before))


def test_after_loading_and_another_group(backend: str) -> None:
    params, copies = leaves(1), leaves(1)
    first, second = (build("adamw", group, clip=1.0, backend=backend) for group in (params, copies))
    step, _ = compiled_step(second, TRACED)
    first.step()
    step()
    second.load_state_dict(first.state_dict())
    for p, q in zip(params, copies):
        q.data.copy_(p.detach())
    for optimizer, group in ((first, params), (second, copies)):
        group.append(torch.nn.Parameter(torch.ones(3)))
        optimizer.add_param_group({"params": group[-1:], "lr": 0.5})
    for number in range(2):
        draw_gradients(number, params, copies)
        first.step()
        step()
    torch.testing.assert_close(copies, params, rtol=1e-5, atol=1e-6)
