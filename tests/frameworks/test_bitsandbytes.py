"""bitsandbytes: its state dicts load, and the steps that follow are its own."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import Tensor

import torchclip

bnb = pytest.importorskip("bitsandbytes", reason="bitsandbytes is of the extra 'test-frameworks'", exc_type=ImportError)

SHAPES = [(64, 100), (10,)]


def parameters() -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def take_steps(optimizer: torch.optim.Optimizer, first: int, last: int) -> list[Tensor]:
    params = optimizer.param_groups[0]["params"]
    for step in range(first, last + 1):
        generator = torch.Generator().manual_seed(step)
        for parameter in params:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()
    return [parameter.detach().clone() for parameter in params]


def through_a_file(saved: Any) -> Any:
    file = io.BytesIO()
    torch.save(saved, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


CLASSES: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "AdamW": (torchclip.AdamW, {"lr": 1e-2, "weight_decay": 0.1}, {}),
    "Lion": (torchclip.Lion, {"lr": 1e-3}, {}),
    "SGD": (torchclip.SGD, {"lr": 1e-2}, {"momentum": 0.9}),
    "RMSprop": (torchclip.RMSprop, {"lr": 1e-3}, {}),
    "Adagrad": (torchclip.Adagrad, {"lr": 1e-2}, {}),
}


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("bits", [32, 8])
def test_its_checkpoint_goes_on(name: str, bits: int) -> None:
    """In 32 bits as it would itself; of 8 the state is what its own function makes of its codes."""
    cls, options, more = CLASSES[name]
    theirs = getattr(bnb.optim, f"{name}{bits}bit")(parameters(), **options, **more)
    values = take_steps(theirs, 1, 5)
    ours = cls([torch.nn.Parameter(value) for value in values], **options, **more)
    saved = through_a_file(theirs.state_dict())
    ours.load_state_dict(saved)
    held, own = saved["state"][0]["__bnb_optimizer_quant_state__"], ours.state[ours.param_groups[0]["params"][0]]
    slots = [key for key in own if key != "step"]
    assert len(slots) == sum(key.startswith("state") for key in held)
    for number, slot in enumerate(slots, 1):
        want = held[f"state{number}"]
        if bits == 8:
            want = bnb.functional.dequantize_blockwise(
                want, absmax=held[f"absmax{number}"], code=held[f"qmap{number}"], blocksize=256
            )
        torch.testing.assert_close(own[slot], want, rtol=1e-6, atol=0)
    if bits == 32:
        for came, want in zip(take_steps(ours, 6, 8), take_steps(theirs, 6, 8)):
            torch.testing.assert_close(came, want, rtol=1e-5, atol=1e-6)
