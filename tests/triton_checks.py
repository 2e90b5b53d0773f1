"""Run by tests/test_triton_functions.py under TRITON_INTERPRET=1, with the name of a check as its argument."""

from __future__ import annotations

import sys

import torch
import triton
import triton.language as tl
from torch import Tensor

import torchclip
from torchclip.kernels import philox, pipeline, rules
from torchclip.reference.philox import philox4x32

COUNT = 256
EPS = torch.finfo(torch.float32).eps


@triton.jit
def momentum_kernel(p, g, m, momentum, weight, m_step, g_step, count: tl.constexpr, has_buffer: tl.constexpr):
    i = tl.arange(0, count)
    new_p, new_m = rules.momentum(
        tl.load(p + i), tl.load(g + i), tl.load(m + i), momentum, weight, m_step, g_step, has_buffer
    )
    tl.store(p + i, new_p)
    tl.store(m + i, new_m)


@triton.jit
def second_moment_kernel(
    p, g, m, v, w, b1, w1, b2, w2, m_step, g_step, scale, offset, count: tl.constexpr, maximum: tl.constexpr
):
    i = tl.arange(0, count)
    new_p, new_m, new_v, new_w = rules.second_moment(
        tl.load(p + i), tl.load(g + i), tl.load(m + i), tl.load(v + i), tl.load(w + i),
        b1, w1, b2, w2, m_step, g_step, scale, offset, maximum,
    )  # fmt: skip
    tl.store(p + i, new_p)
    tl.store(m + i, new_m)
    tl.store(v + i, new_v)
    tl.store(w + i, new_w)


@triton.jit
def root_mean_square_kernel(
    p,
    g,
    s,
    b,
    a,
    decay,
    weight,
    momentum,
    step,
    eps,
    count: tl.constexpr,
    has_buffer: tl.constexpr,
    centered: tl.constexpr,
):
    i = tl.arange(0, count)
    new_p, new_s, new_b, new_a = rules.root_mean_square(
        tl.load(p + i), tl.load(g + i), tl.load(s + i), tl.load(b + i), tl.load(a + i),
        decay, weight, momentum, step, eps, has_buffer, centered,
    )  # fmt: skip
    tl.store(p + i, new_p)
    tl.store(s + i, new_s)
    tl.store(b + i, new_b)
    tl.store(a + i, new_a)


@triton.jit
def soft_threshold_kernel(p, g, a, lr, threshold, count: tl.constexpr):
    i = tl.arange(0, count)
    new_p, new_a = rules.soft_threshold(tl.load(g + i), tl.load(a + i), lr, threshold)
    tl.store(p + i, new_p)
    tl.store(a + i, new_a)


@triton.jit
def prepare_kernel(g, p, scale, limit, decay, count: tl.constexpr, clip: tl.constexpr, coupled: tl.constexpr):
    i = tl.arange(0, count)
    tl.store(g + i, pipeline.prepare(tl.load(g + i), tl.load(p + i), scale, limit, decay, clip, coupled))


@triton.jit
def philox_kernel(out, seed_low, seed_high, count: tl.constexpr):
    i = tl.arange(0, count)
    counter = i.to(tl.uint32)
    word0, word1, word2, word3 = philox.philox4x32(
        tl.load(seed_low), tl.load(seed_high), counter, counter * 3, counter * 5, counter * 7
    )
    tl.store(out + i, word0.to(tl.int64))
    tl.store(out + count + i, word1.to(tl.int64))
    tl.store(out + 2 * count + i, word2.to(tl.int64))
    tl.store(out + 3 * count + i, word3.to(tl.int64))


def stepped(
    optimizer_class: type, steps: int = 2, **arguments: object
) -> tuple[list[Tensor], Tensor, dict[str, Tensor], dict]:
    """Runs the compiled step; returns what the last step started from, its result, its state, and its coefficients."""
    generator = torch.Generator().manual_seed(1)
    parameter = torch.nn.Parameter(torch.randn(COUNT, generator=generator))
    optimizer = optimizer_class([parameter], backend="cpu", **arguments)
    for _ in range(steps):
        state = optimizer.state[parameter]
        before = [parameter.detach().clone(), *(state[s.name].clone() for s in optimizer.spec.slots if s.name in state)]
        parameter.grad = torch.randn(COUNT, generator=generator)
        optimizer.step()
    coefficients = optimizer.spec.coefficients(optimizer.param_groups[0], float(steps), False)
    return [*before, parameter.grad], parameter.detach(), optimizer.state[parameter], coefficients


def assert_close(actual: Tensor, expected: Tensor) -> None:
    """Both are float32 numbers of the size of 1, and differ by the order of a few roundings."""
    torch.testing.assert_close(actual, expected, rtol=4 * EPS, atol=4 * EPS)


def check_momentum() -> None:
    (p, m, g), expected, state, k = stepped(torchclip.SGD, lr=0.5, momentum=0.9, nesterov=True)
    momentum_kernel[(1,)](p, g, m, *k.values(), COUNT, True)
    assert_close(p, expected)
    assert_close(m, state["momentum_buffer"])
    (p, g), expected, _, k = stepped(torchclip.SGD, lr=0.5)
    momentum_kernel[(1,)](p, g, torch.zeros(COUNT), *k.values(), COUNT, False)
    assert_close(p, expected)


def check_second_moment() -> None:
    for amsgrad in (False, True):
        (p, m, v, *rest, g), expected, state, k = stepped(torchclip.Adam, steps=3, lr=0.5, amsgrad=amsgrad)
        w = rest[0] if amsgrad else torch.zeros(COUNT)
        second_moment_kernel[(1,)](p, g, m, v, w, *k.values(), COUNT, amsgrad)
        assert_close(p, expected)
        assert_close(m, state["exp_avg"])
        assert_close(v, state["exp_avg_sq"])
        if amsgrad:
            assert_close(w, state["max_exp_avg_sq"])


def check_root_mean_square() -> None:
    (p, s, b, a, g), expected, state, k = stepped(torchclip.RMSprop, lr=0.5, momentum=0.9, centered=True, eps=0.1)
    root_mean_square_kernel[(1,)](p, g, s, b, a, *k.values(), COUNT, True, True)
    assert_close(p, expected)
    for name, value in (("square_avg", s), ("momentum_buffer", b), ("grad_avg", a)):
        assert_close(value, state[name])
    (p, s, g), expected, state, k = stepped(torchclip.Adagrad, lr=0.5, lr_decay=0.1)
    root_mean_square_kernel[(1,)](p, g, s, torch.zeros(COUNT), torch.zeros(COUNT), *k.values(), COUNT, False, False)
    assert_close(p, expected)
    assert_close(s, state["sum"])


def check_soft_threshold() -> None:
    (p, a, g), expected, state, k = stepped(torchclip.GRDA, lr=0.5, c=1.0, mu=0.5)
    soft_threshold_kernel[(1,)](p, g, a, k["lr"], float(state["l1"]), COUNT)
    assert 0 < int((p == 0).sum()) < COUNT
    assert torch.equal(p == 0, expected == 0)
    assert_close(p, expected)


def check_prepare() -> None:
    g, p = torch.linspace(-2, 2, COUNT), torch.ones(COUNT)
    g[0] = float("nan")
    result = g.clone()
    prepare_kernel[(1,)](result, p, 0.5, 0.25, 0.125, COUNT, True, True)
    torch.testing.assert_close(result, (g * 0.5).clamp(-0.25, 0.25) + 0.125 * p, equal_nan=True)
    prepare_kernel[(1,)](g, p, 0.5, 0.25, 0.125, COUNT, False, False)
    assert g[0].isnan() and float(g[-1]) == 1.0


def check_philox() -> None:
    seed = (0xA4093822, 0x299F31D0)
    out = torch.zeros(4, COUNT, dtype=torch.int64)
    philox_kernel[(1,)](out, *(torch.tensor([half], dtype=torch.int64) for half in seed), COUNT)
    i = torch.arange(COUNT)
    assert torch.equal(out, torch.stack(philox4x32(seed, (i, i * 3, i * 5, i * 7))))


if __name__ == "__main__":
    globals()["check_" + sys.argv[1]]()
