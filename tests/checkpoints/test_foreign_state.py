"""State of another rule, or a part of a rule's state: refused with what is there and what is missing."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

import torchclip
from builders import LOSS, assert_same_params, build, copies_of, draw_gradients, leaves
from torchclip.rules.table import RULES

# Each class here with state that its rule always has, an entry of which is taken away.
WHOLE = {
    "adam": ("exp_avg", "exp_avg_sq", "step"),
    "adamw": ("exp_avg", "exp_avg_sq", "step"),
    "nadam": ("exp_avg", "exp_avg_sq", "step", "mu_product"),
    "radamw": ("exp_avg", "exp_avg_sq", "step"),
    "rmsprop": ("square_avg", "step"),
    "adagrad": ("sum", "step"),
    "grda": ("accumulator", "step", "l1"),
    "ada_grad_norm_row": ("sum",),
}


def trained(name: str, backend: str, **options: Any) -> tuple[torch.optim.Optimizer, list[torch.nn.Parameter]]:
    """Two steps."""
    params = leaves()
    optimizer = build(name, params, **options, backend=backend)
    for step in range(2):
        draw_gradients(step, params)
        optimizer.step(loss=LOSS)
    return optimizer, params


@pytest.mark.parametrize("name, missing", [(name, entry) for name, entries in WHOLE.items() for entry in entries])
def test_a_part_of_the_state(name: str, missing: str, backend: str) -> None:
    """From a checkpoint, and taken away by hand: both times the optimizer is as it was."""
    optimizer, params = trained(name, backend)
    saved = copy.deepcopy(optimizer.state_dict())
    del saved["state"][1][missing]
    words = rf"the state of parameter 1 of param group 0, of shape \(17,\) has \[.*\] and lacks \['{missing}'\]"
    with pytest.raises(RuntimeError, match=words):
        optimizer.load_state_dict(saved)
    before = [param.detach().clone() for param in params]
    held = optimizer.state[params[1]].pop(missing)
    with pytest.raises(RuntimeError, match=words):
        optimizer.step(loss=LOSS)
    assert_same_params(params, before)
    optimizer.state[params[1]][missing] = held
    optimizer.step(loss=LOSS)
    optimizer.state[params[1]].clear()  # which is none, and starts anew
    optimizer.step(loss=LOSS)


FOREIGN = [
    ("sgd", "adamw", "momentum_buffer"),
    ("rmsprop", "sgd", "grad_avg"),
    ("adam", "rmsprop", "exp_avg"),
    ("nadam", "radam", "mu_product"),
    ("adagrad", "adam", "sum"),
    ("grda", "adamw", "accumulator"),
    ("ada_grad_norm_row", "mom_clip", "sum"),
    ("adam", "sgd", "exp_avg"),
]


@pytest.mark.parametrize("source, target, entry", FOREIGN, ids=lambda value: value)
def test_a_checkpoint_of_another_rule(source: str, target: str, entry: str, backend: str) -> None:
    saved = trained(source, "reference")[0].state_dict()
    optimizer, params = trained(target, backend)
    copies = copies_of(params)
    twin = build(target, copies, backend=backend)
    twin.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    with pytest.raises(RuntimeError, match=rf"is that of another rule: it has \[.*'{entry}'.*\], and \w+ knows no"):
        optimizer.load_state_dict(saved)
    draw_gradients(5, params, copies)
    optimizer.step(loss=LOSS)
    twin.step(loss=LOSS)
    assert_same_params(params, copies)


@pytest.mark.parametrize("name", ["Adadelta", "Adamax", "ASGD", "Rprop"])
@pytest.mark.parametrize("cls", [torchclip.SGD, torchclip.RMSprop, torchclip.AdamW], ids=lambda cls: cls.__name__)
def test_a_checkpoint_of_torch_for_which_there_is_no_class_here(
    name: str, cls: type[torch.optim.Optimizer], backend: str
) -> None:
    theirs = getattr(torch.optim, name)(leaves(), lr=0.1)
    theirs.step()
    with pytest.raises(RuntimeError, match="is that of another rule"):
        cls(leaves(), lr=0.1, backend=backend).load_state_dict(theirs.state_dict())


@pytest.mark.parametrize("source, target", [("optimizer", "tensor"), ("tensor", "group"), ("group", "optimizer")])
def test_sums_over_another_scope(source: str, target: str, backend: str) -> None:
    def groups() -> list[dict[str, Any]]:
        return [{"params": [param]} for param in leaves()]

    saved = torchclip.AdaGradNorm(groups(), lr=0.1, scope=source)
    saved.step()
    optimizer = torchclip.AdaGradNorm(groups(), lr=0.1, scope=target, backend=backend)
    with pytest.raises((RuntimeError, ValueError), match="sum"):
        optimizer.load_state_dict(saved.state_dict())


OPTIONAL = [
    ("adam", {"amsgrad": True}, "max_exp_avg_sq"),
    ("rmsprop", {"momentum": 0.9, "centered": False}, "momentum_buffer"),
    ("rmsprop", {"momentum": 0.0, "centered": True}, "grad_avg"),
]


@pytest.mark.parametrize("name, options, entry", OPTIONAL, ids=[entry for _, _, entry in OPTIONAL])
def test_an_option_switched_on_before_the_first_step_with_it(
    name: str, options: dict[str, Any], entry: str, backend: str
) -> None:
    """A checkpoint of just then goes on as the run itself, and says what it starts."""
    off = dict.fromkeys(options, False) if name == "adam" else {"momentum": 0.0, "centered": False}
    optimizer, params = trained(name, backend, **off)
    optimizer.param_groups[0].update(options)
    copies = copies_of(params)
    again = build(name, copies, **off, backend=backend)
    with pytest.warns(UserWarning, match=rf"the checkpoint's state lacks \['{entry}'\].* that starts anew") as warned:
        again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert len(warned) == 1
    for step in (5, 6):
        draw_gradients(step, params, copies)
        optimizer.step()
        again.step()
        assert_same_params(params, copies)


@pytest.mark.parametrize(
    "step", [2, torch.tensor(2, dtype=torch.int32), torch.tensor([2])], ids=["int", "int32", "one"]
)
def test_the_count_of_steps_that_fused_adam_keeps_in_the_group(step: Any, backend: str) -> None:
    """As apex' and TransformerEngine's: moments alone in the state, and ``step`` in the param group."""
    theirs, params = trained("adamw", "reference")
    copies = copies_of(params)
    saved = copy.deepcopy(theirs.state_dict())
    for state in saved["state"].values():
        assert state.pop("step") == 2
    saved["param_groups"][0] |= {"step": step, "bias_correction": True}
    ours = build("adamw", copies, backend=backend)
    ours.load_state_dict(saved)
    assert "step" in saved["param_groups"][0] and "step" not in ours.param_groups[0]
    assert all(ours.state[param]["step"].item() == 2 for param in copies)
    draw_gradients(5, params, copies)
    theirs.step()
    ours.step()
    torch.testing.assert_close(copies, params)


def test_entries_of_the_users_own_are_kept(backend: str) -> None:
    """They tell of no rule."""
    optimizer, params = trained("adamw", backend)
    mine = {"note": "mine", "age": torch.tensor([1, 2]), "nested": {"a": [torch.ones(2)]}}
    optimizer.state[params[0]] |= mine
    optimizer.load_state_dict(optimizer.state_dict())
    held = optimizer.state[params[0]]
    assert held["note"] == "mine" and held["age"].tolist() == [1.0, 2.0]
    assert held["age"] is not mine["age"] and held["nested"]["a"][0].data_ptr() != mine["nested"]["a"][0].data_ptr()
    optimizer.step()


def test_every_rule_says_what_it_always_has() -> None:
    """What only some hyperparameters ask for is marked, and nothing else."""
    for name, spec in RULES.items():
        lasting = {slot.name for slot in spec.slots if not slot.optional}
        off = {"momentum": 0, "amsgrad": False, "centered": False}
        assert lasting == set(spec.used_slots(off)), name
