"""Arguments that stand for nothing: no extensions by None, and a bound of 0, which is not "no clipping"."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import torchclip
from torchclip import ClipByGlobalNorm


@pytest.mark.parametrize(
    "clip", [0, 0.0, ClipByGlobalNorm(0.0), torchclip.ClipByTensorNorm(0.0), torchclip.ClipByValue(0.0)], ids=repr
)
def test_a_bound_of_0_warns_once(clip: Any, backend: str) -> None:
    with pytest.warns(UserWarning, match="clip=None is what clips nothing") as caught:
        param = torch.nn.Parameter(torch.ones(2))
        optimizer = torchclip.SGD([param], lr=1.0, clip=clip, backend=backend)
        for _ in range(2):
            param.grad = torch.ones(2)
            optimizer.step()
    assert param.tolist() == [1.0, 1.0]
    assert len(caught) == 1 and caught[0].filename == __file__


def test_no_extensions_by_none(backend: str) -> None:
    param = torch.nn.Parameter(torch.ones(2))
    optimizer = torchclip.SGD([param], lr=0.5, extensions=None, backend=backend)
    assert optimizer.extensions == ()
    param.grad = torch.ones(2)
    optimizer.step()
    assert param.tolist() == [0.5, 0.5]
