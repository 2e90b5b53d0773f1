"""torchtitan's container with optimizers of torchclip: runs beside torch.optim with torch's clipping."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

import torchclip
from framework_runs import MAX_NORM, OPTIONS, Net, assert_alike, assert_alike_numbers, batches, values
from torchclip.backends import choice
from torchclip.integrations import torchtitan as integration
from torchclip.integrations.torchtitan import FusedOptimizersMixin

titan = pytest.importorskip(
    "torchtitan.components.optimizer", reason="torchtitan is of the extra 'test-frameworks'", exc_type=ImportError
)


class Optimizers(FusedOptimizersMixin, titan.OptimizersContainer):
    """As the page on it writes it."""

    @dataclass(kw_only=True, slots=True)
    class Config(titan.OptimizersContainer.Config):
        pass


class Part(nn.Module):
    """A part of the model, whose parameters keep the names that they have in the whole."""

    def __init__(self, name: str, layer: nn.Module) -> None:
        super().__init__()
        self.add_module(name, layer)


def parts_of(net: Net) -> list[nn.Module]:
    return [Part("up", net.up), Part("down", net.down)]


def container(
    parts: list[nn.Module],
    names: dict[str, str] | None = None,
    options: dict[str, Any] | None = None,
    kwargs: dict[str, Any] = OPTIONS,
) -> Any:
    """By patterns of parameters' names the names of optimizers, and what each has once."""
    names = {".*": "torchclip.AdamW"} if names is None else names
    config = Optimizers.Config(
        param_groups=[
            titan.ParamGroupConfig(pattern=pattern, optimizer_name=name, optimizer_kwargs=kwargs)
            for pattern, name in names.items()
        ],
        optimizer_factory_kwargs_by_name={
            name: {"clip": MAX_NORM} if options is None else options for name in names.values()
        },
    )
    return config.build(model_parts=parts)


def train(net: Net, optimizers: Any, steps: range, max_norm: float | None = None) -> list[float]:
    """With two parts of a batch to a step, and from the first step on a schedule over the container's optimizers."""
    schedules = [LambdaLR(each, lambda number: 1 / (1 + number)) for each in optimizers if steps == range(4)]
    losses, data = [], batches()
    for number in steps:
        for x, labels in (data[2 * number], data[2 * number + 1]):
            loss = net(x, labels)["loss"]
            loss.backward()
            losses.append(float(loss.detach()))
        if max_norm is not None:
            nn.utils.clip_grad_norm_(net.parameters(), max_norm)
        optimizers.step()
        for schedule in schedules:
            schedule.step()
        optimizers.zero_grad()
    return losses


@pytest.fixture
def of_torch() -> tuple[list[float], Net]:
    """Of torchtitan's own container."""
    net = Net()
    group = titan.ParamGroupConfig(pattern=".*", optimizer_name="AdamW", optimizer_kwargs=OPTIONS)
    config = titan.OptimizersContainer.Config(param_groups=[group], implementation="for-loop")
    return train(net, config.build(model_parts=[net]), range(4), MAX_NORM), net


SPLITS = {
    "whole": lambda net: container([net]),
    "parts": lambda net: container(parts_of(net)),
    "names": lambda net: container([net], {"bias": "torchclip.AdamW", ".*": "torchclip.adamw"}),
}
"""One optimizer, one for each part, and one for each name."""


@pytest.mark.parametrize("split", SPLITS)
def test_a_run_is_that_of_torch(split: str, of_torch: tuple[list[float], Net]) -> None:
    net = Net()
    optimizers = SPLITS[split](net)
    assert isinstance(optimizers, titan.OptimizersContainer) and len(optimizers) == (1 if split == "whole" else 2)
    losses = train(net, optimizers, range(4))
    assert_alike_numbers(losses, of_torch[0])
    assert_alike(values(net), values(of_torch[1]))


@pytest.mark.parametrize("split", SPLITS)
def test_it_is_resumed_in_the_middle_in_another_split(split: str, tmp_path: Path) -> None:
    import torch.distributed.checkpoint as dcp

    whole, net, again = Net(), Net(), Net()
    straight, first = container([whole]), SPLITS[split](net)
    train(whole, straight, range(2))
    train(net, first, range(2))
    dcp.save({"model": values(net), "optimizer": first.state_dict()}, checkpoint_id=tmp_path, no_dist=True)
    resumed = container(parts_of(again))
    loaded = {"model": values(again), "optimizer": copy.copy(resumed.state_dict())}
    dcp.load(loaded, checkpoint_id=tmp_path, no_dist=True)
    again.load_state_dict(loaded["model"])
    resumed.load_state_dict(loaded["optimizer"])
    assert train(again, resumed, range(2, 4)) == pytest.approx(train(whole, straight, range(2, 4)), rel=1e-5)
    assert_alike(values(again), values(whole))


def test_several_that_share_a_norm_run_where_it_can_be_handed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU's kernels take one; a GPU's backend, as which the CPU's is declared here, does not."""
    if choice.unavailable_reason("cpu") is not None:
        pytest.skip("the compiled passes are not here: make build")
    assert [each.backend for each in container(parts_of(Net()))] == ["cpu", "cpu"]
    monkeypatch.setattr(integration, "ON_DEVICE", ("cpu",))
    assert [each.backend for each in container(parts_of(Net()))] == ["reference", "reference"]
    assert [each.backend for each in container([Net()])] == ["cpu"]


def test_hooks_on_it_are_called() -> None:
    net, called = Net(), []
    optimizers = container([net])
    optimizers.register_step_post_hook(lambda *_: called.append(True))
    train(net, optimizers, range(1))
    assert called == [True]


def test_a_rule_whose_arguments_have_no_defaults_is_made() -> None:
    optimizers = container([Net()], {".*": "torchclip.MixClip"}, {}, {"lr": 0.5, "gamma": 0.25, "momentum": 0.5})
    assert type(optimizers.optimizers[0]) is torchclip.MixClip
    assert optimizers.optimizers[0].param_groups[0]["gamma"] == 0.25


def test_an_optimizer_of_torchs_own_is_made_beside() -> None:
    optimizers = container([Net()], {"bias": "Adam", ".*": "torchclip.SGD"}, {}, {"lr": 0.1})
    assert [type(each) for each in optimizers] == [torch.optim.Adam, torchclip.SGD]


@pytest.mark.parametrize(
    "names, options",
    [
        ({".*": "torchclip.NormalizedSGD"}, {}),
        ({".*": "torchclip.SGD"}, {"clip": torchclip.ClipByTensorNorm(1.0)}),
        ({"bias": "torchclip.NormalizedSGD", ".*": "torchclip.SGD"}, {}),
    ],
)
def test_what_shares_no_norm_is_refused(names: dict[str, str], options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="optimizers of one process share"):
        container(parts_of(Net()) if len(names) == 1 else [Net()], names, options, {"lr": 0.1})


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match="did you mean AdamW"):
        container([Net()], {".*": "torchclip.AdmW"})
    with pytest.raises(NotImplementedError, match="AdmW"):
        container([Net()], {".*": "AdmW"})
