"""torchclip.clip_grad_norm_ and get_total_norm within torch.compile, and over generators: as torch's."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import torchclip

pytestmark = pytest.mark.usefixtures("forget_graphs")


def with_gradients() -> list[nn.Parameter]:
    params = [nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(5))]
    params[0].grad, params[1].grad = torch.tensor([2.0, -2.0, 1.0]), torch.full((2, 2), 2.0)  # norm 5
    return params


OPTIONS: dict[str, dict[str, Any]] = {
    "two": {},
    "three": {"norm_type": 3.0},
    "largest": {"norm_type": math.inf},
    "foreach": {"foreach": True},
    "loop": {"foreach": False},
}
NORMS = {"two": 5.0, "three": 49 ** (1 / 3), "largest": 2.0, "foreach": 5.0, "loop": 5.0}


@pytest.mark.parametrize("max_norm", [0.5, 100.0])
@pytest.mark.parametrize("name", OPTIONS)
def test_clipping_is_one_graph(name: str, max_norm: float) -> None:
    params = with_gradients()

    def clip() -> torch.Tensor:
        return torchclip.clip_grad_norm_(params, max_norm, **OPTIONS[name])

    norm = torch.compile(clip, fullgraph=True, backend="aot_eager")()
    assert norm.item() == pytest.approx(NORMS[name])
    factor = min(1.0, max_norm / (NORMS[name] + 1e-6))
    assert params[0].grad.tolist() == pytest.approx([2 * factor, -2 * factor, factor])
    assert params[1].grad.flatten().tolist() == pytest.approx([2 * factor] * 4)
    assert params[2].grad is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_the_norm_is_one_graph(dtype: torch.dtype) -> None:
    tensors = [torch.tensor([300.0], dtype=dtype), torch.tensor([400.0, 0.0], dtype=dtype)]
    norm = torch.compile(torchclip.get_total_norm, fullgraph=True, backend="aot_eager")(tensors)
    assert norm.item() == 500.0
    assert norm.dtype is torchclip.get_total_norm(tensors).dtype


def test_a_model_is_trained_in_one_graph() -> None:
    """Clipping between backward and step, as Hugging Face's and Lightning's loops have it."""
    model, copy = nn.Linear(4, 2), nn.Linear(4, 2)
    copy.load_state_dict(model.state_dict())
    inputs = torch.randn(8, 4)

    def train(network: nn.Module, optimizer: torch.optim.Optimizer, clip: Callable[..., Any]) -> torch.Tensor:
        norm: torch.Tensor = clip(network.parameters(), 0.1)
        optimizer.step()
        return norm

    ours = torchclip.SGD(model.parameters(), lr=0.5, backend="reference")
    theirs = torch.optim.SGD(copy.parameters(), lr=0.5)
    for network in (model, copy):
        network(inputs).square().sum().backward()
    norm = torch.compile(train, fullgraph=True, backend="eager")(model, ours, torchclip.clip_grad_norm_)
    assert norm.item() == pytest.approx(train(copy, theirs, nn.utils.clip_grad_norm_).item())
    assert norm > 0.1
    for param, other in zip(model.parameters(), copy.parameters()):
        torch.testing.assert_close(param, other)


@pytest.mark.parametrize("clip", [torchclip.clip_grad_norm_, nn.utils.clip_grad_norm_], ids=["ours", "torchs"])
def test_a_generator_that_was_used_up_is_warned_of(clip: Callable[..., torch.Tensor]) -> None:
    params = (param for param in with_gradients())
    assert clip(params, 1.0).item() == pytest.approx(5.0)
    words = "^`parameters` is an empty generator, no gradient clipping will occur.$"
    with pytest.warns(UserWarning, match=words) as caught:
        assert clip(params, 1.0).item() == 0.0
    assert len(caught) == 1 and caught[0].filename == __file__


@pytest.mark.parametrize("empty", [[], (), [nn.Parameter(torch.zeros(2))]], ids=["list", "tuple", "no_gradient"])
def test_an_empty_list_is_not_warned_of(empty: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torchclip.clip_grad_norm_(empty, 1.0).item() == 0.0
        assert torchclip.clip_grad_norm_((param for param in [nn.Parameter(torch.zeros(2))]), 1.0).item() == 0.0
