"""State of DTensors, loaded or put there by hand, and what torch.distributed.checkpoint makes of one process's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.tensor import DeviceMesh, Replicate, Shard, distribute_tensor, init_device_mesh

import torchclip
from memory_guard import same_bits
from shards import as_one_of_two, parameter, sharded

_two_ranks = pytest.fixture(autouse=True)(as_one_of_two)


def _state_otherwise() -> dict[str, Any]:
    """Of a tensor [4, 4] on the first of two processes, by how it lies."""
    whole, mesh = torch.ones(4, 4), init_device_mesh("cpu", (2,))
    return {
        "a plain tensor": whole,
        r"placements \(Shard\(dim=1\),\) over ranks \[0, 1\]": distribute_tensor(whole, mesh, [Shard(1)]),
        r"placements \(Replicate\(\),\) over": distribute_tensor(whole, mesh, [Replicate()]),
        r"over ranks \[1, 0\]": distribute_tensor(whole, DeviceMesh("cpu", [1, 0]), [Shard(0)]),
    }


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("is_loaded", [True, False])
def test_state_that_lies_otherwise(backend: str, is_loaded: bool) -> None:
    """Of whole tensors, or spread in another way: loaded, or put there by hand between steps."""
    for reason, value in _state_otherwise().items():
        p = torch.nn.Parameter(sharded(torch.ones(4, 4)))
        optimizer = torchclip.AdamW([p], lr=0.1, backend=backend)
        for _ in range(2):
            p.grad = sharded(torch.ones(4, 4))
            optimizer.step()
        before, saved = p.to_local().clone(), optimizer.state_dict()
        held = saved["state"][0] if is_loaded else optimizer.state[p]
        held["exp_avg_sq"] = value
        wanted = rf"'exp_avg_sq' of parameter 0 .*{reason}.*Shard\(dim=0\).*set_optimizer_state_dict"
        with pytest.raises(RuntimeError, match=wanted):
            optimizer.load_state_dict(saved) if is_loaded else optimizer.step()
        assert same_bits(p.to_local(), before)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_state_of_shards_for_a_plain_parameter(backend: str) -> None:
    plain, p = torch.nn.Parameter(torch.ones(4, 3)), parameter()
    optimizer, other = (torchclip.AdamW([one], lr=0.1, backend=backend) for one in (plain, p))
    other.step()
    with pytest.raises(RuntimeError, match="'exp_avg' of parameter 0 .* is a DTensor .* where a plain tensor is want"):
        optimizer.load_state_dict(other.state_dict())
    optimizer.state[plain] = dict(other.state[p])
    plain.grad = torch.ones(4, 3)
    with pytest.raises(RuntimeError, match="'exp_avg' of parameter 0 .* is a DTensor .* where a plain tensor is want"):
        optimizer.step()
    assert bool((plain == 1).all())


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_numbers_of_rows_and_blocks_lie_as_rows_do(backend: str) -> None:
    """What is no number for each element is checked, too: in a layout that is none of its parameter's."""
    mesh = init_device_mesh("cpu", (2,))
    for optimizer_class, options, shape, placements, name, wanted in (
        (torchclip.AdaGradNorm, {"scope": "row"}, (4, 3), [Shard(1)], "sum", r"Replicate\(\)"),
        (
            torchclip.AdamW,
            {"precision": torchclip.Blockwise8bit(min_elements=256)},
            (4, 512),
            [Shard(0)],
            "exp_avg_absmax",
            r"Shard\(dim=0\)",
        ),
    ):
        p = torch.nn.Parameter(distribute_tensor(torch.ones(shape), mesh, placements))
        optimizer = optimizer_class([p], lr=0.1, backend=backend, **options)
        p.grad = distribute_tensor(torch.ones(shape), mesh, placements)
        optimizer.step()
        saved = optimizer.state_dict()
        optimizer.load_state_dict(saved)
        held = saved["state"][0][name]
        saved["state"][0][name] = torch.ones(held.shape)
        with pytest.raises(RuntimeError, match=f"'{name}' of parameter 0 .* is a plain tensor where .*{wanted}"):
            optimizer.load_state_dict(saved)


@pytest.mark.parametrize("key", ["clip", "norm_group", "none"])
def test_flattened_state_of_a_group_with_settings_of_its_own(key: str) -> None:
    """torch asks the state for every key of the group that loads it."""
    options = StateDictOptions(flatten_optimizer_state_dict=True)
    own = {"clip": 0.25, "norm_group": torch.distributed.new_group([0]), "none": None}[key]
    key = "clip" if key == "none" else key
    saved: dict[str, Any] = {}
    for number in range(2):
        model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
        groups = [{"params": model[0].parameters()}, {"params": model[1].parameters(), key: own}]
        optimizer = torchclip.SGD(groups, lr=0.1 + number, momentum=0.9, clip=1.0)
        if number == 0:
            saved = get_optimizer_state_dict(model, optimizer, options=options)
            assert saved[f"param_groups.1.weight.{key}"] is None
        else:
            set_optimizer_state_dict(model, optimizer, saved, options=options)
            assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.1]
            assert optimizer.param_groups[1][key] is own and key not in optimizer.param_groups[0]
