"""What a user keeps in the state of a parameter beside the rule's, and what happens when state is let go of."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

import torchclip
from recorded_plans import Reader


@pytest.mark.parametrize("many", [1, 12], ids=["one", "a_dozen"])
def test_a_key_that_is_rewritten_changes_nothing(many: int) -> None:
    """No table is built anew for it, which would cost a step as much as the first, and refuse a capture."""
    params = [torch.nn.Parameter(torch.zeros(3)) for _ in range(2)]
    optimizer = torchclip.AdamW(params, lr=0.1, backend="reference")
    for param in params:
        param.grad = torch.ones_like(param)
    optimizer.step()
    reader = Reader(optimizer)
    for step in range(4):
        for param in params:
            optimizer.state[param].update({f"mine {i}": object() for i in range(many)})
        assert reader.refresh() == []
        assert reader.read().changed == (step == 0)
    optimizer.state[params[0]]["exp_avg"] = torch.ones(3)
    assert reader.refresh() == []
    assert reader.read().changed


def test_the_collector_comes_while_a_plan_lets_go(backend: str) -> None:
    """A callback on what the plan held last runs the collector, which asks the plan what it holds."""
    for _ in range(5):
        params = [torch.nn.Parameter(torch.zeros(3)) for _ in range(4)]
        optimizer = torchclip.SGD(params, lr=0.1, momentum=0.9, backend=backend)
        for param in params:
            param.grad = torch.ones_like(param)
            param.owner = optimizer
        optimizer.step()
        watches = [weakref.ref(param, lambda _: gc.collect()) for param in params]
        del optimizer, params, param
        gc.collect()
        assert all(watch() is None for watch in watches)
