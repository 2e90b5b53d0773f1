"""What a precision policy does not serve: refused by the constructor, at every step and after every load, in words."""

from __future__ import annotations

import copy
import pickle
import re
from typing import Any

import pytest
import torch

import torchclip
from torchclip import Blockwise8bit, MasterWeights, SplitMaster, StateDtype, StochasticRounding

BAD_POLICIES: dict[str, tuple[Any, dict[str, Any], type[Exception], str]] = {
    "nothing": (StateDtype, {}, ValueError, "gives nothing a type"),
    "float16": (StateDtype, {"dtype": "float16"}, ValueError, "Invalid dtype: 'float16'; state is held in 'float32'"),
    "float64": (StateDtype, {"exp_avg": torch.float64}, ValueError, "Invalid exp_avg: torch.float64"),
    "number": (StateDtype, {"dtype": 8}, TypeError, "Invalid dtype: 8"),
    "stochastic": (StateDtype, {"dtype": "bfloat16", "stochastic": 1}, TypeError, "stochastic=1 must be True or False"),
    "min_elements": (
        Blockwise8bit,
        {"min_elements": -1},
        ValueError,
        "Invalid min_elements: -1; it must be at least 0",
    ),
    "rows": (Blockwise8bit, {"embedding_rows": 2.0}, TypeError, "embedding_rows=2.0 must be an integer"),
    "split_state": (
        SplitMaster,
        {"state": "bfloat16"},
        TypeError,
        "state='bfloat16' of SplitMaster must be StateDtype",
    ),
    "master_state": (MasterWeights, {"state": SplitMaster()}, TypeError, "of MasterWeights must be StateDtype"),
    "rounding_state": (
        StochasticRounding,
        {"state": StateDtype},
        TypeError,
        "of StochasticRounding must be StateDtype",
    ),
}


@pytest.mark.parametrize("kind, arguments, exception, message", BAD_POLICIES.values(), ids=BAD_POLICIES)
def test_a_policy_checks_itself(kind: Any, arguments: Any, exception: type[Exception], message: str) -> None:
    with pytest.raises(exception, match=re.escape(message)):
        kind(**arguments)


def weight(dtype: torch.dtype = torch.bfloat16, size: int = 8) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.ones(size, dtype=dtype))


REFUSED: dict[str, tuple[Any, Any, dict[str, Any], type[Exception], str]] = {
    "string": (torchclip.SGD, weight(), {"precision": "bfloat16"}, TypeError, "precision='bfloat16' must be one of"),
    "class": (torchclip.SGD, weight(), {"precision": SplitMaster}, TypeError, "write SplitMaster(), an instance"),
    "tuple": (torchclip.SGD, weight(), {"precision": (SplitMaster(),)}, TypeError, "SplitMaster(state=StateDtype("),
    "split_float32": (torchclip.SGD, weight(torch.float32), {"precision": SplitMaster()}, TypeError,
                      "parameter 0 of param group 0 of shape (8,) is torch.float32, and precision=SplitMaster("),
    "split_float16": (torchclip.SGD, weight(torch.float16), {"precision": SplitMaster()}, TypeError, "serves bfloat16"),
    "rounding_float16": (torchclip.SGD, weight(torch.float16), {"precision": StochasticRounding()}, TypeError,
                         "is torch.float16"),
    "master_float64": (torchclip.SGD, weight(torch.float64), {"precision": MasterWeights()}, TypeError,
                       "serves bfloat16 or float16 parameters: cast the model"),
    "state_complex": (torchclip.SGD, weight(torch.complex64), {"precision": StateDtype("bfloat16")}, TypeError,
                      "is torch.complex64"),
    "blocks_float64": (torchclip.Adam, weight(torch.float64), {"precision": Blockwise8bit()}, TypeError,
                       "is torch.float64"),
    "grda_state": (torchclip.GRDA, weight(), {"precision": StateDtype("bfloat16")}, ValueError,
                   "StateDtype cannot be combined with grda: its accumulator must not be rounded"),
    "grda_blocks": (torchclip.GRDA, weight(), {"precision": SplitMaster(state=Blockwise8bit())}, ValueError,
                    "Blockwise8bit cannot be combined with grda"),
    "other_slot": (torchclip.SGD, weight(), {"precision": StateDtype(exp_avg="bfloat16")}, ValueError,
                   "names exp_avg, and what sgd may keep for each element is momentum_buffer"),
    "differentiable": (torchclip.SGD, weight(), {"precision": SplitMaster(), "differentiable": True}, ValueError,
                       "contradicts differentiable=True"),
}  # fmt: skip


@pytest.mark.parametrize("cls, parameter, arguments, exception, message", REFUSED.values(), ids=REFUSED)
def test_the_constructor_says_why(
    cls: Any, parameter: Any, arguments: dict[str, Any], exception: type[Exception], message: str
) -> None:
    with pytest.raises(exception, match=re.escape(message)):
        cls([parameter], **arguments)


def test_a_slot_that_is_named_may_come_later(backend: str) -> None:
    first, later = weight(torch.float32), weight(torch.float32)
    first.grad, later.grad = torch.ones(8), torch.ones(8)
    policy = StateDtype(momentum_buffer="bfloat16")
    optimizer = torchclip.SGD([first], lr=0.5, momentum=0, precision=policy, backend=backend)
    optimizer.step()
    assert "momentum_buffer" not in optimizer.state[first]
    optimizer.add_param_group({"params": [later], "momentum": 0.5})
    optimizer.param_groups[0]["momentum"] = 0.5
    optimizer.step()
    for parameter, value in ((first, 0.0), (later, 0.5)):
        assert optimizer.state[parameter]["momentum_buffer"].dtype is torch.bfloat16
        assert torch.equal(parameter.detach(), torch.full((8,), value))
    torchclip.RMSprop([weight()], precision=SplitMaster(state=StateDtype(grad_avg="bfloat16")), backend=backend)


def stepped(precision: Any = None, dtype: torch.dtype = torch.bfloat16) -> tuple[Any, torch.nn.Parameter]:
    parameter = weight(dtype)
    policy = SplitMaster(state=Blockwise8bit(min_elements=0)) if precision is None else precision
    optimizer = torchclip.AdamW([parameter], precision=policy)
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return optimizer, parameter


def test_a_parameter_cast_later_is_refused_by_the_step() -> None:
    optimizer, parameter = stepped()
    parameter.data = parameter.data.float()
    parameter.grad = torch.ones(8)
    with pytest.raises(TypeError, match=r"parameter 0 of param group 0.* is torch.float32, and precision=SplitMaster"):
        optimizer.step()


def test_a_flag_set_later_is_refused_by_the_step() -> None:
    optimizer, parameter = stepped()
    optimizer.param_groups[0]["differentiable"] = True
    before = parameter.detach().clone()
    with pytest.raises(ValueError, match="contradicts differentiable=True"):
        optimizer.step()
    assert torch.equal(parameter.detach(), before)


def test_a_group_added_later_is_refused() -> None:
    optimizer, _ = stepped()
    with pytest.raises(TypeError, match=r"parameter 0 of param group 1 of shape \(3,\) is torch.float32"):
        optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(3))]})
    assert len(optimizer.param_groups) == 1
    with pytest.raises(TypeError, match="sets precision=None, which is no setting of a single group"):
        optimizer.add_param_group({"params": [weight()], "precision": None})


def test_a_frozen_parameter_may_be_of_any_type() -> None:
    frozen = torch.nn.Parameter(torch.ones(4), requires_grad=False)
    optimizer = torchclip.AdamW([weight(), frozen], precision=SplitMaster())
    optimizer.step()
    frozen.grad = torch.ones(4)
    with pytest.raises(TypeError, match=r"parameter 1 of param group 0.* is torch.float32"):
        optimizer.step()


DAMAGED: dict[str, tuple[str, Any, str]] = {
    "codes_of_another_type": ("exp_avg", torch.zeros(8, dtype=torch.int8), "is torch.int8 "),
    "codes_of_another_shape": ("exp_avg", torch.zeros(9, dtype=torch.uint8), "of shape \\(9,\\)"),
    "no_absmax": ("exp_avg_absmax", "", "state 'exp_avg_absmax' of parameter 0 .* is missing"),
    "absmax_of_another_shape": ("exp_avg_absmax", torch.zeros(2), "needs torch.float32 of shape \\(1,\\)"),
    "absmax_of_another_type": ("exp_avg_sq_absmax", torch.zeros(1, dtype=torch.float64), "is torch.float64 of shape"),
    "remainder_of_another_type": ("remainder", torch.zeros(8), "torch.int16.* wanted"),
    "remainder_of_another_shape": ("remainder", torch.zeros(7, dtype=torch.int16), "of shape \\(7,\\)"),
}


@pytest.mark.parametrize("loads", [False, True], ids=["assigned", "loaded"])
@pytest.mark.parametrize("name, value, message", DAMAGED.values(), ids=DAMAGED)
def test_state_that_does_not_fit_is_refused(name: str, value: Any, message: str, loads: bool) -> None:
    optimizer, parameter = stepped()
    before = parameter.detach().clone()
    saved = copy.deepcopy(optimizer.state_dict())
    held = saved["state"][0] if loads else copy.deepcopy(optimizer.state[parameter])
    held[name] = value
    if isinstance(value, str):
        del held[name]
    with pytest.raises((RuntimeError, TypeError), match=message):
        if loads:
            optimizer.load_state_dict(saved)
        else:
            optimizer.state[parameter] = held
            optimizer.step()
    assert torch.equal(parameter.detach(), before)


def test_an_absmax_with_gaps_is_refused() -> None:
    parameter = weight(torch.float32, 512)
    optimizer = torchclip.AdamW([parameter], precision=Blockwise8bit(min_elements=0))
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    optimizer.state[parameter]["exp_avg_absmax"] = torch.ones(4)[::2]
    with pytest.raises(RuntimeError, match=r"'exp_avg_absmax' of parameter 0 .* \(2,\) and strides \(2,\)"):
        optimizer.step()


MASTERS = {"integers": torch.ones(8, dtype=torch.int64), "complex": torch.ones(8, dtype=torch.complex64)}


@pytest.mark.parametrize("master", MASTERS.values(), ids=MASTERS)
def test_a_master_of_another_kind_does_not_load(master: torch.Tensor) -> None:
    optimizer = torchclip.SGD([weight()], lr=0.1, precision=MasterWeights())
    saved = {"state": {0: {"master": master}}, "param_groups": optimizer.state_dict()["param_groups"]}
    with pytest.raises(RuntimeError, match="'master' of parameter 0 .* and torch.float32 is wanted"):
        optimizer.load_state_dict(saved)


WITHOUT_VALUES: dict[str, tuple[Any, Any]] = {
    "unchanged": (StateDtype("bfloat16"), StateDtype("bfloat16")),
    "rounded": (StateDtype("float32"), StateDtype("bfloat16")),
    "in_blocks": (SplitMaster(state=Blockwise8bit(min_elements=0)), SplitMaster(state=Blockwise8bit(min_elements=0))),
    "out_of_blocks": (Blockwise8bit(min_elements=0), None),
    "into_blocks": (None, Blockwise8bit(min_elements=0)),
    "master": (MasterWeights(), MasterWeights()),
    "no_policy": (None, None),
}


@pytest.mark.filterwarnings("ignore:the checkpoint holds .* in other types")
@pytest.mark.parametrize("saving, loading", WITHOUT_VALUES.values(), ids=WITHOUT_VALUES)
def test_state_without_values_does_not_load(saving: Any, loading: Any) -> None:
    """From ``torch.load(..., map_location="meta")``, or sparse: each tensor is named."""
    parameter = weight()
    optimizers = [torchclip.AdamW([parameter], precision=policy) for policy in (saving, loading)]
    parameter.grad = torch.ones_like(parameter)
    optimizers[0].step()
    saved = optimizers[0].state_dict()
    for key, value in saved["state"][0].items():
        for lost, what in ((value.to("meta"), "strided on meta"), (value.to_sparse(), "sparse_coo on cpu")):
            if key == "step":
                continue  # test_state_numbers.py has it
            damaged = copy.deepcopy(saved)
            damaged["state"][0][key] = lost
            words = f"^state '{key}' of parameter 0 .* of layout torch.{what} in the checkpoint, and the parameter is "
            with pytest.raises(RuntimeError, match=words):
                optimizers[1].load_state_dict(damaged)
    optimizers[1].load_state_dict(saved)


def test_a_copy_and_a_pickle_keep_the_policy() -> None:
    optimizer, _ = stepped()
    for twin in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert twin.precision == optimizer.precision and twin.backend == optimizer.backend
        parameter = twin.param_groups[0]["params"][0]
        parameter.grad = torch.ones_like(parameter)
        twin.step()
        parameter.data = parameter.data.float()
        parameter.grad = torch.ones(8)
        with pytest.raises(TypeError, match="is torch.float32"):
            twin.step()


def test_every_backend_has_it() -> None:
    optimizer, _ = stepped()
    assert optimizer.backend == ("reference" if torchclip.backends.native.NATIVE is None else "cpu")
    assert not any(map(optimizer._compiled_reason, ("cuda", "triton", "cpu")))
    assert "precision: SplitMaster(state=Blockwise8bit(" in repr(optimizer)


def test_float32_parameters_of_another_number_or_shape() -> None:
    optimizer, parameter = stepped()
    before = parameter.detach().clone()
    with pytest.raises(ValueError, match="got 2 tensors, and the optimizer has 1"):
        optimizer.load_float32_parameters([torch.ones(8), torch.ones(8)])
    with pytest.raises(ValueError, match=r"shape \(7,\) for parameter 0 of param group 0"):
        optimizer.load_float32_parameters([torch.ones(7)])
    assert torch.equal(parameter.detach(), before)
