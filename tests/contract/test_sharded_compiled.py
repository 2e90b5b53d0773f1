"""Steps that no graph of torch.compile can have: of bits of DTensors, and with what processes send to one another."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed

import torchclip
from builders import LOSS
from shards import as_one_of_two, parameter, sharded

pytestmark = pytest.mark.usefixtures("forget_graphs")

_two_ranks = pytest.fixture(autouse=True)(as_one_of_two)


@pytest.mark.parametrize(
    "precision",
    [torchclip.Blockwise8bit(min_elements=256), torchclip.SplitMaster(), torchclip.StochasticRounding()],
    ids=lambda policy: type(policy).__name__,
)
def test_bits_are_not_compiled(precision: Any) -> None:
    p = torch.nn.Parameter(sharded(torch.ones(4, 512, dtype=torch.bfloat16)))
    p.grad = sharded(torch.ones(4, 512, dtype=torch.bfloat16))
    optimizer = torchclip.SGD([p], lr=0.1, precision=precision)
    with pytest.raises(Exception, match="leave optimizer.step.. out of torch.compile"):
        torch.compile(optimizer.step, backend="eager")()
    assert bool((p.to_local() == 1).all())


REFUSED: dict[str, dict[str, Any]] = {
    "norm": {"clip": 1.0},
    "norm of distinct tensors": {"clip": 1.0, "norm_group": "world", "backend": "reference"},
    "loss": {"step_size": torchclip.AdaLossStep(), "backend": "reference"},
    "draws": {"extensions": (torchclip.GradientNoise(0.1),), "backend": "reference"},
}


@pytest.mark.parametrize("name, is_first", [*((name, True) for name in REFUSED), ("norm", False)])
def test_what_is_sent_is_not_compiled(name: str, is_first: bool) -> None:
    options = {key: value for key, value in REFUSED[name].items() if key != "norm_group"}
    if "norm_group" in REFUSED[name]:
        options["norm_group"] = torch.distributed.group.WORLD
    p = parameter() if name == "norm" else torch.nn.Parameter(torch.ones(3))
    p.grad = torch.ones_like(p)
    optimizer = torchclip.SGD([p], lr=0.1, **options)
    if not is_first:
        optimizer.step(loss=LOSS)
    before = p.detach().clone()
    step = torch.compile(lambda: optimizer.step(loss=LOSS), backend="eager")
    with pytest.raises(
        RuntimeError, match=r"^a step .* cannot be compiled: leave optimizer.step\(\) out of torch.comp"
    ):
        step()
    assert torch.equal(p.detach(), before)
    optimizer.step(loss=LOSS)
    assert not torch.equal(p.detach(), before)
