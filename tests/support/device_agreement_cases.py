"""Cases of tests/distributed about what one process alone changes where a device adds up: for emulated_cases.py."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

import torchclip
from agreement_cases import add_group, drop_group
from builders import LOSS
from sharded_cases import build, spreads, two_roots
from sharded_twins import Twins, local_part, mesh_of
from torchclip.distributed import device_flag

Change = Callable[[Any], None]
Case = tuple[str, dict[str, Any], Change, Change]
"""Rule, options, what changes the optimizer, and what undoes it."""


class Late(device_flag.Arrival):
    """A number that comes only once it is waited for."""

    def __init__(self, number: Tensor) -> None:
        self._sent = number.clone()
        super().__init__(torch.full_like(number, torch.nan))

    def wait(self) -> float:
        self._here.copy_(self._sent)
        return super().wait()


@contextmanager
def _heard_every(steps: int) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device_flag, "EVERY", steps)
        patch.setattr(device_flag, "Arrival", Late)
        yield


def _written(optimizer: Any) -> list[Tensor]:
    """Everything that a step writes."""
    written = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    written += [value for tensors in optimizer.state.values() for value in tensors.values()]
    for group in optimizer.param_groups:
        written += [value for value in group.get("shared", {}).values() if isinstance(value, Tensor)]
    return written


def _steps_until_all_raise(
    twins: Twins,
    change: Change,
    *,
    undo: Change | None = None,
    most: int = 2,
    scale: float = 1.0,
    said: str = ": rank 0 has .* and rank",
) -> None:
    """The last process changes something, and undoes it before anyone has heard of it where ``undo`` is given.
    ``scale``: of gradients."""
    optimizer, is_last = twins.optimizer, dist.get_rank() == dist.get_world_size() - 1
    written = _written(optimizer)
    before = [local_part(tensor).clone() for tensor in written]
    if is_last:
        change(optimizer)
    for number in range(most + 1):
        twins.give(10 + number, scale=scale)
        try:
            optimizer.step(loss=LOSS)
        except RuntimeError as error:
            assert re.search(f"the processes of this optimizer disagree{said}", str(error)), error
            break
        assert optimizer.step_was_skipped, number
        if number == 0 and is_last and undo is not None:
            undo(optimizer)
    else:
        raise AssertionError("no process has raised")
    numbers = [torch.zeros(1) for _ in range(dist.get_world_size())]
    dist.all_gather(numbers, torch.full((1,), float(number)))
    assert all(one == number for one in numbers), numbers
    assert most // 2 < number, number
    assert all(map(torch.equal, map(local_part, written), before))


def _clip(policy: Any) -> Change:
    return lambda optimizer: setattr(optimizer, "clip", policy)


def _policies(rule: str, first: Any, second: Any, **options: Any) -> Case:
    return rule, {"clip": first, **options}, _clip(second), _clip(first)


def _target(value: float) -> Change:
    return lambda optimizer: optimizer.param_groups[0].update(target_sparsity=value)


ONE, TWO = torchclip.ClipByValue(1.0), torchclip.ClipByValue(2.0)  # which send nothing
TENSORS, OF_LOSS = torchclip.ClipByTensorNorm, torchclip.AdaLossStep()

NUMBERS: Mapping[str, Case] = {
    "policy": _policies("adamw", 1.0, 2.0),
    "tensors": _policies("adamw", TENSORS(1.0), TENSORS(2.0)),
    "rows": _policies("adamw", torchclip.AdaptiveGradientClip(0.1), torchclip.AdaptiveGradientClip(0.2)),
    "spikes": _policies("adamw", 1.0, 2.0, skip=torchclip.SkipSpikes(window=6)),
    "rule": _policies("mix_clip", ONE, TWO),
    "rule by tensors": _policies("mom_clip", ONE, TWO, scope="tensor"),
    "both": _policies("mix_clip", 1.0, 2.0),
    "draws": _policies("mix_clip", ONE, TWO, extensions=(torchclip.GradientDropout(0.3),)),
    "sums": _policies("ada_grad_norm", ONE, TWO),
    "sums of rows": _policies("ada_grad_norm_row", ONE, TWO),
    "zeros": ("lin_breg", {"target_sparsity": 0.05}, _target(0.1), _target(0.05)),
    "loss": _policies("sgd", ONE, TWO, step_size=OF_LOSS),
    "scaler": _policies("sgd", ONE, TWO, found_inf=0.0),
    "scaler and rule": _policies("mix_clip", ONE, TWO, found_inf=0.0),
}
"""What changes by numbers alone, by what is sent."""

KINDS: Mapping[str, Case] = {
    "policy": _policies("adamw", 1.0, TENSORS(0.5)),
    "none": _policies("adamw", 1.0, None),
    "rule": _policies("mix_clip", ONE, 1.0),
    "both": _policies("mix_clip", 1.0, None),
    "loss": _policies("adamw", 1.0, None, step_size=OF_LOSS),
    "parameters": ("adamw", {"clip": 1.0}, add_group, drop_group),
}
"""What changes what is sent."""


def _twins(rule: str, options: Mapping[str, Any]) -> Twins:
    given = dict(options)
    found_inf = given.pop("found_inf", None)
    if "step_size" in given and dist.get_world_size() == 4:
        given["loss_group"] = mesh_of(2, 2)["inner"]  # with a sum of its own
    make = build(rule, **given)

    def seeded(groups: Any, **more: Any) -> Any:
        torch.manual_seed(0)
        return make(groups, **more)

    twins = Twins(seeded, spreads()[0])
    for optimizer in (twins.optimizer, twins.expected):
        if found_inf is not None:
            optimizer.found_inf = torch.tensor(found_inf)
    for number in range(2):
        twins.step(number)
    return twins


def _go_on(twins: Twins, change: Change) -> None:
    """As if nothing had been, and then with what all have changed."""
    twins.step(2)
    assert not twins.optimizer.step_was_skipped
    twins.check(measured=False)
    change(twins.optimizer)
    for number in (3, 4, 5):
        twins.give(number)
        twins.optimizer.step(loss=LOSS)
        assert not twins.optimizer.step_was_skipped


def _all_hear(cases: Mapping[str, Case], scale: float = 1.0) -> None:
    for name, (rule, options, change, undo) in cases.items():
        try:
            with _heard_every(1):
                twins = _twins(rule, options)
                _steps_until_all_raise(twins, change, scale=scale)
                if dist.get_rank() == dist.get_world_size() - 1:
                    undo(twins.optimizer)
                _go_on(twins, change)
        except Exception as error:
            raise AssertionError(f"of {name!r}") from error


def changed_numbers() -> None:
    """What one process alone changes leaves the step out in all, with everything as it was, until all raise in one."""
    _all_hear(NUMBERS)


def changed_kinds() -> None:
    """The same where it changes what is sent: it goes on with what the others send."""
    _all_hear(KINDS)
    error, other = torchclip.ClipByGlobalNorm(1.0, nonfinite="error"), TENSORS(1.0, nonfinite="error")
    _all_hear({"infinite": _policies("adamw", error, other)}, scale=torch.inf)  # of which those would raise alone


def changed_for_one_step() -> None:
    """And undone before anyone has heard of it: the steps are left out all the same, and those of the next time."""
    for rule, options, change, undo in (NUMBERS["policy"], NUMBERS["rule"], KINDS["policy"]):
        with _heard_every(1):
            twins = _twins(rule, options)
            for _ in range(2):
                _steps_until_all_raise(twins, change, undo=undo, said=" in a step before this one")
            _go_on(twins, change)


def heard_when_promised() -> None:
    """In the ninth step behind the change at the earliest, and in the sixteenth at the latest."""
    rule, options, change, undo = NUMBERS["policy"]
    with _heard_every(device_flag.EVERY):
        twins = _twins(rule, options)
        for _ in range(2):
            _steps_until_all_raise(twins, change, undo=undo, most=16, said=" in a step before this one")
        _go_on(twins, change)


def changed_on_two_meshes() -> None:
    """Of which no collective goes over both: every process learns of it."""
    if dist.get_world_size() < 4:
        return
    for policy in (2.0, None):
        with _heard_every(1):
            twins = Twins(build("adamw", clip=1.0), two_roots())
            for number in range(2):
                twins.step(number)
            _steps_until_all_raise(twins, _clip(policy), said=" in a step before this one")


CASES = (
    *("changed_numbers", "changed_kinds", "changed_for_one_step", "changed_on_two_meshes"),
    "heard_when_promised",
)
"""Every one by its name."""
