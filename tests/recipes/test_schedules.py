"""recipes.algorithms: what lr and gamma are in every epoch, beside torch's own scheduler where it has one."""

from __future__ import annotations

import argparse
import math

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

import torchclip
from recipes.algorithms import SCHEDULES, Schedule, epochs_of

LOSSES = (3.0, 2.0, 1.0, *[1.0] * 7, 0.99995, 0.5, *[0.6] * 13, math.nan, 0.4, *[0.39999] * 8)
"""Falls, stands, falls by less than a ten-thousandth, and stands again for longer than two patiences."""


def mix_clip(**options: float) -> torchclip.MixClip:
    """Two param groups, since every one of them has its own lr and gamma."""
    groups = [
        {"params": [nn.Parameter(torch.ones(2))]},
        {"params": [nn.Parameter(torch.ones(2))], "lr": 0.3, "gamma": 0.7},
    ]
    return torchclip.MixClip(groups, lr=2.0, gamma=5.0, **options)


def factors(schedule: Schedule, optimizer: torch.optim.Optimizer, epoch: int) -> list[float]:
    """lr and gamma of both groups, over what they began with."""
    schedule.start_epoch(epoch)
    first, second = optimizer.param_groups
    return [first["lr"] / 2.0, first["gamma"] / 5.0, second["lr"] / 0.3, second["gamma"] / 0.7]


@pytest.mark.parametrize(
    ("name", "epochs", "wanted"),
    [
        ("milestones", "2,3,5", [1, 1, 0.1, 0.01, 0.01]),
        ("milestones", "3", [1, 1, 1]),
        ("linear", "10", [1, 1, 1, 1, 1, 1 - 0.99 / 4, 1 - 0.99 / 2, 1 - 0.99 * 3 / 4, 0.01, 0.01]),
        ("plateau", "3", [1, 1, 1]),
    ],
)
def test_lr_and_gamma_of_every_group_follow(name: str, epochs: str, wanted: list[float]) -> None:
    optimizer = mix_clip()
    schedule = Schedule(name, optimizer, epochs_of(epochs))
    assert schedule.epochs == len(wanted)
    for epoch, factor in enumerate(wanted):
        assert factors(schedule, optimizer, epoch) == pytest.approx([factor] * 4)


def test_the_factor_of_a_step_is_on_top_and_lasts_for_one_call() -> None:
    optimizer = mix_clip()
    schedule = Schedule("milestones", optimizer, [1, 2])
    schedule.start_epoch(1, 0.5)
    assert optimizer.param_groups[0]["gamma"] == pytest.approx(0.25)
    schedule.start_epoch(1)
    assert optimizer.param_groups[0]["gamma"] == pytest.approx(0.5)


def test_plateau_is_torchs_with_gamma_taken_along() -> None:
    optimizer = mix_clip()
    schedule = Schedule("plateau", optimizer, [len(LOSSES)])
    theirs = torch.optim.SGD([{"params": [nn.Parameter(torch.ones(2))], "lr": lr} for lr in (2.0, 0.3)])
    torchs = ReduceLROnPlateau(theirs, patience=5)
    seen = set()
    for epoch, loss in enumerate(LOSSES):
        schedule.start_epoch(epoch)
        for ours, other, gamma in zip(optimizer.param_groups, theirs.param_groups, (5.0, 0.7)):
            assert ours["lr"] == pytest.approx(other["lr"], rel=1e-12)
            assert ours["gamma"] / gamma == pytest.approx(schedule.factor(epoch), rel=1e-12)
        seen.add(schedule.factor(epoch))
        schedule.end_epoch(loss)
        torchs.step(loss)
    assert len(seen) >= 4, "the losses let the factor fall three times at least"


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("cut", range(0, len(LOSSES), 5))
def test_goes_on_from_its_state(name: str, cut: int) -> None:
    def lrs(stopped: bool) -> list[float]:
        optimizer = mix_clip()
        schedule, seen = Schedule(name, optimizer, [len(LOSSES)]), []
        for epoch, loss in enumerate(LOSSES):
            if stopped and epoch == cut:
                state = schedule.state_dict()
                optimizer = mix_clip()
                schedule = Schedule(name, optimizer, [len(LOSSES)])
                schedule.load_state_dict(state)
            schedule.start_epoch(epoch)
            seen.append(optimizer.param_groups[1]["lr"])
            schedule.end_epoch(loss)
        return seen

    assert lrs(stopped=True) == lrs(stopped=False)


@pytest.mark.parametrize(("text", "epochs"), [("80,120,150", [80, 120, 150]), ("1", [1]), (" 2, 4", [2, 4])])
def test_epochs_are_read(text: str, epochs: list[int]) -> None:
    assert epochs_of(text) == epochs


@pytest.mark.parametrize("text", ["", "x", "0", "-1", "3,3", "5,4", "1.5", "1,,2", "0,5"])
def test_what_is_no_list_of_epochs_is_an_error(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is not a list of increasing epochs: 80,120,150 divides"):
        epochs_of(text)


@pytest.mark.parametrize("name", ["linear", "plateau"])
def test_milestones_under_another_schedule_are_an_error(name: str) -> None:
    with pytest.raises(ValueError, match=f"--schedule {name} has no milestones: give --epochs 5, not"):
        Schedule(name, mix_clip(), [2, 5])
