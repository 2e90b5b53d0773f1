"""What the Triton backend's plan keeps, checks and does not lose, on the interpreter."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import torchclip
from builders import copies_of, draw_gradients, leaves
from torchclip.backends import choice as backends

REASON = backends.unavailable_reason("triton")
IS_INTERPRETED = REASON is None and backends.served_device("triton") == "cpu"

pytestmark = pytest.mark.skipif(not IS_INTERPRETED, reason=REASON or "Triton is not interpreted here")


def pair(cls: type[torch.optim.Optimizer], **options: Any) -> tuple[Any, Any, list[Any], list[Any]]:
    """An optimizer on Triton and one on the reference path, over equal parameters."""
    params = leaves()
    copies = copies_of(params)
    return cls(params, backend="triton", **options), cls(copies, backend="reference", **options), params, copies


def assert_agree(params: list[Any], copies: list[Any]) -> None:
    for ours, theirs in zip(params, copies):
        torch.testing.assert_close(ours, theirs)


def test_a_default_device_elsewhere_changes_nothing() -> None:
    options = {"lr": 0.1, "clip": torchclip.AutoClip(50.0), "extensions": (torchclip.GradientNoise(0.01),), "seed": 3}
    with torch.device("meta"):
        assert torch.empty(0).is_meta
        params = [torch.nn.Parameter(torch.ones(5, device="cpu"))]
        optimizer = torchclip.SGD(params, backend="triton", **options)
        params[0].grad = torch.ones(5, device="cpu")
        optimizer.step()
        optimizer.step()
    copies = [torch.nn.Parameter(torch.ones(5))]
    copies[0].grad = torch.ones(5)
    reference = torchclip.SGD(copies, backend="reference", **options)
    reference.step()
    reference.step()
    assert_agree(params, copies)


@pytest.mark.parametrize("clip", (torchclip.ZClip(warmup_steps=2), torchclip.AutoClip(50.0, window=3)))
def test_shared_numbers_of_a_checkpoint_in_another_type(clip: Any) -> None:
    """One made on Metal has them in float32."""
    ours, theirs, params, copies = pair(torchclip.SGD, lr=0.1, clip=clip)
    for step in range(2):
        draw_gradients(step, params, copies)
        ours.step()
        theirs.step()
    saved = ours.state_dict()
    shared = saved["param_groups"][0]["shared"]
    saved["param_groups"][0]["shared"] = {name: value.float() for name, value in shared.items()}
    ours.load_state_dict(saved)
    for step in range(2, 5):
        draw_gradients(step, params, copies)
        ours.step()
        theirs.step()
    assert_agree(params, copies)
    torch.testing.assert_close(
        ours.param_groups[0]["shared"]["norm_count"], theirs.param_groups[0]["shared"]["norm_count"]
    )


@pytest.mark.parametrize(
    "value",
    (torch.zeros((), dtype=torch.float32), torch.zeros(2, dtype=torch.float64), None),
    ids=("type", "size", "none"),
)
def test_a_shared_number_that_does_not_fit_is_refused(value: torch.Tensor | None) -> None:
    ours, _, params, _ = pair(torchclip.SGD, lr=0.1, clip=torchclip.ZClip())
    ours.step()
    before = [param.detach().clone() for param in params]
    ours.param_groups[0]["shared"]["norm_mean"] = value
    with pytest.raises(RuntimeError, match='"norm_mean".*do not assign to it'):
        ours.step()
    assert all(torch.equal(param, start) for param, start in zip(params, before))


def test_a_first_step_that_was_skipped_stays_one_when_tables_are_made_anew() -> None:
    options = {"momentum": 0.9, "dampening": 0.5, "clip": torchclip.ClipByGlobalNorm(9.0, nonfinite="skip")}
    ours, theirs, params, copies = pair(torchclip.SGD, lr=0.1, **options)
    draw_gradients(0, params, copies)
    for group in (params, copies):
        group[0].grad[0] = torch.inf
        group[2].grad = None
    ours.step()
    theirs.step()
    for step in (1, 2):  # now with one parameter more
        draw_gradients(step, params, copies)
        ours.step()
        theirs.step()
    assert_agree(params, copies)


def test_clipped_fraction_goes_on_when_tables_are_made_anew() -> None:
    ours, theirs, params, copies = pair(torchclip.SGD, lr=0.1, clip=4.0)
    for step in range(6):
        draw_gradients(step, params, copies)
        if step % 2:
            params[1].grad = copies[1].grad = None
        ours.step()
        theirs.step()
    torch.testing.assert_close(ours.metrics()["clipped_fraction"], theirs.metrics()["clipped_fraction"])
