"""DTensor parameters in one process: what a step needs of others is in tests/distributed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.distributed
from torch.distributed.tensor import DeviceMesh, DTensor, Replicate, Shard, distribute_tensor, init_device_mesh
from torch.distributed.tensor.placement_types import _StridedShard

import torchclip
from builders import LOSS, OPTIMIZERS, build
from memory_guard import same_bits
from records import BACKENDS
from shards import as_one_of_two, parameter, sharded, start
from torchclip.distributed import agreement
from torchclip.distributed.places import place_of
from torchclip.distributed.shards import positions

MEASURING = ("normalized_sgd", "sgd_clip", "mom_clip", "mix_clip", "ada_grad_norm", "ada_grad_norm_row", "ada_loss")
ELEMENTWISE = sorted(OPTIMIZERS.keys() - set(MEASURING))

_two_ranks = pytest.fixture(autouse=True)(as_one_of_two)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_shard_is_updated_as_a_tensor(name: str, backend: str) -> None:
    p = parameter()
    local = torch.nn.Parameter(p.detach().to_local().clone())
    local.grad = p.grad.to_local().clone()
    optimizer = build(name, [p], backend=backend)
    expected = build(name, [local], backend=backend)
    for _ in range(3):
        version = p._version
        optimizer.step(loss=LOSS)
        expected.step(loss=LOSS)
        assert p._version > version and p._local_tensor.grad is None
    assert same_bits(p.to_local(), local) and not same_bits(local, parameter().to_local())
    assert all(isinstance(value, DTensor) for value in optimizer.state[p].values() if value.shape == p.shape)


def test_compiled_backend_is_chosen() -> None:
    for options in ({}, {"fused": True}, {"backend": "cpu"}):
        assert torchclip.AdamW([parameter()], **options).backend == "cpu"


def test_parts_that_are_moved_are_seen() -> None:
    """A parameter's, and those of its gradient and its state, are replaced between steps, as FSDP2 does it."""
    p, other = parameter(), parameter()
    moved, expected = build("adamw", [p], backend="cpu"), build("adamw", [other], backend="cpu")
    for number in range(4):
        for one in (p, other):
            one.grad = sharded(torch.full((4, 3), 1.0 + number))
        moved.step()
        expected.step()
        for tensor in (p, *(value for value in moved.state[p].values() if isinstance(value, DTensor))):
            kept = tensor._local_tensor
            tensor._local_tensor = kept.clone()
            kept.fill_(torch.nan)
    assert same_bits(p.to_local(), other.to_local())


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_parameter_that_is_moved_to_the_next_group(backend: str) -> None:
    """All stay in the same order."""
    made = [parameter() for _ in range(3)]
    groups = [{"params": made[:2], "lr": 0.5}, {"params": made[2:], "lr": 0.125}]
    optimizer = torchclip.SGD(groups, backend=backend)
    optimizer.step()
    optimizer.param_groups[1]["params"].insert(0, optimizer.param_groups[0]["params"].pop())
    optimizer.step()
    steps = [(parameter() - one).to_local()[0, 0].item() for one in made]
    assert steps == [1.0, 0.625, 0.25]


def test_gradient_that_does_not_fit() -> None:
    p = parameter()
    optimizer = build("adamw", [p], backend="cpu")
    optimizer.step()
    p.grad._local_tensor = torch.ones(3, 3)
    before = p.to_local().clone()
    with pytest.raises(RuntimeError, match="size"):
        optimizer.step()
    assert same_bits(p.to_local(), before) and p._local_tensor.grad is None


def test_unstarted_state_is_that_of_the_parameter() -> None:
    """State that a skipped step has made is not saved."""
    p = parameter()
    optimizer = torchclip.SGD([p], lr=0.1, momentum=0.9, backend="cpu")
    optimizer.found_inf = torch.ones(1)
    optimizer.step()
    assert optimizer.step_was_skipped and not optimizer.state_dict()["state"]


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_weights_that_are_loaded_behind_a_skipped_first_step(backend: str) -> None:
    """Into the DTensors, whose parts count no version of it: the next step starts from them."""
    p = torch.nn.Parameter(sharded(torch.ones(4, 3, dtype=torch.bfloat16)))
    optimizer = torchclip.SGD([p], lr=0.5, precision=torchclip.MasterWeights(), backend=backend)
    p.grad = sharded(torch.ones(4, 3, dtype=torch.bfloat16))
    optimizer.found_inf = torch.ones(1)
    optimizer.step()
    optimizer.found_inf = None
    with torch.no_grad():
        p.copy_(sharded(torch.full((4, 3), 5.0, dtype=torch.bfloat16)))
    optimizer.step()
    assert torch.equal(p.to_local(), torch.full((2, 3), 4.5, dtype=torch.bfloat16))


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_processes_that_are_gone(backend: str) -> None:
    p = parameter()
    optimizer = build("adamw", [p], clip=1.0, backend=backend)
    optimizer.step()
    torch.distributed.destroy_process_group()
    try:
        before = p.to_local().clone()
        with pytest.raises(RuntimeError, match="processes over which this optimizer takes a norm, .* are gone"):
            optimizer.step()
        assert same_bits(p.to_local(), before)
    finally:
        start()


PLACEMENTS = (
    ((7, 5), [Shard(0)], True),
    ((7, 5), [Shard(1)], True),
    ((4, 6, 2), [Shard(1)], True),
    ((4, 6, 2), [Shard(2)], True),
    ((5,), [Shard(0)], True),
    ((6, 3), [Replicate()], True),
    ((8, 3), [_StridedShard(0, split_factor=2)], False),
)


@pytest.mark.parametrize("shape, placements, has_place", PLACEMENTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_place_of_each_element(
    shape: tuple[int, ...], placements: Sequence[Any], has_place: bool, dtype: torch.dtype
) -> None:
    whole = torch.zeros(shape, dtype=dtype)
    for layout in (whole, whole.transpose(0, -1).contiguous().transpose(0, -1)):
        part = distribute_tensor(layout, init_device_mesh("cpu", (2,)), placements)
        place = place_of(part)
        if layout is whole:
            assert (place is not None) is has_place
        if place is None:  # where the part lies in another order, too
            continue
        local = part.to_local()
        real = torch.view_as_real(local) if dtype.is_complex else local
        wanted = positions(part).flatten()
        order = _memory_order(real)
        found = [place.offset + e for e in range(real.numel())]
        if place.inner:
            found = [place.offset + e // place.inner * place.outer + e % place.inner for e in range(real.numel())]
        assert [int(wanted[index]) for index in order] == found


def _memory_order(real: torch.Tensor) -> list[int]:
    """The flat indices of the elements, in the order in which they lie."""
    strides = torch.tensor(real.stride())
    flat = torch.arange(real.numel())
    places = (torch.stack(torch.unravel_index(flat, real.shape), dim=-1) * strides).sum(dim=-1)
    order: list[int] = flat[places.argsort()].tolist()
    return order


BLOCKS = torchclip.Blockwise8bit(min_elements=256)


@pytest.mark.parametrize(
    "shape, placements, absmax",
    [
        ((7, 512), [Shard(0)], (7, 2)),
        ((6, 2, 128), [Shard(0)], (6, 1)),
        ((7, 512), [Replicate()], (7, 2)),
        ((7, 512), [Shard(1)], None),
        ((8, 300), [Shard(0)], None),
        ((600,), [Shard(0)], None),
    ],
)
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_blocks_of_eight_bits(
    shape: tuple[int, ...], placements: Sequence[Any], absmax: tuple[int, ...] | None, backend: str
) -> None:
    """They are those of the whole tensor, or there are none."""
    value = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    mesh = init_device_mesh("cpu", (2,))
    p, whole = torch.nn.Parameter(distribute_tensor(value, mesh, placements)), torch.nn.Parameter(value)
    wide = {} if absmax else {"min_elements": 10_000}
    optimizer = torchclip.AdamW([p], precision=BLOCKS, backend=backend)
    precision = torchclip.Blockwise8bit(**{"min_elements": 256, **wide})
    expected = torchclip.AdamW([whole], precision=precision, backend=backend)
    for _ in range(3):
        p.grad, whole.grad = distribute_tensor(value, mesh, placements), value.clone()
        optimizer.step()
        expected.step()
    held = optimizer.state[p]
    assert held["exp_avg"].dtype == (torch.uint8 if absmax else torch.float32)
    assert ("exp_avg_absmax" in held) == (absmax is not None)
    for name, wanted in expected.state[whole].items():
        if wanted.ndim:
            wanted = distribute_tensor(wanted.view(held[name].shape), mesh, placements).to_local()
            assert same_bits(held[name].to_local(), wanted), name
    assert same_bits(p.to_local(), distribute_tensor(whole.detach(), mesh, placements).to_local())


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_state_of_eight_bits_out_and_in(backend: str) -> None:
    """Through float32 checkpoints, and its own: DTensors all, as torch.distributed.checkpoint wants them."""

    def made(precision: Any) -> Any:
        p = torch.nn.Parameter(sharded(torch.randn(4, 512, generator=torch.Generator().manual_seed(1))))
        p.grad = sharded(torch.randn(4, 512, generator=torch.Generator().manual_seed(2)))
        return torchclip.AdamW([p], precision=precision, backend=backend), p

    def state_of(optimizer: Any, p: Any) -> dict[str, torch.Tensor]:
        return {name: value.to_local() for name, value in optimizer.state[p].items() if isinstance(value, DTensor)}

    first, p = made(BLOCKS)
    first.step()
    kept = state_of(first, p)
    assert kept.keys() == {"exp_avg", "exp_avg_sq", "exp_avg_absmax", "exp_avg_sq_absmax"}
    again, other = made(BLOCKS)
    again.load_state_dict(first.state_dict())
    assert all(same_bits(value, kept[name]) for name, value in state_of(again, other).items())

    wide, single = made(None)
    with pytest.warns(UserWarning, match="in other types"):
        wide.load_state_dict(first.state_dict())
    values = state_of(wide, single)
    saved = first.float32_state_dict()["state"][0]
    for name in ("exp_avg", "exp_avg_sq"):
        assert same_bits(values[name], saved[name].to_local()) and values[name].dtype == torch.float32
        gradient = p.grad.to_local() if name == "exp_avg" else p.grad.to_local().square()
        scale = 0.1 if name == "exp_avg" else 0.001
        assert (values[name] - gradient * scale).abs().max() < 0.01 * (gradient * scale).abs().max()
    back, last = made(BLOCKS)
    with pytest.warns(UserWarning, match="in other types"):
        back.load_state_dict(wide.state_dict())
    assert state_of(back, last)["exp_avg_absmax"].shape == (2, 2)
    for optimizer in (again, wide, back):
        optimizer.step()


@pytest.mark.parametrize("error", [RuntimeError, torch.distributed.DistBackendError, NotImplementedError])
def test_only_what_communication_raises_accuses_others(
    error: type[RuntimeError], monkeypatch: pytest.MonkeyPatch
) -> None:
    def raising(number: int, processes: Any) -> list[int]:
        raise error("said so")

    monkeypatch.setattr(agreement, "gathered", raising)
    optimizer = torchclip.SGD([parameter()], lr=0.1, clip=1.0, backend="cpu")
    wanted = "^said so" if error is NotImplementedError else "did not all take part"
    with pytest.raises(RuntimeError, match=wanted):
        optimizer.step()


def test_clipping_by_a_function() -> None:
    p = parameter()
    optimizer = build("adamw", [p])
    norm = torchclip.clip_grad_norm_([p], 0.5)
    optimizer.step()
    assert float(norm) > 0.5 and float(p.grad.to_local()[0, 0]) < 1.0


def test_mesh_of_others() -> None:
    """This process is rank 0."""
    others = DeviceMesh("cpu", [1])
    part = DTensor.from_local(torch.ones(0, 3), others, [Shard(0)], run_check=False, shape=(4, 3), stride=(3, 1))
    for params, options in (
        ([torch.nn.Parameter(torch.ones(2))], {"norm_group": others}),
        ([torch.nn.Parameter(torch.ones(2))], {"loss_group": others}),
        ([{"params": [torch.nn.Parameter(torch.ones(2))], "norm_group": others}], {}),
    ):
        with pytest.raises(ValueError, match=r"_group is one of ranks \[1\], and this is rank 0: give each process"):
            torchclip.SGD(params, lr=0.1, **options)
    with pytest.raises(ValueError, match=r"^parameter 0 .* over ranks \[1\], and this is rank 0, which holds nothing"):
        torchclip.SGD([torch.nn.Parameter(part)], lr=0.1)
    with pytest.raises(ValueError, match=r"^the mesh of a DTensor is one of ranks \[1\], and this is rank 0"):
        torchclip.get_total_norm([part])
