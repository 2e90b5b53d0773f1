"""timm: its registry makes every optimizer, and a run with one is that of timm's own and its clipping."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

import torchclip
from framework_runs import MAX_NORM, OPTIONS, Net, assert_alike, assert_alike_numbers, batches, values
from torchclip.integrations.timm import PREFIX, register

timm_optim = pytest.importorskip(
    "timm.optim",
    reason="timm is of the extra 'test-frameworks', with a torchvision that fits torch",
    exc_type=ImportError,
)
NAMES = register()
LR = {"lr": 0.05}


def train(
    name: str, parts: int = 2, state: Any = None, **options: Any
) -> tuple[Any, Any, list[float], list[float], Any]:
    """The model, its optimizer, losses, norms, and a copy of both in the middle."""
    from timm.utils import dispatch_clip_grad

    max_norm = options.pop("max_norm", None)
    model = Net()
    optimizer = timm_optim.create_optimizer_v2(model, name, **options)
    data = batches()
    if state is not None:
        model.load_state_dict(state[0])
        optimizer.load_state_dict(state[1])
        data = data[4:]
    losses, norms, middle = [], [], None
    for number, (x, labels) in enumerate(data):
        loss = model(x, labels)["loss"]
        (loss / parts).backward()
        losses.append(float(loss.detach()))
        if (number + 1) % parts:
            continue
        if max_norm is not None:
            dispatch_clip_grad(model.parameters(), max_norm)
        elif "clip" in options:
            optimizer.loss = loss
        optimizer.step()
        if "clip" in options:
            norms.append(float(optimizer.grad_norm))
        optimizer.zero_grad()
        if number == 3:
            middle = (values(model), copy.deepcopy(optimizer.state_dict()))
    return model, optimizer, losses, norms, middle


def test_every_class_has_a_name_that_timm_can_read() -> None:
    classes = {getattr(torchclip, name).__name__ for name in torchclip.optimizers.__all__}
    assert sorted(NAMES) == sorted(PREFIX + name.lower() for name in classes)
    assert not [name for name in NAMES if "_" in name]


def test_registering_again_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """timm would warn of every name."""
    from timm.optim._optim_factory import default_registry

    monkeypatch.setattr(default_registry, "register", lambda info: pytest.fail(info.name))
    assert register() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_timm_makes_and_steps_it(name: str) -> None:
    more = {"lam": 0.01} if name.endswith("breg") else {}  # which has no default
    model, optimizer, _, norms, _ = train(name, **LR, **more, clip=1.0)
    assert type(optimizer).__name__.lower() == name.removeprefix(PREFIX)
    assert all(group["weight_decay"] == 0.0 for group in optimizer.param_groups)
    assert len(norms) == 4 and any(
        not torch.equal(a, b) for a, b in zip(values(model).values(), values(Net()).values())
    )


@pytest.mark.parametrize("name", ["sgd", "adamw", "rmsprop", "nadam", "adagrad"])
def test_a_run_is_that_of_timms_own(name: str) -> None:
    options = {**OPTIONS, "lr": 0.05}
    run = train(PREFIX + name, **options, clip=MAX_NORM)
    plain = train(name, **options, max_norm=MAX_NORM)
    assert_alike_numbers(run[2], plain[2])
    assert_alike(values(run[0]), values(plain[0]))


def test_a_run_is_resumed_in_the_middle() -> None:
    whole = train(PREFIX + "adamw", **LR, clip=MAX_NORM)
    resumed = train(PREFIX + "adamw", **LR, clip=MAX_NORM, state=whole[4])
    assert resumed[2] == whole[2][4:]
    assert_alike(values(resumed[0]), values(whole[0]))


def test_grda_takes_timms_groups() -> None:
    _, optimizer, *_ = train(PREFIX + "grda", **LR, weight_decay=0.0, c=1.0, clip=1.0)
    assert float(optimizer.sparsity()) > 0
    with pytest.raises(ValueError, match="GRDA has no weight_decay"):
        train(PREFIX + "grda", **LR, weight_decay=0.1, clip=1.0)


def test_the_thresholds_of_the_clipping_algorithms_can_be_given() -> None:
    _, optimizer, *_ = train(PREFIX + "mixclip", gamma=0.25, momentum=0.5, **LR, clip=1.0)
    assert optimizer.defaults["gamma"] == 0.25 and optimizer.defaults["momentum"] == 0.5
    assert timm_optim.get_optimizer_class(PREFIX + "mixclip")(Net().parameters()).defaults["gamma"] == 1.0
