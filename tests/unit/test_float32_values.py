"""Parameters and state as float32 values, and back: whatever else the optimizer keeps of them goes with."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

import torchclip
from torchclip import Blockwise8bit, Lookahead, MasterWeights, SplitMaster, StateDtype, WeightEMA

SPARSE: dict[str, tuple[type[torchclip.FusedOptimizer], dict[str, Any]]] = {
    "grda": (torchclip.GRDA, {"c": 0.02}),
    "lin_breg": (torchclip.LinBreg, {"lam": 0.05, "momentum": 0.5}),
    "ada_breg": (torchclip.AdaBreg, {"lam": 0.05, "target_sparsity": 0.5}),
}


def stepped(optimizer: torchclip.FusedOptimizer, gradient: float = 1.0, steps: int = 1) -> None:
    for _ in range(steps):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.full_like(parameter, gradient)
        optimizer.step()


def weight(dtype: torch.dtype = torch.float32, *numbers: float) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.tensor(numbers or (1.0, -2.0, 0.5), dtype=dtype))


@pytest.mark.parametrize("policy", [None, SplitMaster(), MasterWeights()], ids=["none", "split", "master"])
@pytest.mark.parametrize("rule", SPARSE)
def test_an_accumulator_goes_with_the_values(rule: str, policy: torchclip.Precision | None) -> None:
    """A step at lr = 0 leaves what was loaded."""
    cls, arguments = SPARSE[rule]
    arguments = {name: value for name, value in arguments.items() if name != "momentum"}
    parameter = weight(torch.float32 if policy is None else torch.bfloat16)
    optimizer = cls([parameter], lr=0.1, precision=policy, **arguments)
    stepped(optimizer, steps=3)
    values = torch.tensor([5.1, -0.7, 0.0])
    optimizer.load_float32_parameters([values])
    optimizer.param_groups[0]["lr"] = 0.0
    stepped(optimizer, 0.0)
    torch.testing.assert_close(
        optimizer.float32_parameters()[0], values, rtol=1e-6, atol=2e-2 * ("target" in str(arguments))
    )


@pytest.mark.parametrize(
    "policy", [SplitMaster(), MasterWeights(), Blockwise8bit(min_elements=0)], ids=["split", "master", "blocks"]
)
def test_a_model_that_was_cast_after_a_step_is_refused(policy: torchclip.Precision) -> None:
    """Its parameters are rounded, and the state is beside others."""
    module = torch.nn.Linear(3, 3).bfloat16()
    optimizer = torchclip.AdamW(module.parameters(), precision=policy)
    stepped(optimizer)
    module.zero_grad()
    module.double()
    for convert in (optimizer.float32_parameters, optimizer.float32_state_dict):
        with pytest.raises(TypeError, match=r"parameter 0 .* is torch.float64, and precision=.* cast the model before"):
            convert()
    module.bfloat16()
    assert "exp_avg_absmax" not in optimizer.float32_state_dict()["state"][0]


def test_slow_weights_go_with_the_values() -> None:
    parameter = weight()
    optimizer = torchclip.SGD([parameter], lr=0.1, extensions=(Lookahead(k=2),))
    stepped(optimizer)
    optimizer.load_float32_parameters([torch.full((3,), 8.0)])
    stepped(optimizer, 0.0)
    assert parameter.tolist() == [8.0] * 3


def test_real_values_into_complex_parameters() -> None:
    parameter = torch.nn.Parameter(torch.zeros(2, dtype=torch.complex64))
    torchclip.SGD([parameter], lr=0.1).load_float32_parameters([torch.tensor([1.0, 2.0])])
    assert parameter.tolist() == [1, 2]


BAD: dict[str, tuple[Any, type[Exception], str]] = {
    "list": ([1.0, 2.0, 3.0], TypeError, r"got list for parameter 1 of param group 0.*torch.as_tensor"),
    "meta": (torch.ones(3, device="meta"), TypeError, "on meta for parameter 1"),
    "sparse": (torch.ones(3).to_sparse(), TypeError, "sparse_coo.* for parameter 1"),
    "complex": (torch.ones(3, dtype=torch.complex64), TypeError, "complex64.*dense one of floating-point numbers"),
    "integers": (torch.ones(3, dtype=torch.int64), TypeError, "int64.*dense one of floating-point numbers"),
    "shape": (torch.ones(2), ValueError, r"of shape \(2,\) for parameter 1.*holds \(3,\)"),
}


@pytest.mark.parametrize("value, exception, message", BAD.values(), ids=BAD)
def test_a_value_that_does_not_fit_leaves_everything(value: Any, exception: type[Exception], message: str) -> None:
    parameters = [weight(torch.bfloat16), weight(torch.bfloat16)]
    optimizer = torchclip.SGD(parameters, lr=0.1, precision=SplitMaster())
    with pytest.raises(exception, match=message):
        optimizer.load_float32_parameters([torch.zeros(3), value])
    assert parameters[0].tolist() == [1.0, -2.0, 0.5] and not optimizer.state


def test_a_frozen_parameter_may_be_of_any_type() -> None:
    frozen = weight().requires_grad_(False)
    optimizer = torchclip.AdamW([weight(torch.bfloat16), frozen], precision=SplitMaster())
    optimizer.load_float32_parameters([value + 1 for value in optimizer.float32_parameters()])
    assert frozen.tolist() == [2.0, -1.0, 1.5]


@pytest.mark.parametrize("policy", [SplitMaster(), MasterWeights()], ids=["split", "master"])
def test_within_averaged_the_values_are_the_averages(policy: torchclip.Precision) -> None:
    parameter = weight(torch.bfloat16)
    optimizer = torchclip.SGD([parameter], lr=0.1, precision=policy, extensions=(WeightEMA(0.5, warmup=False),))
    stepped(optimizer, steps=2)
    before = optimizer.float32_parameters()[0]
    with optimizer.averaged():
        assert torch.equal(optimizer.float32_parameters()[0], optimizer.state[parameter]["ema"])
        with pytest.raises(RuntimeError, match="within averaged"):
            optimizer.load_float32_parameters([before])
    assert torch.equal(optimizer.float32_parameters()[0], before)


@pytest.mark.parametrize("policy", [None, SplitMaster(), SplitMaster(state=StateDtype("bfloat16"))], ids=repr)
def test_a_float32_state_dict_is_a_copy(policy: torchclip.Precision | None) -> None:
    optimizer = torchclip.AdamW([weight(torch.float32 if policy is None else torch.bfloat16)], precision=policy)
    stepped(optimizer)
    saved = optimizer.float32_state_dict()
    before = copy.deepcopy(saved["state"])
    stepped(optimizer)
    torch.testing.assert_close(saved["state"], before, rtol=0, atol=0)


def test_a_hook_may_rename_the_keys() -> None:
    optimizer = torchclip.AdamW([weight(torch.bfloat16)], precision=SplitMaster())
    stepped(optimizer)

    def rename(_: Any, saved: dict[str, Any]) -> dict[str, Any]:
        groups = [{**group, "params": ["weight"]} for group in saved["param_groups"]]
        return {"state": {"weight": saved["state"][0]}, "param_groups": groups}

    optimizer.register_state_dict_post_hook(rename)
    assert optimizer.float32_state_dict()["state"]["weight"].keys() == {"step", "exp_avg", "exp_avg_sq"}


MADE_OF_THE_PARAMETER: dict[str, tuple[type[torchclip.FusedOptimizer], dict[str, Any]]] = {
    "slow": (torchclip.AdamW, {"precision": StateDtype("bfloat16"), "extensions": (Lookahead(k=2),)}),
    "ema": (torchclip.AdamW, {"precision": SplitMaster(), "extensions": (WeightEMA(0.5),)}),
    "accumulator": (torchclip.GRDA, {"precision": MasterWeights()}),
    "sub_grad": (torchclip.LinBreg, {"lam": 0.1, "precision": SplitMaster()}),
}


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("name", MADE_OF_THE_PARAMETER)
@pytest.mark.parametrize("backend", ["reference", "cpu", "cuda"], indirect=True)
def test_no_state_asks_for_a_gradient(backend: str, name: str, inference: bool) -> None:
    cls, arguments = MADE_OF_THE_PARAMETER[name]
    parameter = weight(torch.bfloat16)
    optimizer = cls([parameter], lr=0.1, backend=backend, **arguments)
    with torch.inference_mode(inference):
        stepped(optimizer)
    assert name in optimizer.state[parameter]
    for tensor in optimizer.state[parameter].values():
        assert not tensor.requires_grad and not tensor.is_inference()
