"""Run by tests/kernels/test_triton_functions.py under TRITON_INTERPRET=1, with the names of checks as arguments."""

from __future__ import annotations

import itertools
import json
import sys
import traceback
from decimal import Decimal, localcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

import interpreted
import torchclip
from coefficient_grid import GRID, STEPS, flat_names
from rule_coefficients import COEFFICIENTS
from torchclip.backends.reference.draws import Draws, normal_pair
from torchclip.backends.reference.philox import WORD, key_of_seed, philox4x32
from torchclip.kernels import numbers, philox, pipeline, rules
from torchclip.kernels.constants import Finish, Run
from torchclip.optimizers.sparse import SparseOptimizer
from torchclip.policies.extensions import GRADIENT_DROPOUT_STREAM, LR_DROPOUT_STREAM, NOISE_STREAM, drop_threshold
from torchclip.rules.table import RULES

COUNT = 256
EPS = torch.finfo(torch.float32).eps


@triton.jit
def rule_kernel(p, g, s0, s1, s2, coefficients, run: tl.constexpr):
    block: tl.constexpr = run.block
    i = tl.arange(0, block)
    k = (
        tl.load(coefficients), tl.load(coefficients + 1), tl.load(coefficients + 2), tl.load(coefficients + 3),
        tl.load(coefficients + 4), tl.load(coefficients + 5), tl.load(coefficients + 6), tl.load(coefficients + 7),
    )  # fmt: skip
    state = (tl.load(s0 + i), tl.load(s1 + i), tl.load(s2 + i))
    new_p, new_state = rules.apply(run, tl.load(p + i), tl.load(g + i), state, k)
    new_0, new_1, new_2 = new_state
    tl.store(p + i, new_p)
    tl.store(s0 + i, new_0)
    tl.store(s1 + i, new_1)
    tl.store(s2 + i, new_2)


@triton.jit
def prepare_kernel(g, p, keep, normal, scale, limit, noise, decay, stages: tl.constexpr, count: tl.constexpr):
    i = tl.arange(0, count)
    prepared = pipeline.prepare(
        tl.load(g + i), tl.load(p + i), tl.load(keep + i), tl.load(normal + i), scale, limit, noise, decay, stages
    )
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
    # The same one by one, from the last element to the first.
    element = tl.cast(first, tl.int64) + (count - 1 - i)
    tl.store(normals + count + i, philox.normal_at(low, high, step, index, element))
    tl.store(keeps + count + i, philox.keep_at(low, high, step, index, element, threshold, stream))


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
    coefficients = COEFFICIENTS[optimizer.spec.name](optimizer.param_groups[0], float(steps), False)
    return [*before, parameter.grad], parameter.detach(), optimizer.state[parameter], coefficients


def assert_close(actual: Tensor, expected: Tensor) -> None:
    """Both are float32 numbers of the size of 1, and differ by the order of a few roundings."""
    torch.testing.assert_close(actual, expected, rtol=4 * EPS, atol=4 * EPS)


def check_rules() -> None:
    for cls, arguments, slots in (
        (torchclip.SGD, {"lr": 0.5, "momentum": 0.9, "nesterov": True}, (0,)),
        (torchclip.SGD, {"lr": 0.5}, ()),
        (torchclip.AdaGradNorm, {"lr": 0.5, "momentum": 0.9, "scope": "row"}, (0, 1)),
        (torchclip.AdaGradNorm, {"lr": 0.5, "scope": "row"}, (1,)),
        (torchclip.Adam, {"lr": 0.5}, (0, 1)),
        (torchclip.Adam, {"lr": 0.5, "amsgrad": True}, (0, 1, 2)),
        (torchclip.RMSprop, {"lr": 0.5, "momentum": 0.9, "centered": True, "eps": 0.1}, (0, 1, 2)),
        (torchclip.Adagrad, {"lr": 0.5, "lr_decay": 0.1}, (0,)),
        (torchclip.GRDA, {"lr": 0.5, "c": 1.0, "mu": 0.5}, (0,)),
        (torchclip.Lion, {"lr": 0.5}, (0,)),
        (torchclip.LinBreg, {"lr": 0.5, "lam": 0.5, "delta": 0.7}, (0,)),
        (torchclip.LinBreg, {"lr": 0.5, "lam": 0.5, "momentum": 0.9}, (0, 1)),
        (torchclip.AdaBreg, {"lr": 0.5, "lam": 0.5}, (0, 1, 2)),
    ):
        (p, *states, g), expected, state, k = stepped(cls, steps=3, **arguments)
        row = torch.zeros(8)
        row[: len(k)] = torch.tensor(list(k.values()), dtype=torch.float64)
        if cls is torchclip.GRDA:
            row[1] = state["l1"]
        blocks = [torch.zeros(COUNT) for _ in range(3)]
        for slot, value in zip(slots, states, strict=True):
            blocks[slot] = value
        family = cls.spec.family
        run = Run(family, sum(1 << slot for slot in slots), 0, 0, 0, 1, False, False, COUNT, 0)
        rule_kernel[(1,)](p, g, *blocks, row, run)
        assert_close(p, expected)
        names = [slot.name for slot in cls.spec.slots if slot.name in state]
        for name, slot in zip(names, slots, strict=True):
            assert_close(blocks[slot], state[name])
        for slot in set(range(3)) - set(slots):
            assert not blocks[slot].any(), cls.__name__
        if issubclass(cls, SparseOptimizer):
            assert 0 < int((p == 0).sum()) < COUNT
            assert torch.equal(p == 0, expected == 0)


@triton.jit
def coefficients_kernel(h, step, first, out, finish: tl.constexpr, count: tl.constexpr):
    i = tl.arange(0, count)
    group = (
        tl.load(h + i), tl.load(h + count + i), tl.load(h + 2 * count + i), tl.load(h + 3 * count + i),
        tl.load(h + 4 * count + i), tl.load(h + 5 * count + i), tl.load(h + 6 * count + i), tl.load(h + 7 * count + i),
    )  # fmt: skip
    zero = tl.zeros([count], tl.float64)
    scalars = (tl.load(step + i) - 1.0, zero + (1.0 if finish.rule == "nadam" else 0.0))
    k, moved = rules.coefficients(finish, group, scalars, tl.load(first + i), (zero, zero, zero + 1.0))
    after, _ = moved
    k0, k1, k2, k3, k4, k5, k6, k7 = k
    tl.store(out + i, k0)
    tl.store(out + count + i, k1)
    tl.store(out + 2 * count + i, k2)
    tl.store(out + 3 * count + i, k3)
    tl.store(out + 4 * count + i, k4)
    tl.store(out + 5 * count + i, k5)
    tl.store(out + 6 * count + i, k6)
    tl.store(out + 7 * count + i, k7)
    tl.store(out + 8 * count + i, after)


def check_coefficients() -> None:
    """Those of torchclip.rules.table, over the grid of the contract test."""
    plain = Finish("", 0, False, False, True, 0, False, False, False, 0, False, False, False, False)
    for rule in RULES.values():
        names = ["lr", *flat_names(rule)]
        grid = list(itertools.product(*(GRID[name] for name in names), STEPS, (False, True)))
        count = triton.next_power_of_2(len(grid))
        table = torch.tensor(grid + [grid[0]] * (count - len(grid)), dtype=torch.float64).T.contiguous()
        h, out = torch.zeros(8, count, dtype=torch.float64), torch.zeros(9, count, dtype=torch.float64)
        h[: len(names)] = table[: len(names)]
        step, first = table[-2].contiguous(), table[-1].bool()
        coefficients_kernel[(1,)](h, step, first, out, plain._replace(rule=rule.name), count)
        for column, values in enumerate(grid):
            own = dict(zip(names, values))
            group = {key: own[key] for key in ("lr", *rule.hyperparameters) if key != "betas"}
            if "betas" in rule.hyperparameters:
                group["betas"] = (own["beta1"], own["beta2"])
            expected = list(COEFFICIENTS[rule.name](group, *values[-2:]).values())
            torch.testing.assert_close(
                out[: len(expected), column],
                torch.tensor(expected, dtype=torch.float64),
                # Differences of powers lose some places, those of gRDA's and NAdam's fractional ones the most.
                rtol=1e-11,
                atol=1e-15,
                equal_nan=True,
                msg=lambda text, where=(rule.name, own, values[-2:]): f"{where}: {text}",
            )
        if rule.scalars:
            assert torch.equal(out[8], step), rule.name


def check_whole_powers() -> None:
    """Exactly rounded, or next to it: of numbers close to 1, of which 1 - beta^t loses most places."""
    base = torch.tensor([0.0, 0.5, 0.9, 0.999, 0.9999, 1 - 2.0**-30, 1.0, 0.96] * 16, dtype=torch.float64)
    exponent = torch.tensor([1, 2, 3, 7, 10, 100, 1000, 12345, 10**6, 2**24] + [5] * 6).repeat_interleave(8).double()
    out = torch.zeros_like(base)
    powers_kernel[(1,)](base, exponent, out, len(base))
    with localcontext() as context:
        context.prec = 60
        for b, e, found in zip(base.tolist(), exponent.tolist(), out.tolist()):
            exact = Decimal(b) ** int(e)
            assert abs(Decimal(found) - exact) <= exact * Decimal(2.0**-53) + Decimal(2.0**-1070), (b, e)


@triton.jit
def powers_kernel(base, exponent, out, count: tl.constexpr):
    i = tl.arange(0, count)
    tl.store(out + i, numbers.whole_power(tl.load(base + i), tl.load(exponent + i)))


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
    normals, keeps = torch.zeros(2, count), torch.zeros(2, count, dtype=torch.bool)
    draws_kernel[(1,)](normals, keeps, *key_of_seed(seed), step, index, first, threshold, stream, count)
    assert_same_bits(normals[1].flip(0).contiguous(), normals[0])
    assert torch.equal(keeps[1].flip(0), keeps[0])
    return normals[0], keeps[0]


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


def fault_of(check: str) -> str:
    """What a check raises, in full; empty where it passes."""
    try:
        globals()["check_" + check]()
    except Exception:
        return traceback.format_exc()
    return ""


if __name__ == "__main__":
    interpreted.hasten()
    print(json.dumps({check: fault_of(check) for check in sys.argv[1:]}))
