"""Whole sessions by chance: whatever happens to an optimizer between two steps, a backend stays with float64.

Hypothesis strings together the rules of ``Session``, of which each is one thing that may happen, and shrinks what fails
to the shortest session that does: it is printed as a program. What is compared, and how closely, is in ``trio``.

The sessions are the same in every run, and few. ``TORCHCLIP_FUZZ=30`` in the environment draws others, thirty times as
many: ten minutes of one core for ``pytest -n 0 tests/contract/test_fuzz.py``, and a backend alone by ``-k cpu``.
"""

from __future__ import annotations

import copy
import enum
import io
import math
import os
import pickle
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from builders import unchanged
from fuzz_records import (
    CLIPS,
    FOREIGN,
    FROZEN,
    LEAVES,
    MOST,
    NONSENSE,
    PLACES,
    POSITIONS,
    WRITES,
    can_stand,
    cases,
    frozen,
    inferred,
)
from memory_watch import Leaf, Place
from records import (
    BACKENDS,
    DTYPES,
    SEED,
    Clip,
)
from reference_trio import Trio
from rule_records import RULES, Rule
from torchclip.rules.norms import NonFinite

FACTOR = int(os.environ.get("TORCHCLIP_FUZZ", "0"))
EVENTS = 20
SESSIONS = {"cuda": 0.2, "triton": 0.02, "cpu": 0.8, "reference": 0.1}
"""For each of RULES, by what a step takes the backend: altogether half a minute."""

CLASSES = sorted({chosen.cls.__name__ for chosen in RULES})
INTERPRETED = ("AdaGradNorm", "AdamW", "GRDA", "MixClip", "RMSprop", "SGD")
"""One class or two of each of Triton's functions: interpreting a session takes half a second."""
GRID = [(name, backend) for backend in BACKENDS for name in (INTERPRETED if backend == "triton" else CLASSES)]


FREE = [(name, backend) for backend in ("cuda", "cpu") for name in INTERPRETED] + [("SGD", "triton")]
"""Sessions whose errors add up: one class or two of each kind of arithmetic."""


class Copying(enum.Enum):
    """Ways in which an optimizer goes on elsewhere."""

    OWN_STATE_DICT = enum.auto()
    FILE = enum.auto()
    FRESH_OPTIMIZER = enum.auto()
    DEEPCOPY = enum.auto()
    PICKLE = enum.auto()


class Session(RuleBasedStateMachine):
    """A life of an optimizer; each rule is one event."""

    backend: str
    choices: list[Rule]
    free: bool = False
    trio: Trio

    @initialize(data=st.data(), leaves=st.lists(LEAVES, min_size=1, max_size=5))
    def begin(self, data: st.DataObject, leaves: list[Leaf]) -> None:
        self.trio = Trio(data.draw(cases(self.choices)), leaves, self.backend, self.free)
        self.saved: list[dict[str, Any]] = []
        if self.free:
            self.many_steps(10)

    # Steps.

    @rule(size=st.sampled_from((1.0, 0.125, 4.0)), place=st.sampled_from(Place))
    def step(self, size: float, place: Place) -> None:
        self.trio.give_gradients(size, place=place)
        assert self.trio.step() is None

    @precondition(lambda self: self.free)
    @rule(count=st.integers(5, 15))
    def many_steps(self, count: int) -> None:
        for _ in range(count):
            self.step(1.0, Place.CONTIGUOUS)

    @rule(absent=st.frozensets(POSITIONS, max_size=MOST))
    def step_without_some_gradients(self, absent: frozenset[int]) -> None:
        self.trio.give_gradients(absent=absent)
        assert self.trio.step() is None

    @rule(size=st.sampled_from((1.0, 0.0)))
    def step_on_rewritten_gradients(self, size: float) -> None:
        self.trio.give_gradients(size, in_place=True)
        assert self.trio.step() is None

    @rule()
    def step_on_the_same_gradients(self) -> None:
        self.trio.hand_on_gradients()
        assert self.trio.step() is None

    @rule(loss=st.sampled_from((0.25, 3.0, math.inf, math.nan)))
    def step_by_closure(self, loss: float) -> None:
        self.trio.give_gradients()
        assert self.trio.step(loss, by_closure=True) is None

    @rule(scale=st.sampled_from((None, 2.0, 256.0)))
    def step_under_a_scaler(self, scale: float | None) -> None:
        self.trio.give_gradients(1.0 if scale is None else scale)
        assert self.trio.step(scaler=scaler(scale, 0.0)) is None

    @rule(scale=st.sampled_from((None, 2.0)), position=POSITIONS, value=st.sampled_from((1.0, math.inf, math.nan)))
    def step_that_overflows(self, scale: float | None, position: int, value: float) -> None:
        self.trio.give_gradients()
        self.trio.spoil(position, value)
        assert self.trio.skipped_step(scaler=scaler(scale, 2.0)) is None
        self.trio.spoil(position, 1.0)

    @precondition(lambda self: handling(self.trio.case.clip) is not NonFinite.PROPAGATE)
    @rule(position=POSITIONS, value=st.sampled_from((math.inf, -math.inf, math.nan)))
    def step_on_a_norm_that_is_not_finite(self, position: int, value: float) -> None:
        self.trio.give_gradients()
        if self.trio.spoil(position, value):
            error = self.trio.skipped_step()
            assert (error is not None) == (handling(self.trio.case.clip) is NonFinite.ERROR)
        self.trio.spoil(position, 1.0)

    # What users and schedulers write.

    @rule(number=st.integers(0, 2), data=st.data())
    def write(self, number: int, data: st.DataObject) -> None:
        self.trio.drop_state_of_skipped_steps()
        groups = [optimizer.param_groups[number % len(optimizer.param_groups)] for optimizer, _ in self.trio.all]
        conflict = self.trio.case.rule.cls.spec.conflict or (lambda group: None)
        keys = groups[0].keys() - self.trio.tested.fixed.keys()
        taken = [one for one in WRITES if one[0] in keys and conflict({**groups[0], one[0]: one[1]}) is None]
        key, value = data.draw(st.sampled_from(taken))
        for group in groups:
            group[key] = value

    @rule(factor=st.sampled_from((0.5, 1.0)))
    def schedule_a_tensor_rate(self, factor: float) -> None:
        for optimizer, _ in self.trio.all:
            for group in optimizer.param_groups:
                if isinstance(group["lr"], torch.Tensor):
                    group["lr"].mul_(factor)
                else:
                    group["lr"] = torch.tensor(group["lr"] * factor)

    # What is refused, or left alone, and leaves no trace.

    @rule(number=st.integers(0, 2), data=st.data())
    def write_what_no_key_holds(self, number: int, data: st.DataObject) -> None:
        groups = [optimizer.param_groups[number % len(optimizer.param_groups)] for optimizer, _ in self.trio.all]
        key, value = data.draw(st.sampled_from([one for one in NONSENSE if one[0] in groups[0]]))
        before = [group[key] for group in groups]
        for group in groups:
            group[key] = value
        assert key in self.trio.refused_step()
        for group, value in zip(groups, before):
            group[key] = value

    @rule(number=st.integers(0, 2), data=st.data())
    def delete_a_key(self, number: int, data: st.DataObject) -> None:
        groups = [optimizer.param_groups[number % len(optimizer.param_groups)] for optimizer, _ in self.trio.all]
        key = data.draw(st.sampled_from(sorted({key for key, _ in NONSENSE} & groups[0].keys())))
        before = [group.pop(key) for group in groups]
        assert key in self.trio.refused_step()
        for group, value in zip(groups, before):
            group[key] = value

    @rule(position=POSITIONS, entry=st.sampled_from(FOREIGN))
    def load_a_foreign_checkpoint(self, position: int, entry: str) -> None:
        state_dict = self.trio.tested.state_dict()
        key = self.trio.at(position)
        state_dict["state"] = {**state_dict["state"], key: {entry: torch.zeros(3)}}
        with unchanged(self.trio.tested), pytest.raises((RuntimeError, TypeError, ValueError)):
            self.trio.tested.load_state_dict(state_dict)

    @rule(kind=st.sampled_from(FROZEN))
    def step_beside_a_frozen_parameter(self, kind: str) -> None:
        for optimizer, _ in self.trio.all:
            optimizer.add_param_group({"params": [frozen(kind)]})
        self.step(1.0, Place.CONTIGUOUS)
        for optimizer, _ in self.trio.all:
            optimizer.param_groups.pop()

    @rule()
    def step_on_a_parameter_of_inference_mode(self) -> None:
        for optimizer, _ in self.trio.all:
            optimizer.add_param_group({"params": [inferred()]})
        assert "inference" in self.trio.refused_step()
        for optimizer, _ in self.trio.all:
            optimizer.param_groups.pop()

    @rule(position=POSITIONS, kind=st.sampled_from((torch.int32, torch.int64, int, float)))
    def write_a_count_of_another_type(self, position: int, kind: Any) -> None:
        state = self.trio.tested.state.get(self.trio.params[self.trio.at(position)], {})
        if isinstance(state.get("step"), torch.Tensor):
            state["step"] = kind(state["step"]) if isinstance(kind, type) else state["step"].to(kind)
            self.step(1.0, Place.CONTIGUOUS)

    @rule(clip=st.sampled_from(CLIPS))
    def change_policy(self, clip: Clip) -> None:
        if can_stand(clip, self.trio.case.pace):
            self.trio.configure(clip)

    @precondition(lambda self: len(self.trio.params) < MOST)
    @rule(leaves=st.lists(LEAVES, max_size=2), rate=st.sampled_from((0.1, 0.3)))
    def add_param_group(self, leaves: list[Leaf], rate: float) -> None:
        positions = [self.trio.grow(leaf) for leaf in leaves[: MOST - len(self.trio.params)]]
        for optimizer, params in self.trio.all:
            optimizer.add_param_group({"params": [params[position] for position in positions], "lr": rate})

    @rule(position=POSITIONS)
    def forget_state(self, position: int) -> None:
        self.trio.forget(self.trio.at(position))

    @rule(position=POSITIONS, place=PLACES, factor=st.sampled_from((1.0, 0.5)))
    def replace_state(self, position: int, place: Place, factor: float) -> None:
        self.trio.place_state(self.trio.at(position), place, factor)

    @rule(position=POSITIONS)
    def write_state_numbers(self, position: int) -> None:
        states = [optimizer.state.get(params[self.trio.at(position)], {}) for optimizer, params in self.trio.all]
        for name in {"step", "l1"}.intersection(*states):
            for state in states:
                state[name].add_(1)

    # Where and what parameters are.

    @rule(position=POSITIONS, place=PLACES)
    def move_parameter(self, position: int, place: Place) -> None:
        self.trio.place(self.trio.at(position), place)

    @rule(position=POSITIONS, dtype=st.sampled_from(DTYPES), place=PLACES)
    def cast_parameter_and_state(self, position: int, dtype: torch.dtype, place: Place) -> None:
        self.trio.cast(self.trio.at(position), dtype, place)
        self.trio.cast_state(self.trio.at(position), dtype)

    @rule(position=POSITIONS, dtype=st.sampled_from(DTYPES))
    def cast_parameter_alone(self, position: int, dtype: torch.dtype) -> None:
        """Its state either serves it as it is, or is refused by name. Loading would cast what float64 takes part in."""
        self.trio.cast(self.trio.at(position), dtype, Place.CONTIGUOUS)
        self.trio.give_gradients()
        refusal = self.trio.step()
        assert refusal is None or ("state" in refusal and "parameter" in refusal)
        state = self.trio.tested.state.get(self.trio.params[self.trio.at(position)], {})
        if refusal is not None or torch.float64 in {dtype, *(state[name].dtype for name in self.trio.slots(state))}:
            self.trio.cast_state(self.trio.at(position), dtype)

    # Copies and checkpoints. The reference path goes on without any.

    @rule(way=st.sampled_from(Copying))
    def go_on_in_a_copy(self, way: Copying) -> None:
        trio = self.trio
        trio.counts_clipping = False  # which begins again
        if way in (Copying.DEEPCOPY, Copying.PICKLE):
            old = trio.tested
            trio.adopt(copy.deepcopy(old) if way is Copying.DEEPCOPY else pickle.loads(pickle.dumps(old)))
            return
        state_dict = trio.tested.state_dict()
        if way is not Copying.OWN_STATE_DICT:
            file = io.BytesIO()
            torch.save(state_dict, file)
            file.seek(0)
            state_dict = torch.load(file, weights_only=True)
        if way is Copying.FRESH_OPTIMIZER:
            groups = [group["params"] for group in trio.tested.param_groups]
            trio.tested = trio.build(groups, self.backend, SEED + 1)  # the checkpoint's seed counts
        trio.tested.load_state_dict(state_dict)

    @rule()
    def save(self) -> None:
        self.saved = [copy.deepcopy(optimizer.state_dict()) for optimizer, _ in self.trio.all]

    @precondition(lambda self: self.saved and self.trio.fits(self.saved[0]))
    @rule()
    def go_back_to_what_was_saved(self) -> None:
        self.trio.counts_clipping = False
        for (optimizer, _), state_dict in zip(self.trio.all, self.saved):
            optimizer.load_state_dict(copy.deepcopy(state_dict))


def scaler(scale: float | None, found_inf: float) -> dict[str, torch.Tensor | None]:
    """What a GradScaler writes to the optimizer; without a scale it has undone that itself."""
    return {
        "grad_scale": None if scale is None else torch.tensor(scale),
        "found_inf": torch.tensor(found_inf),
    }


def handling(clip: Clip) -> NonFinite:
    """What the policy does when a norm is not finite."""
    return getattr(clip.policy, "nonfinite", NonFinite.PROPAGATE)


@pytest.mark.parametrize("name, backend", GRID, indirect=["backend"])
def test_sessions(name: str, backend: str) -> None:
    choices = [chosen for chosen in RULES if chosen.cls.__name__ == name]
    run_sessions(name, 1 + math.ceil(SESSIONS[backend] * len(choices)), backend=backend, choices=choices)


@pytest.mark.parametrize("name, backend", FREE, indirect=["backend"])
def test_sessions_that_run_free(name: str, backend: str) -> None:
    """The tested optimizer may drift from float64 as far as the reference path of its types does."""
    choices = [chosen for chosen in RULES if chosen.cls.__name__ == name]
    run_sessions(f"{name} free", 2, backend=backend, choices=choices, free=True)


def run_sessions(name: str, sessions: int, **attributes: Any) -> None:
    """So many sessions, of which the first is the simplest there is; the CPU's on two threads."""
    torch.set_num_threads(2 if attributes["backend"] == "cpu" else 1)
    machine = type("Session", (Session,), attributes)
    run_state_machine_as_test(
        machine if FACTOR else seed(name)(machine),
        settings=settings(
            max_examples=sessions * max(FACTOR, 1),
            stateful_step_count=EVENTS,
            database=None,
            deadline=None,
            report_multiple_bugs=False,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        ),
    )
