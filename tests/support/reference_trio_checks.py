"""What is compared after each step of a trio."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import Parameter

from builders import assert_state_is_new
from runs import COUNTED, Key, Run, Yardstick
from torchclip.policies.clip import measures

if TYPE_CHECKING:
    from reference_trio import Trio

BEFORE, STEP = 0, 1
"""The numbers under which values are recorded, each step by itself."""


def values_before(trio: Trio) -> dict[Key, Tensor]:
    """Parameters and state before a step, whose sizes its errors are measured by too: a sum of two may be small."""
    values: dict[Key, Tensor] = {}
    for position, param in enumerate(trio.doubles):
        for name, value in {"parameter": param.detach(), **trio.exact.state.get(param, {})}.items():
            values[BEFORE, position, name] = value.to(torch.float64, copy=True)
    return values


def compare(trio: Trio, before: dict[Key, Tensor], taken: bool) -> None:
    """Values and types of the tested optimizer; fails when one is too far from float64.

    Args:
        trio: after the step.
        before: the values before it.
        taken: whether there was anything to do, and nothing said to skip it.
    """
    tested, copied, exact = (record(optimizer, params, taken, trio.counts_clipping) for optimizer, params in trio.all)
    for position in range(len(trio.params)):
        made = {(STEP, position, name) for name in made_for_no_step(trio, position)}
        tested = only(tested, tested.values.keys() - made)
    odd = tested.values.keys() ^ exact.values.keys()
    assert not odd, f"there are {odd} in one of the two"
    # What comes from all parameters, as norms do, is as exact as the least exact of them.
    dtypes = [param.dtype for param in trio.params]
    least = max(dtypes, key=lambda dtype: torch.finfo(dtype).eps)
    shares_norms = trio.tested.spec.clips_itself or measures(trio.tested.clip)
    finite = {key for key, value in copied.values.items() if value.isfinite().all()}
    for dtype in set(dtypes):
        positions = {i for i, other in enumerate(dtypes) if other is dtype} | ({-1} if dtype is least else set())
        keys = {key for key in exact.values if key[1] in positions}
        arithmetic = least if shares_norms else dtype
        expected = Run({**only(exact, keys).values, **before})
        yardstick = Yardstick(expected, only(copied, keys & finite), [], arithmetic)
        for key in keys:
            check(yardstick, tested, copied, key)
    check_zeros(trio)


def record(optimizer: torch.optim.Optimizer, params: list[Parameter], taken: bool, counts_clipping: bool) -> Run:
    """What a step has left behind. One that was not taken may have ended before all was measured."""
    run = Run()
    run.record(optimizer, params, STEP)
    for name, value in optimizer.metrics().items():
        counted = name == "clipped_fraction" and counts_clipping
        if counted or (name in ("direction_norm", "lr_scale") and taken):
            run.values[STEP, -1, name] = value.double()
    variance, mean = (STEP, -1, "shared.norm_variance"), (STEP, -1, "shared.norm_mean")
    if variance in run.values:  # a small difference of squares; the sum is as exact as the norms are
        run.values[variance] = run.values[variance] + run.values[mean] ** 2
    return run


def check(yardstick: Yardstick, tested: Run, copied: Run, key: Key) -> None:
    """One value."""
    _, position, name = key
    where = f"parameter {position}" if position >= 0 else "the optimizer"
    value, expected = tested.values[key], yardstick.exact.values[key]
    if position >= 0:
        assert tested.dtypes[key] == copied.dtypes[key], f"{name} of {where}"
    if name in COUNTED:
        assert torch.equal(value, expected), f"{name} of {where}: {value}, expected {expected}"
    elif copied.values[key].isfinite().all():
        yardstick.check(key, value, where)
    else:
        assert torch.equal(value.isfinite(), copied.values[key].isfinite()), f"{name} of {where}"


def made_for_no_step(trio: Trio, position: int) -> list[str]:
    """State that was made for a step that was skipped, as the device alone knows: it must be as new."""
    members = [(param, group) for group in trio.tested.param_groups for param in group["params"]]
    param, group = members[position]
    expected = trio.copied.state.get(trio.copies[position], {})
    names = [name for name in trio.tested.state.get(param, {}) if name not in expected]
    assert_state_is_new(trio.tested, param, group, names)
    return names


def check_zeros(trio: Trio) -> None:
    """The share of exact zeros, which is counted within the step for some rules."""
    count = sum(int((param == 0).sum()) for param in trio.params)
    total = sum(param.numel() for param in trio.params)
    sparsity = float(trio.tested.metrics()["sparsity"])
    assert abs(sparsity * total - count) < 0.5, f"{sparsity=}, and {count} of {total} are zero"


def only(run: Run, keys: set[Key]) -> Run:
    """Some values of a run."""
    return Run({key: value for key, value in run.values.items() if key in keys}, run.dtypes)
