"""Steps of several processes beside those of one: the cases are in ``tests/support``, in the modules of ``MODULES``.

Processes are expensive to start, and one start of each number of them serves all cases. Four stand in the fast tier:
their meshes have two dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch.distributed

import agreement_cases
import checkpoint_cases
import emulated
import emulated_cases
import norm_group_cases
import precision_cases
import processes
import sharded_cases
import shared_step_cases
import wrapped_cases
from torchclip.backends.choice import unavailable_reason

pytestmark = [
    pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed"),
    pytest.mark.xdist_group("distributed"),  # of one fixture, which would run every case for each worker
]

MODULES = (
    sharded_cases,
    shared_step_cases,
    agreement_cases,
    norm_group_cases,
    wrapped_cases,
    checkpoint_cases,
    precision_cases,
    emulated_cases,
)
CASES = [f"{module.__name__}.{name}" for module in MODULES for name in module.CASES]
RANKS = (2, 4)
FAST = 4
THOROUGH = (
    "sharded_cases.ten_steps",
    "sharded_cases.every_rule",
    "sharded_cases.every_type",
    "sharded_cases.every_scope",
    "sharded_cases.complex_numbers",
    "checkpoint_cases.loaded_by_other_numbers_for_every_state",
    "precision_cases.every_policy_saved_and_loaded",
    "precision_cases.stages_of_every_policy",
)
"""Cases that stand in no fast tier: each goes over what another one has looked at a few of."""


EMULATED = (
    *("rules_cuda", "zeros_cuda", "draws_cuda", "steps_that_are_not_taken_cuda", "any_layout_cuda"),
    *("changed_numbers_cuda", "changed_kinds_cuda", "changed_for_one_step_cuda", "heard_when_promised_cuda"),
    *("rules_triton", "any_layout_triton", "changed_for_one_step_triton"),
)
"""Of the cases on emulated and interpreted kernels those in the fast tier."""


def _marks(ranks: int, name: str) -> list[pytest.MarkDecorator]:
    module, _, case = name.rpartition(".")
    marks = []
    if module == emulated_cases.__name__:
        reason = emulated.unbuilt_reason() if case.endswith("_cuda") else unavailable_reason("triton")
        marks.append(pytest.mark.skipif(reason is not None, reason=str(reason)))
    is_slow = name in THOROUGH or (module == emulated_cases.__name__ and case not in EMULATED)
    return marks if ranks == FAST and not is_slow else [*marks, pytest.mark.thorough]


EVERY = [
    pytest.param(ranks, name, id=f"{name}-{ranks}", marks=_marks(ranks, name)) for ranks in RANKS for name in CASES
]


@pytest.fixture(scope="module")
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[int], processes.Running]]:
    """Processes of that number, which go through the cases that a test of this session asks for."""
    asked: dict[int, list[str]] = {}
    for item in request.session.items:
        if item.path == request.path and "ranks" in getattr(getattr(item, "callspec", None), "params", {}):
            asked.setdefault(item.callspec.params["ranks"], []).append(item.callspec.params["name"])
    if any(name.endswith("_cuda") for names in asked.values() for name in names):
        emulated.load()  # whose build takes minutes, and is not to count among those of a case
    started: dict[int, processes.Running] = {}

    def of(ranks: int) -> processes.Running:
        if ranks not in started:
            started[ranks] = processes.start(ranks, asked[ranks], tmp_path_factory.mktemp("cases"))
        return started[ranks]

    yield of
    for each in started.values():
        each.stop()


@pytest.mark.parametrize("ranks, name", EVERY)
def test_as_one_process(ranks: int, name: str, running: Callable[[int], processes.Running]) -> None:
    said = running(ranks).outcome(name)
    assert not said, said
