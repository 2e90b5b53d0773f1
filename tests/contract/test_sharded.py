"""DTensor parameters in one process: what a step needs of others is in tests/distributed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.distributed
from torch.distributed.tensor import DTensor, Shard, distribute_tensor, init_device_mesh
from torch.testing._internal.distributed.fake_pg import FakeStore

import torchclip
from builders import LOSS, OPTIMIZERS, build
from memory_guard import same_bits

MEASURING = ("normalized_sgd", "sgd_clip", "mom_clip", "mix_clip", "ada_grad_norm", "ada_grad_norm_row", "ada_loss")
ELEMENTWISE = sorted(OPTIMIZERS.keys() - set(MEASURING))


@pytest.fixture(autouse=True)
def _two_ranks() -> Iterator[None]:
    """Of which this process is one, and the other one is not there: nothing is sent."""
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    yield
    torch.distributed.destroy_process_group()


def sharded(value: torch.Tensor) -> DTensor:
    return distribute_tensor(value, init_device_mesh("cpu", (2,)), [Shard(0)])


def parameter() -> torch.nn.Parameter:
    made = torch.nn.Parameter(sharded(torch.arange(12.0).reshape(4, 3)))
    made.grad = sharded(torch.ones(4, 3))
    return made


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_shard_is_updated_as_a_tensor(name: str) -> None:
    p = parameter()
    local = torch.nn.Parameter(p.detach().to_local().clone())
    local.grad = p.grad.to_local().clone()
    optimizer = build(name, [p])
    assert optimizer.backend == "reference"
    assert "is a DTensor, whose elements the cpu backend cannot reach" in optimizer.backend_reason
    expected = build(name, [local], backend="reference")
    for _ in range(3):
        optimizer.step(loss=LOSS)
        expected.step(loss=LOSS)
    assert same_bits(p.to_local(), local) and not same_bits(local, parameter().to_local())
    assert all(isinstance(value, DTensor) for value in optimizer.state[p].values() if value.shape == p.shape)


@pytest.mark.parametrize("name", ["cpu", "triton", "cuda"])
def test_fused_backend_is_refused(name: str) -> None:
    with pytest.raises(RuntimeError, match=f"backend='{name}' is not available"):
        build("adamw", [("w", parameter())], backend=name)


def test_clipping_by_a_function() -> None:
    p = parameter()
    optimizer = build("adamw", [p])
    norm = torchclip.clip_grad_norm_([p], 0.5)
    optimizer.step()
    assert float(norm) > 0.5 and float(p.grad.to_local()[0, 0]) < 1.0
