"""Run by tests/test_triton_functions.py under TRITON_INTERPRET=1, with the name of a check as its argument."""

from __future__ import annotations

import sys

import torch
import triton
import triton.language as tl
from torch import Tensor

import torchclip
from torchclip.extensions import GRADIENT_DROPOUT_STREAM, LR_DROPOUT_STREAM, NOISE_STREAM, drop_threshold
from torchclip.kernels import philox, pipeline, rules
from torchclip.reference.draws import Draws, normal_pair
from torchclip.reference.philox import WORD, key_of_seed, philox4x32

COUNT = 256
EPS = torch.finfo(torch.float32).eps


@triton.jit
def momentum_kernel(
    p, g, m, s, momentum, weight, m_step, g_step, offset, buffer: tl.constexpr, sums: tl.constexpr, count: tl.constexpr
):
    i = tl.arange(0, count)
    new_p, new_m, new_s = rules.momentum(
        tl.load(p + i), tl.load(g + i), tl.load(m + i), tl.load(s + i),
        momentum, weight, m_step, g_step, offset, buffer, sums,
    )  # fmt: skip
    tl.store(p + i, new_p)
    tl.store(m + i, new_m)
    tl.store(s + i, new_s)


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
def prepare_kernel(g, p, keep, normal, scale, limit, noise, decay, stages: tl.constexpr, count: tl.constexpr):
    i = tl.arange(0, count)
    prepared = pipeline.prepare(
        tl.load(g + i), tl.load(p + i), tl.load(keep + i), tl.load(normal + i),
        scale, limit, noise, decay, stages & 1 != 0, stages & 2 != 0, stages & 4 != 0, stages & 8 != 0,
    )  # fmt: skip
    tl.store(g + i, prepared)


@triton.jit
def after_rule_kernel(p, stepped, keep, slow, alpha, count: tl.constexpr):
    i = tl.arange(0, count)
    chosen = pipeline.choose(tl.load(p + i), tl.load(stepped + i), tl.load(keep + i))
    tl.store(p + i, chosen)
    tl.store(slow + i, pipeline.synchronise(chosen, tl.load(slow + i), alpha))


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


@triton.jit
def draws_kernel(normals, keeps, low, high, step, index, first, threshold, stream: tl.constexpr, count: tl.constexpr):
    i = tl.arange(0, count)
    tl.store(normals + i, philox.normal(low, high, step, index, first, count))
    tl.store(keeps + i, philox.keep(low, high, step, index, first, threshold, stream, count))


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
    unused = torch.zeros(COUNT)
    (p, m, g), expected, state, k = stepped(torchclip.SGD, lr=0.5, momentum=0.9, nesterov=True)
    momentum_kernel[(1,)](p, g, m, unused, *k.values(), True, False, COUNT)
    assert_close(p, expected)
    assert_close(m, state["momentum_buffer"])
    (p, g), expected, _, k = stepped(torchclip.SGD, lr=0.5)
    momentum_kernel[(1,)](p, g, unused, unused, *k.values(), False, False, COUNT)
    assert_close(p, expected)
    assert not unused.any()


def check_momentum_over_sums() -> None:
    unused = torch.zeros(COUNT)
    (p, m, s, g), expected, state, k = stepped(torchclip.AdaGradNorm, lr=0.5, momentum=0.9, scope="row")
    momentum_kernel[(1,)](p, g, m, s, *k.values(), True, True, COUNT)
    assert_close(p, expected)
    assert_close(m, state["momentum_buffer"])
    assert_close(s, state["sum"])
    (p, s, g), expected, state, k = stepped(torchclip.AdaGradNorm, lr=0.5, scope="row")
    momentum_kernel[(1,)](p, g, unused, s, *k.values(), False, True, COUNT)
    assert_close(p, expected)
    assert_close(s, state["sum"])


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
    generator = torch.Generator().manual_seed(2)
    g, p, normal = torch.linspace(-2, 2, COUNT), torch.ones(COUNT), torch.randn(COUNT, generator=generator)
    keep = torch.rand(COUNT, generator=generator) < 0.5
    g[0], keep[0] = float("nan"), True  # kept, it survives
    g[1], keep[1] = float("inf"), False  # dropped, it is gone
    for stages in range(16):
        expected = g * 0.5
        if stages & 1:
            expected = expected.clamp(-0.25, 0.25)
        if stages & 2:
            expected = torch.where(keep, expected, 0.0)
        if stages & 4:
            expected = expected + 0.75 * normal
        if stages & 8:
            expected = expected + 0.125 * p
        result = g.clone()
        prepare_kernel[(1,)](result, p, keep, normal, 0.5, 0.25, 0.75, 0.125, stages, COUNT)
        torch.testing.assert_close(result, expected, rtol=0, atol=0, equal_nan=True)
        assert result[0].isnan()


def check_after_rule() -> None:
    generator = torch.Generator().manual_seed(3)
    p, stepped_p, slow = (torch.randn(COUNT, generator=generator) for _ in range(3))
    keep = torch.rand(COUNT, generator=generator) < 0.5
    chosen = torch.where(keep, stepped_p, p)
    expected = slow + 0.25 * (chosen - slow)
    after_rule_kernel[(1,)](p, stepped_p, keep, slow, 0.25, COUNT)
    assert torch.equal(p, chosen)
    assert torch.equal(slow, expected)


def check_philox() -> None:
    seed = (0xA4093822, 0x299F31D0)
    out = torch.zeros(4, COUNT, dtype=torch.int64)
    philox_kernel[(1,)](out, *(torch.tensor([half], dtype=torch.int64) for half in seed), COUNT)
    i = torch.arange(COUNT)
    assert torch.equal(out, torch.stack(philox4x32(seed, (i, i * 3, i * 5, i * 7))))


def drawn(
    seed: int, step: int, index: int, first: int, threshold: int, stream: int, count: int = COUNT
) -> tuple[Tensor, Tensor]:
    """The kernel's normal numbers and keep mask of ``count`` elements from number ``first`` on."""
    normals, keeps = torch.zeros(count), torch.zeros(count, dtype=torch.bool)
    draws_kernel[(1,)](normals, keeps, *key_of_seed(seed), step, index, first, threshold, stream, count)
    return normals, keeps


def assert_same_bits(actual: Tensor, expected: Tensor) -> None:
    assert torch.equal(actual.view(torch.int32), expected.view(torch.int32))


def check_draws() -> None:
    like = torch.empty(COUNT)
    for seed, step, index in ((7, 1, 0), (-1, 2, 1), (0xA4093822_299F31D0, 1000, 65537)):
        for stream, p in ((GRADIENT_DROPOUT_STREAM, 0.1), (LR_DROPOUT_STREAM, 0.5), (LR_DROPOUT_STREAM, 0.0)):
            draws = Draws(seed, step)
            normals, keeps = drawn(seed, step, index, 0, drop_threshold(p), stream)
            assert torch.equal(keeps, ~draws.dropped(like, index, stream, p))
            assert_same_bits(normals, draws.normals(like, index))
    assert drawn(7, 1, 0, 0, drop_threshold(0.0), LR_DROPOUT_STREAM)[1].all()


def check_draws_of_large_parameters() -> None:
    # Numbers of elements on both sides of 2**34, where their quarter needs a 33rd bit, and a step of more than 32 bits.
    seed, step, index, threshold, count = 11, 2**32 + 5, 3, 2**31, 4096
    for first in (COUNT, 2**34 - count // 2, 2**36 + 4):
        normals, keeps = drawn(seed, step, index, first, threshold, GRADIENT_DROPOUT_STREAM, count)
        block = torch.arange(first // 4, first // 4 + count // 4)

        def words(stream: int, block: Tensor = block) -> tuple[Tensor, ...]:
            counter = (step & WORD, index, block & WORD, stream + ((block >> 32) << 8))
            return philox4x32(key_of_seed(seed), tuple(torch.as_tensor(word) for word in counter))

        kept = torch.stack([word >= threshold for word in words(GRADIENT_DROPOUT_STREAM)], dim=-1)
        assert torch.equal(keeps, kept.flatten())
        w0, w1, w2, w3 = words(NOISE_STREAM)
        assert_same_bits(normals, torch.stack((*normal_pair(w0, w1), *normal_pair(w2, w3)), dim=-1).flatten())


if __name__ == "__main__":
    globals()["check_" + sys.argv[1]]()
