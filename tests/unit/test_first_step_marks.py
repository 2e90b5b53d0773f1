"""The mark that a parameter's next step is its first goes with the parameter and with the state that it was made for.

SGD's first buffer is the gradient, undamped; state that a skipped step has made counts as none.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import torchclip
from records import BACKENDS

pytestmark = pytest.mark.parametrize("backend", BACKENDS, indirect=True)


def skipped(backend: str, count: int) -> tuple[torch.optim.Optimizer, list[torch.nn.Parameter]]:
    """An optimizer whose only step so far was skipped, with dampening .5, over zeros with gradients of 1."""
    params = [torch.nn.Parameter(torch.zeros(4)) for _ in range(count)]
    optimizer = torchclip.SGD(params, lr=1.0, momentum=0.8, dampening=0.5, backend=backend)
    for param in params:
        param.grad = torch.ones_like(param)
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(1.0), torch.tensor(1.0)
    optimizer.step()
    optimizer.found_inf = torch.tensor(0.0)
    return optimizer, params


def assert_all(params: list[torch.nn.Parameter], value: float) -> None:
    for param in params:
        torch.testing.assert_close(param.detach(), torch.full_like(param, value))


def test_a_parameter_removed_by_hand(backend: str) -> None:
    optimizer, (first, second, third) = skipped(backend, 3)
    optimizer.param_groups[0]["params"].remove(first)
    optimizer.step()
    assert_all([second, third], -1.0)  # -.5 where the marks stayed behind
    optimizer.step()
    assert_all([second, third], -1.0 - (0.8 + 0.5))
    assert_all([first], 0.0)


def test_parameters_in_another_order_and_group(backend: str) -> None:
    optimizer, params = skipped(backend, 3)
    params[0].grad = None
    optimizer.step()  # the last two have begun
    assert_all(params[1:], -1.0)
    params[0].grad = torch.ones_like(params[0])
    group = optimizer.param_groups[0]
    optimizer.param_groups.append({**group, "params": [group["params"].pop(0)]})
    optimizer.step()
    assert_all(params[:1], -1.0)
    assert_all(params[1:], -1.0 - (0.8 + 0.5))


def test_a_buffer_that_the_user_assigns(backend: str) -> None:
    optimizer, params = skipped(backend, 2)
    optimizer.state[params[0]]["momentum_buffer"] = torch.full((4,), 9 / 8)
    optimizer.step()
    assert_all(params[:1], -1.4)  # .8 · 9/8 + .5 · 1
    assert_all(params[1:], -1.0)


def group_added(optimizer: torch.optim.Optimizer) -> None:
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(2))]})


def saved_and_loaded(optimizer: torch.optim.Optimizer) -> None:
    optimizer.load_state_dict(optimizer.state_dict())


@pytest.mark.parametrize("change", [group_added, saved_and_loaded], ids=lambda change: change.__name__)
def test_an_assigned_buffer_and_then_another_plan(
    change: Callable[[torch.optim.Optimizer], None], backend: str
) -> None:
    optimizer, params = skipped(backend, 2)
    optimizer.state[params[0]]["momentum_buffer"] = torch.full((4,), 9 / 8)
    change(optimizer)
    optimizer.step()
    assert_all(params[:1], -1.4)
    assert_all(params[1:], -1.0)


def test_marks_that_a_new_plan_is_told_of(backend: str) -> None:
    optimizer, params = skipped(backend, 3)
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(2))]})
    optimizer.param_groups[0]["params"].remove(params[0])
    optimizer.step()
    assert_all(params[1:], -1.0)


@pytest.mark.parametrize("own", [torch.ones(3), torch.tensor([1 + 1j]).conj()], ids=["plain", "conjugated"])
def test_a_users_own_tensor_in_state_does_not_begin_it(own: Tensor, backend: str) -> None:
    optimizer, params = skipped(backend, 2)
    optimizer.state[params[0]]["mine"] = own
    optimizer.step()
    assert_all(params, -1.0)


def test_slow_weights_that_are_missing_begin_nothing(backend: str) -> None:
    """They are made anew, and the buffer goes on."""
    param = torch.nn.Parameter(torch.zeros(4))
    lookahead = torchclip.Lookahead(k=100)
    optimizer = torchclip.SGD([param], lr=1.0, momentum=0.8, dampening=0.5, extensions=(lookahead,), backend=backend)
    param.grad = torch.ones_like(param)
    optimizer.step()
    del optimizer.state[param]["slow"]
    optimizer.step()
    assert_all([param], -1.0 - (0.8 + 0.5))
