"""Seeds of the draws, and torch's own generator."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

import torchclip
from builders import leaves
from torchclip import (
    GradientDropout,
    GradientNoise,
    Lookahead,
    LRDropout,
    SqrtDecay,
    ZClip,
)

DRAWING = (GradientNoise(), GradientDropout(0.5), LRDropout(0.5))


def stepped(backend: str, **options: Any) -> torch.Tensor:
    """A parameter after a step."""
    param = torch.nn.Parameter(torch.zeros(200))
    param.grad = torch.ones(200)
    torchclip.SGD([param], lr=1.0, **options, backend=backend).step()
    return param.detach()


@pytest.mark.parametrize("extension", DRAWING, ids=lambda extension: type(extension).__name__)
def test_seeds(extension: object, backend: str) -> None:
    def drawn(**options: Any) -> torch.Tensor:
        return stepped(backend, extensions=(extension,), **options)

    torch.manual_seed(3)
    before = torch.get_rng_state()
    fixed = drawn(seed=8)
    assert torch.equal(torch.get_rng_state(), before), "a given seed leaves torch's generator alone"
    first, second = drawn(), drawn()
    assert not torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(3)
    assert torch.equal(drawn(), first), "without a seed the draws follow torch.manual_seed"
    assert torch.equal(drawn(), second) and not torch.equal(first, second)
    torch.manual_seed(4)
    assert not torch.equal(drawn(), first)
    assert torch.equal(drawn(seed=8), fixed) and not torch.equal(drawn(seed=9), fixed)


@pytest.mark.parametrize(
    "options", [{}, {"extensions": (Lookahead(),)}, {"clip": ZClip(), "step_size": SqrtDecay()}, {"seed": 3}], ids=str
)
def test_what_draws_nothing_leaves_the_generator_alone(options: dict[str, Any], backend: str) -> None:
    before = torch.get_rng_state()
    stepped(backend, **options)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_step_does_not_advance_the_generator(backend: str) -> None:
    optimizer, late = torchclip.SGD(leaves(), lr=0.1, extensions=DRAWING, backend=backend), leaves(1)
    before = torch.get_rng_state()
    optimizer.step()
    copy.deepcopy(optimizer).step()
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    optimizer.add_param_group({"params": late})
    optimizer.step()
    assert torch.equal(torch.get_rng_state(), before)
