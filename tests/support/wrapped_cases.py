"""Cases of tests/distributed with the wrappers that shard a model, and their backward passes."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import CPUOffloadPolicy, FullyShardedDataParallel, OffloadPolicy, fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)
from torch.nn.parallel import DistributedDataParallel

import torchclip
from builders import OPTIMIZERS
from sharded_twins import alone, assert_near, mesh_of

CLOSE = 2e-6
"""Of parameters after some steps whose gradients differ in the last bits, since batches were added up in parts."""


class Net(nn.Module):
    """Linear layers and a norm; the data have as many features as their widths."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.norm, self.down = nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 5)

    def forward(self, data: Tensor) -> Tensor:
        out: Tensor = self.down(self.norm(self.up(data)).relu())
        return out


def net() -> Net:
    torch.manual_seed(7)
    return Net()


def batch(number: int, rows: int = 8) -> Tensor:
    return torch.randn(rows, 6, generator=torch.Generator().manual_seed(number))


def own_part(data: Tensor) -> Tensor:
    """This process's, where each has as many rows."""
    return data.chunk(dist.get_world_size())[dist.get_rank()]


def train(model: nn.Module, optimizer: Any, parts: Callable[[Tensor], Tensor], steps: range = range(3)) -> list[float]:
    """The norms of the steps."""
    norms = []
    for number in steps:
        optimizer.zero_grad()
        model(parts(batch(number))).square().mean().backward()
        optimizer.step()
        inner = getattr(optimizer, "optim", optimizer)
        norms.append(float(inner.grad_norm))
    return norms


def made(name: str, params: Any, **options: Any) -> Any:
    """The rule, with a clip policy where it has none of its own."""
    cls, given = OPTIMIZERS[name]
    clip = {} if cls.spec.clips_itself else {"clip": 0.5}
    return cls(params, **{**given, **clip, **options})


def singles() -> Iterator[tuple[str, Net, list[float]]]:
    """Of each rule the model and the norms of one process with the whole batches."""
    for name in ("adamw", "mix_clip"):  # a policy in front of the rule, and a rule that measures itself
        model = net()
        norms = train(model, made(name, model.parameters(), norm_group=alone(), backend="reference"), lambda data: data)
        yield name, model, norms


def assert_alike(tested: dict[str, Tensor], single: nn.Module, norms: list[float], expected: list[float]) -> None:
    assert_near(torch.tensor(norms), torch.tensor(expected), CLOSE, "norms")
    for name, value in single.state_dict().items():
        assert_near(tested[name], value, CLOSE, name)


def whole(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: value.full_tensor() if isinstance(value, DTensor) else value for name, value in model.state_dict().items()
    }


def ddp() -> None:
    for name, single, norms in singles():
        model = net()
        wrapped = DistributedDataParallel(model)
        found = train(wrapped, made(name, wrapped.parameters()), own_part)
        assert_alike(whole(model), single, found, norms)


def fsdp2() -> None:
    """With shards that stay where they are computed with, and with shards on the host: the CPU's kernels take both."""
    for name, single, norms in singles():
        for policy in (OffloadPolicy(), CPUOffloadPolicy(pin_memory=False)):
            model = net()
            for module in (model.up, model.down, model):
                fully_shard(module, mesh=mesh_of(dist.get_world_size()), offload_policy=policy)
            optimizer = made(name, model.parameters())
            found = train(model, optimizer, own_part)
            assert optimizer.backend == "cpu", optimizer.backend_reason
            assert_alike(whole(model), single, found, norms)


def tensor_parallel() -> None:
    """With the norm between the layers whole in every process, and with its gradient left in parts."""
    mesh = mesh_of(dist.get_world_size())
    plans: tuple[dict[str, Any], ...] = (
        {"up": ColwiseParallel(output_layouts=Replicate()), "down": RowwiseParallel(input_layouts=Replicate())},
        {
            "up": ColwiseParallel(output_layouts=Shard(0)),
            "norm": SequenceParallel(sequence_dim=0),
            "down": RowwiseParallel(input_layouts=Shard(0)),
        },
    )
    for plan in plans:
        for name, single, norms in singles():
            model = net()
            parallelize_module(model, mesh, plan)
            found = train(model, made(name, model.parameters()), lambda data: data)
            assert_alike(whole(model), single, found, norms)


def fsdp_by_tp() -> None:
    if dist.get_world_size() < 4:
        return
    mesh = mesh_of(2, 2)
    for name, single, norms in singles():
        model = net()
        plan = {"up": ColwiseParallel(output_layouts=Replicate()), "down": RowwiseParallel(input_layouts=Replicate())}
        parallelize_module(model, mesh["inner"], plan)  # type: ignore[arg-type]
        for module in (model.up, model.down, model):
            fully_shard(module, mesh=mesh["outer"])
        found = train(model, made(name, model.parameters()), lambda data: data.chunk(2)[mesh.get_local_rank("outer")])
        assert_alike(whole(model), single, found, norms)


def fsdp1() -> None:
    """Flat, and with the original parameters, of which some processes hold nothing."""
    group = dist.group.WORLD
    for original in (False, True):
        for name, single, norms in singles():
            model = FullyShardedDataParallel(net(), use_orig_params=original, device_id=torch.device("cpu"))
            with pytest.raises(ValueError, match="FSDP1.* say norm_group=model.process_group"):
                made(name, model.parameters())
            found = train(model, made(name, model.parameters(), norm_group=group), own_part)
            with FullyShardedDataParallel.summon_full_params(model):
                assert_alike(whole(model.module), single, found, norms)
        with pytest.raises(ValueError, match=r"^parameter .* that FSDP1 has flattened.* before the model is wrapped"):
            torchclip.param_groups_weight_decay(model, 0.1)
        if original:
            assert len(torchclip.param_groups_per_layer(model)) == 3
        else:
            with pytest.raises(ValueError, match=r"^parameter .*_flat_param' is FSDP1's.*use_orig_params=True"):
                torchclip.param_groups_per_layer(model)
        params = list(model.parameters())
        for refused in (
            {"clip": torchclip.AdaptiveGradientClip()},
            {"extensions": (torchclip.GradientNoise(),)},
            {"precision": torchclip.StateDtype("bfloat16", stochastic=True), "momentum": 0.9},
        ):
            with pytest.raises(ValueError, match="FSDP1"):
                torchclip.SGD(params, lr=0.1, norm_group=group, **refused)
        blocks = torchclip.Blockwise8bit(min_elements=0)
        optimizer = made("adamw", params, norm_group=group, precision=blocks)
        train(model, optimizer, own_part)
        kinds = {optimizer.state[one]["exp_avg"].dtype for one in params if one.numel() > 0 and one in optimizer.state}
        assert kinds == {torch.uint8} and optimizer.backend == "cpu", optimizer.backend_reason


def groups_made_before_fsdp1() -> None:
    """Which have the same parameters when they are pieces."""
    single, model = net(), net()
    expected = torchclip.SGD(torchclip.param_groups_weight_decay(single, 0.5), lr=0.1)
    groups = torchclip.param_groups_weight_decay(model, 0.5)
    wrapped = FullyShardedDataParallel(model, use_orig_params=True, device_id=torch.device("cpu"))
    optimizer = torchclip.SGD(groups, lr=0.1)
    steps(single, expected, range(2))
    steps(wrapped, optimizer, range(2))
    with FullyShardedDataParallel.summon_full_params(wrapped):
        for name, value in single.state_dict().items():
            assert_near(whole(wrapped.module)[name], value, CLOSE, name)


def zero() -> None:
    for name, single, norms in singles():
        model = net()
        wrapped = DistributedDataParallel(model)
        cls, given = OPTIMIZERS[name]
        options = {**given, **({} if cls.spec.clips_itself else {"clip": 0.5})}
        with pytest.raises(ValueError, match="ZeroRedundancyOptimizer.* say norm_group="):
            ZeroRedundancyOptimizer(_two_groups(wrapped), optimizer_class=cls, **options)
        optimizer = ZeroRedundancyOptimizer(
            _two_groups(wrapped), optimizer_class=cls, norm_group=dist.group.WORLD, **options
        )
        found = train(wrapped, optimizer, own_part)
        assert_alike(whole(model), single, found, norms)
        assert "clip" not in optimizer.optim.state_dict()["param_groups"][0]


ZERO_OPTIONS: tuple[tuple[Any, dict[str, Any]], ...] = (
    (torchclip.AdamW, {"lr": 0.05, "clip": torchclip.AutoClip(50.0, window=3)}),
    (torchclip.AdamW, {"lr": 0.05, "clip": 0.5, "extensions": [torchclip.Lookahead(k=2)]}),
    (torchclip.SGD, {"lr": 0.05, "clip": 0.5, "skip": torchclip.SkipSpikes(window=4, sigma=0.5, on=("grad_norm",))}),
    (torchclip.SGD, {"lr": 0.05, "clip": torchclip.ClipByValue(0.1), "step_size": torchclip.SqrtDecay()}),
    (torchclip.AdaGradNorm, {"lr": 0.1, "scope": "row"}),
    (torchclip.MixClip, {"lr": 0.1, "gamma": 1.0, "scope": "tensor"}),
)


def steps(model: nn.Module, optimizer: Any, numbers: range) -> None:
    for number in numbers:
        optimizer.zero_grad()
        model(batch(number)).square().mean().backward()
        optimizer.step()


def zero_goes_on() -> None:
    """With every argument that is no hyperparameter: after a param group was added, and from a checkpoint."""

    for cls, options in ZERO_OPTIONS:
        single, model, again = net(), net(), net()
        expected = cls(list(single.parameters())[:4], norm_group=alone(), backend="reference", **options)
        optimizer, resumed = (
            ZeroRedundancyOptimizer(
                list(each.parameters())[:4], optimizer_class=cls, norm_group=dist.group.WORLD, **options
            )
            for each in (model, again)
        )
        for one, trained in ((expected, single), (optimizer, model)):
            steps(trained, one, range(2))
            one.add_param_group({"params": list(trained.parameters())[4:], "lr": 0.02})
            steps(trained, one, range(2, 4))
        optimizer.consolidate_state_dict(0)
        saved = [None]
        if dist.get_rank() == 0:
            buffer = io.BytesIO()
            torch.save(optimizer.state_dict(), buffer)
            saved = [buffer.getvalue()]
        dist.broadcast_object_list(saved, 0)
        resumed.add_param_group({"params": list(again.parameters())[4:]})
        again.load_state_dict(model.state_dict())
        resumed.load_state_dict(torch.load(io.BytesIO(saved[0]), weights_only=True))
        for one, trained in ((expected, single), (optimizer, model), (resumed, again)):
            steps(trained, one, range(4, 6))
        for name, value in single.state_dict().items():
            assert_near(model.state_dict()[name], value, CLOSE, f"{cls.__name__} {options} {name}")
            assert torch.equal(model.state_dict()[name], again.state_dict()[name]), (cls, options, name)


def groups_of_zero_keep_their_own_clip() -> None:
    model = net()
    first, second = _two_groups(model)
    groups = [{**first, "clip": 0.1}, second]
    optimizer = ZeroRedundancyOptimizer(
        groups, optimizer_class=torchclip.SGD, norm_group=dist.group.WORLD, lr=0.1, clip=0.5
    )
    steps(model, optimizer, range(2))
    assert [group.get("clip") for group in optimizer.optim.param_groups] == [0.1, None]
    assert optimizer.optim.grad_norm.shape == (2,)


def _two_groups(model: nn.Module) -> list[dict[str, Any]]:
    params = list(model.parameters())
    return [{"params": params[:2]}, {"params": params[2:]}]


CASES = (
    "ddp",
    "fsdp2",
    "tensor_parallel",
    "fsdp_by_tp",
    "fsdp1",
    "groups_made_before_fsdp1",
    "zero",
    "zero_goes_on",
    "groups_of_zero_keep_their_own_clip",
)
"""Every one by its name."""
