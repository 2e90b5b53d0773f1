"""Slips of a script's first hour: the error says what to write instead."""

from __future__ import annotations

import importlib
import multiprocessing
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import torchclip
from builders import REQUIRED, each_class, fresh, unchanged


@each_class
def test_a_module_for_its_parameters(cls: type[torch.optim.Optimizer]) -> None:
    for module in (nn.Linear(2, 1), nn.Sequential(nn.Linear(2, 1))):  # the second can be iterated over
        with pytest.raises(
            TypeError, match=rf"^{cls.__name__} takes .*{type(module).__name__}.*module\.parameters\(\)"
        ):
            cls(module, **REQUIRED[cls])
        with pytest.raises(TypeError, match=r"module\.parameters\(\)"):
            cls([{"params": module}], **REQUIRED[cls])
        with pytest.raises(TypeError, match=r"parameter 0 of param group 0 .*module\.parameters\(\)"):
            cls([module], **REQUIRED[cls])
        with pytest.raises(TypeError, match=r"the method parameters itself: call it, parameters\(\)"):
            cls(module.parameters, **REQUIRED[cls])
    optimizer = cls(fresh(), **REQUIRED[cls])
    with pytest.raises(TypeError, match=r"module\.parameters\(\)"):
        optimizer.add_param_group({"params": nn.Linear(2, 1)})
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize("loss", [torch.tensor(1.0), 1.0, torch.ones(2)], ids=["tensor", "number", "vector"])
@each_class
def test_a_loss_for_the_closure(cls: type[torch.optim.Optimizer], loss: Any, backend: str) -> None:
    optimizer = cls(fresh(), **REQUIRED[cls], backend=backend)
    with unchanged(optimizer), pytest.raises(TypeError, match=rf"closure of {cls.__name__}\.step.*step\(loss=loss\)"):
        optimizer.step(loss)


def from_import(name: str) -> Any:
    namespace: dict[str, Any] = {}
    exec(f"from torchclip.optim import {name}", namespace)
    return namespace[name]


IMPORTS: dict[str, Callable[[str], Any]] = {
    "statement": from_import,
    "as": lambda name: exec(f"from torchclip.optim import AdamW, {name} as other", {}),
    "in_a_function": lambda name: exec(f"def f():\n    from torchclip.optim import {name}\nf()", {}),
}


@pytest.mark.parametrize("how", IMPORTS)
@pytest.mark.parametrize("name", ["LBFGS", "SparseAdam", "Muon"])
def test_an_import_of_what_is_torchs_keeps_the_remedy(name: str, how: str) -> None:
    if not hasattr(torch.optim, name):
        pytest.skip("this torch has none")
    with pytest.raises(ImportError, match=rf"no {name} .* use torch\.optim\.{name}, with torchclip\.clip_grad_norm_"):
        IMPORTS[how](name)


def test_an_import_of_what_is_nowhere() -> None:
    with pytest.raises(ImportError, match="no attribute 'AdamX'; it has .*AdamW"):
        from_import("AdamX")


def test_asking_for_a_name_is_no_import() -> None:
    module = importlib.import_module("torchclip.optim")
    assert not hasattr(module, "LBFGS") and getattr(module, "LBFGS", None) is None
    with pytest.raises(AttributeError, match=r"torch\.optim\.LBFGS"):
        _ = module.LBFGS
    assert from_import("AdamW") is torchclip.AdamW


# Adagrad.share_memory.


def step_in_a_process(optimizer: torch.optim.Optimizer, weight: torch.Tensor) -> None:
    weight.grad = torch.full((3,), 2.0)
    optimizer.step()


def test_the_sums_of_adagrad_are_shared_between_processes(backend: str) -> None:
    weight = nn.Parameter(torch.ones(3))
    weight.share_memory_()
    frozen = nn.Parameter(torch.ones(3), requires_grad=False)
    optimizer = torchclip.Adagrad([weight, frozen], lr=0.5, initial_accumulator_value=1.0, backend=backend)
    assert optimizer.share_memory() is None
    held = optimizer.state[weight]["sum"]
    assert held.is_shared() and held.tolist() == [1.0] * 3
    assert list(optimizer.state) == [weight]
    if backend == "reference":  # which needs none of the threads that a fork does not have
        process = multiprocessing.get_context("fork").Process(target=step_in_a_process, args=(optimizer, weight))
        process.start()
        process.join()
        assert process.exitcode == 0
        assert held.tolist() == [5.0] * 3
        assert weight.tolist() == pytest.approx([1 - 0.5 * 2 / 5**0.5] * 3)


def test_sharing_changes_no_step(backend: str) -> None:
    weight, twin = (nn.Parameter(torch.ones(3)) for _ in range(2))
    ours = torchclip.Adagrad([weight], lr=0.5, lr_decay=0.1, backend=backend)
    theirs = torch.optim.Adagrad([twin], lr=0.5, lr_decay=0.1)
    for step in range(3):
        if step in (0, 2):  # before the first and between others
            ours.share_memory()
            theirs.share_memory()
        for each, optimizer in ((weight, ours), (twin, theirs)):
            each.grad = torch.arange(1.0, 4.0) + step
            optimizer.step()
    torch.testing.assert_close(weight, twin)
    assert ours.state[weight]["sum"].is_shared() and ours.state[weight]["sum"].tolist() == [14.0, 29.0, 50.0]
