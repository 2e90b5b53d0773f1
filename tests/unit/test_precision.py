"""Precision policies: beside float64, beside float32 where they are exact, and what goes with."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor

import torchclip
from torchclip import Blockwise8bit, MasterWeights, Precision, SplitMaster, StateDtype, StochasticRounding
from torchclip.backends.reference import codecs
from torchclip.backends.reference.draws import Draws
from torchclip.policies.precision.codec import BLOCK, ROUNDING_STREAM, Codec, Kind, absmax_of

SHAPES = [(20, 30), (7,), (), (0, 3), (3, 4, 5)]

BLOCKS = Blockwise8bit(min_elements=0)

POLICIES: dict[str, Precision] = {
    "state_dtype": StateDtype("bfloat16"),
    "state_dtype_stochastic": StateDtype("bfloat16", stochastic=True),
    "blockwise": BLOCKS,
    "split_master": SplitMaster(),
    "split_master_blockwise": SplitMaster(state=BLOCKS),
    "master_weights": MasterWeights(state=StateDtype("bfloat16")),
    "stochastic_rounding": StochasticRounding(),
    "stochastic_everything": StochasticRounding(state=StateDtype("bfloat16", stochastic=True)),
}

RULES: dict[str, tuple[type[torchclip.FusedOptimizer], dict[str, Any]]] = {
    "adamw": (torchclip.AdamW, {"lr": 0.01, "weight_decay": 0.1, "amsgrad": True}),
    "sgd": (torchclip.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01, "nesterov": True}),
    "rmsprop": (torchclip.RMSprop, {"lr": 0.01, "momentum": 0.5, "centered": True, "eps": 0.1}),
    "adagrad": (torchclip.Adagrad, {"lr": 0.1, "initial_accumulator_value": 0.5}),
}

TRITON = pytest.param("triton", marks=pytest.mark.thorough)
"""Interpreted; test_precision_compiled.py has what is quick."""

pytestmark = pytest.mark.parametrize("backend", ["reference", "cpu", "cuda", TRITON], indirect=True)
each_policy = pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
each_rule = pytest.mark.parametrize("rule", RULES)


def bfloat16_values(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).bfloat16() for shape in SHAPES]


def parameters(values: Iterable[Tensor], dtype: torch.dtype) -> list[Tensor]:
    return [torch.nn.Parameter(value.to(dtype, copy=True)) for value in values]


def set_gradients(params: Iterable[Tensor], step: int, dtype: torch.dtype | None = None) -> None:
    """The same numbers whatever the type: bfloat16 has them all. A parameter misses its gradient now and then."""
    for index, (parameter, value) in enumerate(zip(params, bfloat16_values(1000 + step))):
        dtype = parameter.dtype if dtype is None else dtype
        parameter.grad_dtype = dtype
        parameter.grad = None if (step + index) % 6 == 0 else value.to(dtype)


def twin_of(optimizer: torchclip.FusedOptimizer, build: Callable[[list[Tensor]], Any], dtype: torch.dtype) -> Any:
    """An optimizer without a policy that stands where this one does, in float32 or float64."""
    twin = build(parameters(optimizer.float32_parameters(), dtype))
    saved = optimizer.float32_state_dict()
    for held in saved["state"].values():
        held.update({name: value.to(dtype) for name, value in held.items() if name != "step"})
    twin.load_state_dict(saved)
    return twin


def rounding(codec: Codec, wanted: Tensor, absmax: Tensor | None) -> Tensor | float:
    """The most by which a codec changes a value; of 8 bits the distance of the two codes around it."""
    if codec.kind is Kind.BLOCKS:
        assert absmax is not None
        table = codecs.root_map(codec.is_signed, torch.device("cpu")).double().sort().values
        scale = codecs.scale_of(absmax).double().repeat_interleave(BLOCK)[: wanted.numel()].view(wanted.shape)
        place = torch.bucketize((wanted / scale.clamp(min=1e-300)).contiguous(), table).clamp(1, 255)
        return (table[place] - table[place - 1]) * scale
    if codec.kind in (Kind.SPLIT, Kind.MASTER) or codec.dtype is torch.float32:
        return 2.0**-23 * wanted.abs()
    return (2.0**-7 if codec.kind is Kind.STOCHASTIC else 2.0**-8) * wanted.abs()


@each_rule
@each_policy
def test_a_step_is_float64s_but_for_the_rounding(backend: str, policy: Precision, rule: str) -> None:
    """From the same values: no further from float64 than a codec rounds, and twice what float32 itself is off."""
    cls, arguments = RULES[rule]
    state_alone = isinstance(policy, (StateDtype, Blockwise8bit))
    own = cls(parameters(bfloat16_values(1), torch.float32 if state_alone else torch.bfloat16), **arguments,
              precision=policy, backend=backend, seed=5)  # fmt: skip

    def build(params: list[Tensor]) -> Any:
        return cls(params, **arguments, backend="reference")

    params = own.param_groups[0]["params"]
    for step in range(1, 7):
        exact, single = (twin_of(own, build, dtype) for dtype in (torch.float64, torch.float32))
        for optimizer in (own, exact, single):
            set_gradients(optimizer.param_groups[0]["params"], step)
            optimizer.step()
        came = own.float32_state_dict()["state"]
        for index, value in enumerate(own.float32_parameters()):
            types = policy.types(own.spec, params[index])
            ours, theirs = exact.param_groups[0]["params"][index], single.param_groups[0]["params"][index]
            close(value, ours, theirs, types.parameter, None)
            wanted, held = exact.state.get(ours, {}), own.state.get(params[index], {})
            assert wanted.keys() == came.get(index, {}).keys()
            for name in wanted.keys() - {"step"}:
                absmax = held.get(absmax_of(name))
                close(came[index][name], wanted[name], single.state[theirs][name], types.slots[name], absmax)


def close(came: Tensor, wanted: Tensor, single: Tensor, codec: Codec, absmax: Tensor | None) -> None:
    wanted = wanted.detach()
    error = (single.detach().double() - wanted).abs().max() if wanted.numel() else 0.0
    bound = rounding(codec, wanted, absmax) + 2 * error + 1e-12
    assert ((came.double() - wanted).abs() <= bound).all()


EXTENSIONS = (
    torchclip.GradientNoise(eta=1e-3),
    torchclip.GradientDropout(0.1),
    torchclip.LRDropout(0.3),
    torchclip.Lookahead(k=3),
)

MIXES: dict[str, tuple[type[torchclip.FusedOptimizer], dict[str, Any]]] = {
    "adamw": (torchclip.AdamW, {"lr": 1e-3, "weight_decay": 0.1}),
    "adamw_mixed": (torchclip.AdamW, {"lr": 1e-3, "clip": 1.0, "extensions": EXTENSIONS, "seed": 3}),
    "sgd_adaptive_clip": (torchclip.SGD, {"lr": 0.01, "momentum": 0.9, "clip": torchclip.AdaptiveGradientClip(),
                                          "extensions": (torchclip.Lookahead(k=5),)}),
    "mix_clip": (torchclip.MixClip, {"lr": 0.01, "gamma": 1.0, "weight_decay": 0.1, "scope": "tensor"}),
    "ada_grad_norm_rows": (torchclip.AdaGradNorm, {"lr": 0.1, "scope": "row", "momentum": 0.9}),
    "lion_sqrt_decay": (torchclip.Lion, {"lr": 1e-4, "step_size": torchclip.SqrtDecay()}),
    "grda": (torchclip.GRDA, {"lr": 0.01, "c": 0.005}),
}  # fmt: skip


@pytest.mark.parametrize("steps", [25, pytest.param(1000, marks=pytest.mark.thorough)])
@pytest.mark.parametrize("policy", [SplitMaster(), MasterWeights()], ids=["split_master", "master_weights"])
@pytest.mark.parametrize("mix", MIXES)
def test_a_float32_value_takes_float32s_steps_bit_for_bit(
    backend: str, mix: str, policy: Precision, steps: int
) -> None:
    cls, arguments = MIXES[mix]
    narrow = cls(parameters(bfloat16_values(1), torch.bfloat16), **arguments, precision=policy, backend=backend)
    wide = cls(parameters(bfloat16_values(1), torch.float32), **arguments, backend=backend)
    for step in range(1, (4 if backend == "triton" else steps) + 1):  # interpreted, one takes a tenth of a second
        for optimizer in (narrow, wide):
            set_gradients(optimizer.param_groups[0]["params"], step % 40)
            optimizer.step()
    # CUDA's kernels add the squares of halves in another order than those of float32.
    adds_squares = backend == "cuda" and narrow.metrics().keys() & {"grad_norm", "direction_norm"}
    same_as_float32(narrow, wide, rtol=1e-4 if adds_squares else 0.0)
    for parameter, value in zip(narrow.param_groups[0]["params"], wide.param_groups[0]["params"]):
        distance = (parameter.detach().float() - value.detach()).abs()
        assert (distance <= 2.0**-8 * value.abs() + 1e-38).all()


def same_as_float32(narrow: torchclip.FusedOptimizer, wide: torchclip.FusedOptimizer, rtol: float = 0.0) -> None:
    values, saved = narrow.float32_parameters(), narrow.float32_state_dict()["state"]
    for index, (value, parameter) in enumerate(zip(values, wide.param_groups[0]["params"])):
        torch.testing.assert_close(value, parameter.detach(), rtol=rtol, atol=rtol)
        held = wide.state.get(parameter, {})
        assert saved.get(index, {}).keys() == held.keys()
        for name, tensor in held.items():
            torch.testing.assert_close(saved[index][name], tensor, rtol=rtol, atol=rtol)


def test_plain_bfloat16_stands_still_where_the_policies_move(backend: str) -> None:
    """Steps of 2^-12 from 1, whose neighbours are 2^-8 and 2^-7 away."""
    moved = {}
    for name in (None, "split_master", "master_weights", "stochastic_rounding"):
        weight = torch.nn.Parameter(torch.ones(4096, dtype=torch.bfloat16))
        policy = None if name is None else POLICIES[name]
        optimizer = torchclip.SGD([weight], lr=2.0**-12, precision=policy, backend=backend, seed=1)
        for _ in range(64):
            weight.grad = torch.ones_like(weight)
            optimizer.step()
        moved[name] = 1 - weight.detach().float().mean().item()
    assert moved[None] == 0
    assert moved["split_master"] == moved["master_weights"] == 2.0**-6
    # A step rounds down with probability 2^-4, and each element moves by a binomial number of 2^-8.
    assert abs(moved["stochastic_rounding"] - 2.0**-6) < 4 * 2.0**-8 * (64 * 15 / 256 / 4096) ** 0.5


def test_each_operand_has_bits_of_its_own(backend: str) -> None:
    """Two moments of the same value, 0.3: the halves of a word and of the next stream's, by their number."""
    weight = torch.nn.Parameter(torch.ones(4096))
    policy = StateDtype("bfloat16", stochastic=True)
    optimizer = torchclip.AdamW([weight], betas=(0.7, 0.7), precision=policy, backend=backend, seed=5)
    weight.grad = torch.ones(4096)
    optimizer.step()
    draws, value = Draws(seed=5, step=1), torch.full((4096,), 0.3)
    for number, name in ((1, "exp_avg"), (2, "exp_avg_sq")):
        words = draws.words(weight, 0, ROUNDING_STREAM + number // 2)
        bits = (words >> (16 * (number % 2))) & 0xFFFF
        assert torch.equal(optimizer.state[weight][name], codecs.stochastic_bfloat16(value, bits))
    assert not torch.equal(optimizer.state[weight]["exp_avg"], optimizer.state[weight]["exp_avg_sq"])


@pytest.mark.parametrize("mode", ["seed", "step", "parameter"])
def test_what_the_bits_depend_on(backend: str, mode: str) -> None:
    """The optimizer's seed, the step, the parameter: another one of each rounds otherwise, the same ones alike."""

    def stepped(seed: int, steps: int) -> list[Tensor]:
        params = [torch.nn.Parameter(torch.ones(64, dtype=torch.bfloat16)) for _ in range(2)]
        optimizer = torchclip.SGD(params, lr=2.0**-9, precision=StochasticRounding(), backend=backend, seed=seed)
        for _ in range(steps):
            for parameter in params:
                parameter.data.fill_(1.0)
                parameter.grad = torch.ones_like(parameter)
            optimizer.step()
        return [parameter.detach() for parameter in params]

    first = stepped(1, 1)
    assert torch.equal(first[0], stepped(1, 1)[0])
    other = {"seed": lambda: stepped(2, 1)[0], "step": lambda: stepped(1, 2)[0], "parameter": lambda: first[1]}[mode]()
    assert not torch.equal(first[0], other)


@pytest.mark.parametrize("dtypes", [(torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16),
                                    (torch.float16, torch.bfloat16)], ids=str)  # fmt: skip
def test_gradients_of_another_type(backend: str, dtypes: tuple[torch.dtype, torch.dtype]) -> None:
    """Torch takes them where ``grad_dtype`` says so; a step computes in float32 from either."""
    own, of_gradient = dtypes
    policy = StateDtype("bfloat16") if own is torch.float32 else MasterWeights()
    mixed = torchclip.AdamW(parameters(bfloat16_values(1), own), lr=0.01, clip=1.0, precision=policy, backend=backend)
    plain = torchclip.AdamW(parameters(bfloat16_values(1), own), lr=0.01, clip=1.0, precision=policy, backend=backend)
    for step in range(1, 4):
        set_gradients(mixed.param_groups[0]["params"], step, of_gradient)
        set_gradients(plain.param_groups[0]["params"], step, torch.float32)
        mixed.step()
        plain.step()
    # Beside its own gradient float32 with moments in bfloat16 has a loop of its own, which may contract otherwise.
    # CUDA's norms of other types are sums in another order.
    inexact = backend == "cuda" or (own is torch.float32 and backend == "cpu")
    limit = 2.0**-20 if inexact else 0.0
    for left, right in zip(mixed.float32_parameters(), plain.float32_parameters()):
        torch.testing.assert_close(left, right, rtol=limit, atol=limit)


def test_a_gradient_of_float64_is_refused(backend: str) -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    weight.grad_dtype = torch.float64
    weight.grad = torch.ones(3, dtype=torch.float64)
    with pytest.raises(RuntimeError, match=r"torch.float64 where its own dtype is torch.float32, and torch.bfloat16"):
        torchclip.AdamW([weight], precision=StateDtype("bfloat16"), backend=backend).step()


@each_policy
def test_a_scaled_step_that_overflows_writes_nothing(backend: str, policy: Precision) -> None:
    optimizer = torchclip.AdamW(
        parameters(bfloat16_values(1), torch.bfloat16), precision=policy, backend=backend, seed=1
    )
    set_gradients(optimizer.param_groups[0]["params"], 1)
    optimizer.step()
    before = copy.deepcopy(optimizer.state_dict()), optimizer.float32_parameters()
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(2.0), torch.tensor(1.0)
    set_gradients(optimizer.param_groups[0]["params"], 2)
    optimizer.step()
    assert optimizer.step_was_skipped
    after = optimizer.state_dict(), optimizer.float32_parameters()
    assert all(torch.equal(*pair) for pair in zip(before[1], after[1]))
    for index, held in before[0]["state"].items():
        assert all(torch.equal(value, after[0]["state"][index][name]) for name, value in held.items())


@each_policy
def test_the_scale_is_undone(backend: str, policy: Precision) -> None:
    """A power of two: the step is that of the gradients without it, with a closure and two groups of their own lr."""
    scaled, plain = (
        torchclip.AdamW(
            [{"params": group, "lr": lr} for group, lr in zip(([p] for p in params), (1e-2, 1e-3, 1e-1, 1.0, 1e-4))],
            precision=policy, backend=backend, clip=1.0, seed=1,
        )
        for params in (parameters(bfloat16_values(1), torch.bfloat16) for _ in range(2))
    )  # fmt: skip
    for step in range(1, 4):
        for optimizer, scale in ((scaled, 1024.0), (plain, 1.0)):
            params = [parameter for group in optimizer.param_groups for parameter in group["params"]]

            def closure(params: list[Tensor] = params, scale: float = scale, step: int = step) -> float:
                set_gradients(params, step)
                for parameter in params:
                    if parameter.grad is not None:
                        parameter.grad.mul_(scale)
                return 1.5

            optimizer.grad_scale = torch.tensor(scale)
            assert optimizer.step(closure) == 1.5
    for left, right in zip(scaled.float32_parameters(), plain.float32_parameters()):
        assert torch.equal(left, right)


def test_small_tensors_and_embeddings_stay_wide(backend: str) -> None:
    shapes = {(4095,): False, (4096,): True, (300, 20): True, (500, 9): False, (2, 2048, 2): True}
    params = [torch.nn.Parameter(torch.ones(shape, dtype=torch.bfloat16)) for shape in shapes]
    optimizer = torchclip.AdamW(params, precision=Blockwise8bit(embedding_rows=500), backend=backend)
    for parameter in params:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    for parameter, is_narrow in zip(params, shapes.values()):
        held = optimizer.state[parameter]
        assert held["exp_avg"].dtype is (torch.uint8 if is_narrow else torch.float32)
        assert ("exp_avg_absmax" in held) == is_narrow
    assert not Blockwise8bit(embedding_rows=None).stays_wide(torch.empty(40_000, 2))
    assert Blockwise8bit().stays_wide(torch.empty(30_000, 2)) and not Blockwise8bit().stays_wide(torch.empty(2, 30_000))


def test_a_named_slot_goes_before_the_type_for_all(backend: str) -> None:
    weight = torch.nn.Parameter(torch.ones(8))
    optimizer = torchclip.AdamW([weight], precision=StateDtype("bfloat16", exp_avg_sq=torch.float32), backend=backend)
    weight.grad = torch.ones(8)
    optimizer.step()
    held = optimizer.state[weight]
    assert (held["exp_avg"].dtype, held["exp_avg_sq"].dtype) == (torch.bfloat16, torch.float32)


@pytest.mark.usefixtures("forget_graphs")
@pytest.mark.thorough
def test_a_compiled_graph_rounds_alike(backend: str) -> None:
    policy = StochasticRounding(state=BLOCKS)
    results = []
    for compiles in (False, True):
        params = parameters(bfloat16_values(1), torch.bfloat16)
        optimizer = torchclip.SGD(params, lr=0.01, momentum=0.9, precision=policy, backend=backend, seed=2)
        step = torch.compile(optimizer.step, backend="eager") if compiles else optimizer.step
        for _ in range(2):
            set_gradients(params, 1)
            step()
        results.append([parameter.detach() for parameter in params])
    assert all(torch.equal(*pair) for pair in zip(*results))
