"""The values of param groups, which anyone may write between steps: what each key must hold, checked where it is read.

The compiled plans read the same keys by the same description (``csrc/reader/group_numbers.h``) and say no more than
that a value is wrong; why is said here, for every backend.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torchclip.rules.hyperparameters import ABSENT, ABSENT_FLAG, FLAG, FLAGS, LARGEST, RUN_FLAGS, Check, finite
from torchclip.rules.plain_numbers import is_array, plain
from torchclip.rules.rule_spec import RuleSpec
from torchclip.state.group_state import numbers_of

PIPELINE_KEYS = ("lr", "weight_decay", "decoupled_weight_decay", "maximize")
"""What every rule's step reads, where the class has it."""

_MISSING: Any = object()


class Key(NamedTuple):
    """A key of a param group as the compiled plans are told of it; see ``csrc/reader/group_numbers.h``."""

    name: str
    numbers: int = 1
    is_flag: bool = False
    is_required: bool = True
    least: float = -LARGEST
    most: float = LARGEST


@dataclass(frozen=True)
class GroupKeys:
    """The keys that an optimizer reads of its param groups.

    Args:
        optimizer: the name of its class.
        spec: its rule.
        checks: of each key, in the order in which the plans read them: those of ``PIPELINE_KEYS``, the rule's own, and
            those that are read at other times, of which a step looks at the values alone.
        defaults: the optimizer's; a group must have each of these keys.
    """

    optimizer: str
    spec: RuleSpec
    checks: Mapping[str, Check]
    defaults: Mapping[str, Any]

    @classmethod
    def of(cls, optimizer: str, spec: RuleSpec, checks: Mapping[str, Check], defaults: Mapping[str, Any]) -> GroupKeys:
        """Those of an optimizer with this rule and these defaults, whose own keys ``checks`` describes."""
        names = dict.fromkeys((*PIPELINE_KEYS, *spec.hyperparameters, *checks, *RUN_FLAGS))
        return cls(optimizer, spec, {name: _check_of(name, checks, defaults) for name in names}, defaults)

    @property
    def described(self) -> list[Key]:
        """Each key as the compiled plans are told of it."""
        return [
            Key(name, check.count, check.is_flag, self._is_required(name), check.least, check.most)
            for name, check in self.checks.items()
        ]

    def _is_required(self, name: str) -> bool:
        return name in self.defaults and name not in RUN_FLAGS

    def check(self, group: Mapping[str, Any], where: str) -> None:
        """Raises where a group does not hold what it must; ``where`` is what errors call it."""
        self._values(group, where)

    def _values(self, group: Mapping[str, Any], where: str) -> dict[str, Any]:
        """What a group holds under each key, as the rules take it; raises as :meth:`check`."""
        values: dict[str, Any] = {}
        for name, check in self.checks.items():
            value = group.get(name, _MISSING)  # which torch's compiler sees through, and not through `in`
            if value is _MISSING:
                if self._is_required(name):
                    raise KeyError(
                        f"{where} has no {name!r}, which every step reads; put it back: its default is "
                        f"{self.defaults[name]!r}"
                    ) from None
                continue
            if check.is_flag and value is None:
                value = False
            if not check.is_plain(value):
                reason = check.reason_against(name, value)
                if reason is not None and check in (ABSENT, ABSENT_FLAG):
                    reason = f"{self.optimizer} has no {name}, and {where} sets {name}={value!r}: leave it out"
                    raise ValueError(reason) from None
                if reason is not None:
                    raise ValueError(f"{reason} ({where}, key {name!r})") from None
                value = check.plain(value)
            values[name] = value
        found = None if self.spec.conflict is None else self.spec.conflict(group)
        if found is not None:
            raise ValueError(f"{found} ({where})") from None
        return values

    def saved(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        """The state dict with Python's numbers in its groups, for numpy's say, so that ``weights_only=True`` works.

        Under keys of others too, of which a scheduler's ``initial_lr`` is the learning rate as it was given; but there
        arrays, dates, and what lists and dicts hold stay as they are, so that whoever keeps numpy's must allow them.
        """
        groups = []
        for group in state_dict["param_groups"]:
            odd = [name for name in self.checks if name in group and not _is_saved_as_it_is(group[name])]
            right = [name for name in odd if self.checks[name].reason_against(name, group[name]) is None]
            others = {name: value for name, value in group.items() if name not in self.checks}
            others = {name: value if is_array(value) else plain(value) for name, value in others.items()}
            groups.append({**group, **others, **{name: self.checks[name].plain(group[name]) for name in right}})
        return {**state_dict, "param_groups": groups}

    def read(self, param_groups: Any) -> list[dict[str, Any]]:
        """The groups as the reference's rules take them: numbers, flags, tensors and tuples of those.

        What the user keeps under keys of their own is left out.

        Raises:
            ValueError, TypeError, KeyError: where param groups are none, or do not hold what a step reads of them.
        """
        if not isinstance(param_groups, (list, tuple)):
            raise TypeError(f"param_groups is a {type(param_groups).__name__}, and must be a list of dicts")
        groups = []
        for index, group in enumerate(param_groups):
            error = structure_error(group, index)
            if error is not None:
                raise error from None
            values = self._values(group, f"param group {index}")
            shared = numbers_of(group)
            groups.append({**values, "params": list(group["params"]), **({"shared": shared} if shared else {})})
        return groups


def _check_of(name: str, checks: Mapping[str, Check], defaults: Mapping[str, Any]) -> Check:
    if name in FLAGS and name not in checks:
        return FLAG if name in defaults or name not in PIPELINE_KEYS else ABSENT_FLAG
    return checks.get(name, ABSENT if name in PIPELINE_KEYS else finite(name))


def _is_saved_as_it_is(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return type(value) in (tuple, list) and all(map(_is_saved_as_it_is, value))
    return value is None or isinstance(value, Tensor) or type(value) in (float, int, bool, str)


def structure_error(group: Any, index: int) -> Exception | None:
    """What is wrong with what should be a param group, as the error to raise."""
    if not isinstance(group, dict):
        return TypeError(f"param group {index} is a {type(group).__name__}, and must be a dict with 'params'")
    if "params" not in group:
        return KeyError(f"param group {index} has no 'params': put the list of its parameters back")
    params: Sequence[Any] = group["params"]
    if isinstance(params, (Iterator, Tensor)):
        return TypeError(
            f"param group {index} holds a {type(params).__name__} under 'params', and must hold a list of parameters: "
            "write list(...)"
        )
    for position, parameter in enumerate(params):
        if not isinstance(parameter, Tensor):
            return TypeError(
                f"param group {index} holds a {torch.typename(parameter)} at position {position} of its 'params', and "
                "an optimizer takes Tensors only: take it out, or hand groups with names to add_param_group"
            )
    return None
