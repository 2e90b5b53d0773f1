"""Compiled passes' codecs and their walk, beside those of the reference path: bit for bit where nothing is computed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import torchclip
from torchclip import Blockwise8bit, MasterWeights, Precision, SplitMaster, StateDtype, StochasticRounding
from torchclip.backends.reference import codecs
from torchclip.backends.reference.draws import Draws
from torchclip.policies.precision.codec import BLOCK, ROUNDING_STREAM

pytestmark = pytest.mark.parametrize("backend", ["cpu", "cuda", "triton"], indirect=True)

BLOCKS = Blockwise8bit(min_elements=0)
EVERY_BFLOAT16 = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)


def bits(value: Tensor) -> Tensor:
    """Of every NaN the same: which one comes is each processor's."""
    kind = {1: torch.uint8, 2: torch.int16, 4: torch.int32}[value.element_size()]
    return torch.where(value.isnan(), -1, value.view(kind)) if value.is_floating_point() else value.clone()


def standing_still(parameter: Tensor, precision: Precision, backend: str, **beside: Tensor) -> Any:
    """An SGD that has taken one step of length 0, with what is kept ``beside``."""
    weight = torch.nn.Parameter(parameter.clone())
    optimizer = torchclip.SGD([weight], lr=0.0, precision=precision, backend=backend, seed=5)
    if beside:
        optimizer.state[weight] = {name: value.clone() for name, value in beside.items()}
    weight.grad = torch.zeros_like(weight)
    optimizer.step()
    return optimizer, weight


@pytest.mark.parametrize("remainder", [-(2**15), -5, -1, 0, 1, 5, 2**15 - 1])
def test_every_bfloat16_is_joined_and_split_as_by_the_reference(backend: str, remainder: int) -> None:
    """With remainders of all kinds, those that belong to no such number included."""
    low = torch.full(EVERY_BFLOAT16.shape, remainder, dtype=torch.int16)
    _, ours = standing_still(EVERY_BFLOAT16, SplitMaster(), backend, remainder=low)
    optimizer, _ = standing_still(EVERY_BFLOAT16, SplitMaster(), backend, remainder=low)
    reference, theirs = standing_still(EVERY_BFLOAT16, SplitMaster(), "reference", remainder=low)
    assert torch.equal(bits(ours.detach()), bits(theirs.detach()))
    (mine,), (other,) = (one.state.values() for one in (optimizer, reference))
    assert torch.equal(mine["remainder"], other["remainder"])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_half_is_written_from_its_master(backend: str, dtype: torch.dtype) -> None:
    """And every number halfway to the next, which goes to the even one."""
    numbers = EVERY_BFLOAT16.view(torch.int16).view(dtype).float()
    numbers = numbers[numbers.isfinite()]
    above = torch.nextafter(numbers.to(dtype), torch.tensor(torch.inf, dtype=dtype)).float()
    between = (numbers + above) / 2
    master = torch.cat([numbers, between, torch.nextafter(between, numbers), torch.nextafter(between, above)])
    _, weight = standing_still(torch.zeros(master.shape, dtype=dtype), MasterWeights(), backend, master=master)
    assert torch.equal(bits(weight.detach()), bits(master.to(dtype)))


def test_every_bfloat16_stays_under_stochastic_rounding(backend: str) -> None:
    _, weight = standing_still(EVERY_BFLOAT16, StochasticRounding(), backend)
    assert torch.equal(bits(weight.detach()), bits(EVERY_BFLOAT16))


def test_the_mean_of_a_million_roundings_is_the_value(backend: str) -> None:
    """Within 4 σ, of a moment that lies 0.3 of the way to the next number; by the bits of the reference's stream."""
    count, unit = 100_003 if backend == "triton" else 1_000_003, 2.0**-7  # interpreted, it takes seconds
    value = 1 + 0.3 * unit
    weight = torch.nn.Parameter(torch.zeros(count))
    precision = StateDtype("bfloat16", stochastic=True)
    optimizer = torchclip.SGD([weight], lr=0.0, momentum=0.9, precision=precision, backend=backend, seed=5)
    weight.grad = torch.full((count,), value)
    optimizer.step()
    came = optimizer.state[weight]["momentum_buffer"]
    assert abs(came.double().mean().item() - weight.grad[0].item()) < 4 * unit * (0.3 * 0.7 / count) ** 0.5
    drawn = Draws(seed=5, step=1).words(weight, 0, ROUNDING_STREAM) >> 16
    assert torch.equal(came, codecs.stochastic_bfloat16(weight.grad, drawn))


def encoded(values: Tensor, backend: str, *, is_signed: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Codes and absmax of what one step has put into a slot, and that: the values, or their squares."""
    weight = torch.nn.Parameter(torch.zeros_like(values))
    options: dict[str, Any] = {"lr": 0.0, "precision": BLOCKS, "backend": backend}
    optimizer = (
        torchclip.SGD([weight], momentum=0.9, **options) if is_signed else torchclip.Adagrad([weight], **options)
    )
    weight.grad = values.clone()
    optimizer.step()
    held, name = optimizer.state[weight], "momentum_buffer" if is_signed else "sum"
    return held[name], held[f"{name}_absmax"], values if is_signed else values * values


def around_every_middle(is_signed: bool) -> Tensor:
    """What lies between two codes and the floats beside it, in blocks whose scale is 1: of squares, their roots."""
    table = codecs.root_map(is_signed, torch.device("cpu")).double().sort().values
    values = [((table[1:] + table[:-1]) / 2).float(), table.float(), 0.1 ** torch.arange(0, 12.0)]
    centre = torch.cat(values) if is_signed else torch.cat(values).sqrt()
    near = [centre]
    for target in (torch.inf, -torch.inf):
        moved = centre
        for _ in range(3):
            moved = torch.nextafter(moved, torch.full_like(moved, target))
            near.append(moved)
    most = codecs.LAST_STEP if is_signed else codecs.LAST_STEP**0.5
    flat = torch.cat(near).clamp(-most, most)
    flat = torch.nn.functional.pad(flat, (0, -flat.numel() % (BLOCK - 1))).view(-1, BLOCK - 1)
    return torch.cat([flat, torch.full((len(flat), 1), most)], dim=1).flatten()


@pytest.mark.parametrize("is_signed", [True, False], ids=["signed", "unsigned"])
@pytest.mark.parametrize("scale", [1.0, 0.7, 3.7e-9, 1e-15, 2.5e15, 1e-21, 3e18])
def test_a_value_takes_the_references_code(backend: str, is_signed: bool, scale: float) -> None:
    """All codes, and the floats around every border between two; and random ones."""
    random = torch.randn(100 * BLOCK, generator=torch.Generator().manual_seed(1))
    given = torch.cat([around_every_middle(is_signed), random, random * random.abs() ** 4]) * scale
    codes, absmax, value = encoded(given, backend, is_signed=is_signed)
    wanted, wanted_absmax = codecs.to_blocks(value, value, is_signed=is_signed)
    assert torch.equal(codes, wanted) and torch.equal(absmax, wanted_absmax)
    if scale == 1.0:
        assert len(codes.unique()) == (255 if is_signed else 256)  # of what has a sign 128 is none


@pytest.mark.parametrize("is_signed", [True, False], ids=["signed", "unsigned"])
def test_what_is_not_finite_makes_its_block_so(backend: str, is_signed: bool) -> None:
    given = torch.randn(5 * BLOCK + 7, generator=torch.Generator().manual_seed(1))
    given[3], given[BLOCK + 9], given[3 * BLOCK], given[-1] = torch.nan, torch.inf, -torch.inf, torch.nan
    given[4 * BLOCK : 5 * BLOCK] = 0
    codes, absmax, value = encoded(given, backend, is_signed=is_signed)
    wanted, wanted_absmax = codecs.to_blocks(value, value, is_signed=is_signed)
    assert torch.equal(codes, wanted) and torch.equal(bits(absmax), bits(wanted_absmax))


def test_averages_below_zero_leave_their_magnitude(backend: str) -> None:
    """As torch does, RMSprop takes an alpha above 1."""
    weight = torch.nn.Parameter(torch.zeros(3 * BLOCK + 7))
    optimizer = torchclip.RMSprop([weight], alpha=2.0, lr=0.0, precision=BLOCKS, backend=backend)
    weight.grad = torch.randn(len(weight), generator=torch.Generator().manual_seed(1))
    optimizer.step()
    wanted, wanted_absmax = codecs.to_blocks(-weight.grad.square(), weight.grad, is_signed=False)
    held = optimizer.state[weight]
    assert torch.equal(held["square_avg"], wanted) and torch.equal(held["square_avg_absmax"], wanted_absmax)


@pytest.mark.parametrize("slot", ["exp_avg", "exp_avg_sq"])
def test_every_code_is_decoded_as_by_the_reference(backend: str, slot: str) -> None:
    """A step that leaves the state, but that no sum of squares is 0: encoded again, it has the same codes."""
    codes = torch.arange(4 * BLOCK).remainder(256).to(torch.uint8)
    codes = codes.where(codes != 128, 0) if slot == "exp_avg" else codes
    absmax = torch.tensor([1.0, 3.7e-9, 1e-30, 2.5e30])
    results = []
    for each in (backend, "reference"):
        weight = torch.nn.Parameter(torch.zeros(4 * BLOCK))
        optimizer = torchclip.SGD([weight], lr=0.0, momentum=1.0, precision=BLOCKS, backend=each)
        if slot == "exp_avg_sq":
            optimizer = torchclip.Adagrad([weight], lr=0.0, precision=BLOCKS, backend=each)
        weight.grad = torch.zeros(4 * BLOCK)
        optimizer.step()
        name = "momentum_buffer" if slot == "exp_avg" else "sum"
        optimizer.state[weight][name].copy_(codes)
        optimizer.state[weight][f"{name}_absmax"].copy_(absmax)
        optimizer.param_groups[0]["lr"] = 1.0
        if slot == "exp_avg_sq":
            weight.grad.fill_(1e-20)
        optimizer.step()
        results.append((weight.detach(), optimizer.state[weight][name], optimizer.state[weight][f"{name}_absmax"]))
    ours, theirs = results
    assert torch.equal(ours[1], theirs[1]) and torch.equal(ours[2], theirs[2])
    assert torch.equal(ours[1], codes if slot == "exp_avg" else codes.clamp(min=1))
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-6, atol=0)


EVERYTHING = StochasticRounding(state=StateDtype("bfloat16", stochastic=True))
WALKED: dict[str, tuple[Precision | None, torch.dtype]] = {
    "state_dtype": (StateDtype("bfloat16"), torch.float32),
    "state_dtype_of_bfloat16": (StateDtype("float32", exp_avg="bfloat16"), torch.bfloat16),
    "blocks": (BLOCKS, torch.float32),
    "split": (SplitMaster(state=BLOCKS), torch.bfloat16),
    "master": (MasterWeights(state=StateDtype("bfloat16")), torch.float16),
    "stochastic": (EVERYTHING, torch.bfloat16),
}


def run(
    policy: Precision | None,
    weights: list[torch.nn.Parameter],
    steps: int = 4,
    of: torch.dtype | None = None,
    **more: Any,
) -> Any:
    options = {"lr": 2.0**-7, "weight_decay": 0.1, "seed": 7, **more}
    optimizer = torchclip.AdamW(weights, precision=policy, **options)
    for step in range(steps):
        for index, weight in enumerate(weights):
            generator = torch.Generator().manual_seed(100 * step + index)
            gradient = torch.randn(weight.shape, generator=generator).bfloat16()
            weight.grad_dtype = of or weight.dtype
            weight.grad = gradient.to(of or weight.dtype)
        optimizer.step()
    return optimizer


def assert_alike(left: Any, right: Any) -> None:
    """Every byte that both hold."""
    for group, other in zip(left.param_groups, right.param_groups):
        for ours, theirs in zip(group["params"], other["params"]):
            assert torch.equal(ours, theirs)
            assert left.state[ours].keys() == right.state[theirs].keys()
            for name, value in left.state[ours].items():
                assert value.dtype is right.state[theirs][name].dtype
                assert torch.equal(value, right.state[theirs][name])


def drawn(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def norm_of(backend: str) -> float | None:
    """A ``clip`` under which a step is the same bit for bit: on a GPU squares of another type or layout are added in
    another order."""
    return 0.5 if backend == "cpu" else None


LAYOUTS = {
    "transposed": lambda shape, dtype: drawn(shape[::-1], dtype).permute(*reversed(range(len(shape)))),
    "every_other_column": lambda shape, dtype: drawn((*shape[:-1], 2 * shape[-1]), dtype)[..., ::2],
    "a_window": lambda shape, dtype: drawn(tuple(size + 3 for size in shape), dtype)[1:-2, 1:-2],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", WALKED)
def test_a_parameter_of_any_layout_takes_the_same_step(backend: str, name: str, layout: str) -> None:
    """What lies elsewhere in memory is rounded alike: by blocks, and bits, of elements as they lie."""
    policy, dtype = WALKED[name]
    value = LAYOUTS[layout]((37, 41), dtype)
    strided = torch.nn.Parameter(value)
    assert not strided.is_contiguous()
    order = sorted(range(2), key=lambda dimension: -value.stride(dimension))
    dense = torch.nn.Parameter(value.permute(order).clone(memory_format=torch.contiguous_format))
    gradient = drawn((37, 41), torch.bfloat16, 5).to(dtype)
    for weight in (strided, dense):
        own = gradient if weight is strided else gradient.permute(order).contiguous()
        optimizer = torchclip.AdamW([weight], lr=0.01, precision=policy, backend=backend, seed=7, clip=norm_of(backend))
        for _ in range(3):
            weight.grad = own.clone()
            optimizer.step()
        if weight is strided:
            first = optimizer
    assert torch.equal(strided.detach().permute(order), dense.detach())
    for key, held in first.state[strided].items():
        other = optimizer.state[dense][key]
        assert torch.equal(held.permute(order) if held.ndim == 2 else held, other), key


@pytest.mark.parametrize("name", WALKED)
def test_threads_and_neighbours_do_not_show(backend: str, name: str) -> None:
    """Many chunks, sizes on both sides of a block's and a piece's; the same bits in one thread and in three, and of a
    GPU's, which are not these, twice."""
    policy, dtype = WALKED[name]
    sizes = [1, 127, 255, 256, 257, 511, 513, 4096, *([70_001, 300_007] if backend == "cpu" else [9_001])]
    before, runs = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            weights = [torch.nn.Parameter(drawn((size,), dtype)) for size in sizes]
            runs.append(run(policy, weights, clip=1.0, backend=backend))
    finally:
        torch.set_num_threads(before)
    assert_alike(*runs)


@pytest.mark.parametrize("of", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", WALKED)
def test_a_gradient_of_any_type_is_the_same_gradient(backend: str, name: str, of: torch.dtype) -> None:
    """Its numbers are bfloat16's, which float32 and float16 have too; another type from the third step on."""
    policy, dtype = WALKED[name]
    alike = [[torch.nn.Parameter(drawn((33, 40), dtype))] for _ in range(2)]
    own = run(policy, alike[0], clip=norm_of(backend), backend=backend)
    mixed = run(policy, alike[1], clip=norm_of(backend), backend=backend, of=of)
    if backend == "cpu" and name == "state_dtype" and of is not dtype:
        # Beside its own gradient float32 with moments in bfloat16 has a loop of its own, where products and sums may be
        # contracted otherwise.
        torch.testing.assert_close(alike[0], alike[1], rtol=2.0**-20, atol=2.0**-20)
    else:
        assert_alike(own, mixed)


AROUND: dict[str, dict[str, Any]] = {
    "lookahead": {"extensions": (torchclip.Lookahead(k=2),)},
    "average": {"extensions": (torchclip.WeightEMA(0.9),)},
    "draws": {
        "extensions": (torchclip.GradientNoise(eta=1e-3), torchclip.GradientDropout(0.2), torchclip.LRDropout(0.2))
    },
    "rows": {"clip": torchclip.AdaptiveGradientClip(clipping=0.5)},
    "values": {"clip": torchclip.ClipByValue(0.3), "amsgrad": True},
    "maximize": {"maximize": True, "clip": 0.1, "step_size": torchclip.SqrtDecay()},
}


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("name", WALKED)
def test_what_goes_around_a_rule_is_the_references(backend: str, name: str, around: str) -> None:
    """Within two units of what is stored, since sums of squares and products are of another order."""
    policy, dtype = WALKED[name]
    ours, theirs = (
        run(policy, [torch.nn.Parameter(drawn((40, 33), dtype))], steps=5, backend=each, **AROUND[around])
        for each in (backend, "reference")
    )
    (left,), (right,) = ours.float32_parameters(), theirs.float32_parameters()
    unit = {torch.float32: 2.0**-23, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}[dtype]
    wide = isinstance(policy, (SplitMaster, MasterWeights)) or dtype is torch.float32
    # A moment that rounds to the other neighbour moves a step by as much of it.
    assert ((left - right).abs() <= 2.0**-7 * 2 * 2.0**-7 + (2.0**-22 if wide else 2 * unit) * right.abs()).all()
