"""What a precision policy is: one of the state, or one of the parameters, which may have one of the state in it."""

from __future__ import annotations

import abc
from typing import ClassVar

import torch
from torch import Tensor

from torchclip.policies.precision.codec import Codec, Kind, Types
from torchclip.rules.rule_spec import Extent, RuleSpec, StateSlot

HALF_AND_FLOAT32 = (torch.float32, torch.bfloat16, torch.float16)

FLOAT32 = Codec(Kind.NEAREST, torch.float32)


def may_round(slot: StateSlot) -> bool:
    """Whether a policy may hold a slot in less than float32: the slot's rule says where it must not."""
    return slot.extent is Extent.ELEMENT and not slot.at_least_float32


class PrecisionPolicy(abc.ABC):
    """Abstract base of precision policies.

    Attributes:
        parameter_dtypes: the types of parameters that it serves.
    """

    parameter_dtypes: ClassVar[tuple[torch.dtype, ...]]

    @property
    @abc.abstractmethod
    def draws(self) -> bool:
        """Whether a step draws random bits to round."""

    @property
    @abc.abstractmethod
    def has_blocks(self) -> bool:
        """Whether state is held in blocks, which shards of a tensor would cut."""

    @abc.abstractmethod
    def reason_against(self, spec: RuleSpec) -> str | None:
        """Why it cannot be combined with a rule; None where it can."""

    @abc.abstractmethod
    def types(self, spec: RuleSpec, parameter: Tensor) -> Types:
        """How the operands of a parameter are held.

        Args:
            spec: the rule.
            parameter: of a type that the policy serves; its shape decides what stays wide.
        """

    def reason_against_parameter(self, parameter: Tensor) -> str | None:
        """Why a parameter of this type is not served, with the remedy; None where it is."""
        if parameter.dtype in self.parameter_dtypes:
            return None
        names = " or ".join(str(dtype).removeprefix("torch.") for dtype in self.parameter_dtypes)
        return (
            f"is {parameter.dtype}, and precision={self!r} serves {names} parameters: cast the model before it makes "
            "the optimizer, give this parameter an optimizer of its own, or leave out precision"
        )


class StatePolicy(PrecisionPolicy):
    """Abstract base of policies of the state; the parameter is held as it is."""

    parameter_dtypes = HALF_AND_FLOAT32

    @abc.abstractmethod
    def slot_codec(self, slot: StateSlot, parameter: Tensor, otherwise: Codec) -> Codec:
        """How a slot that may be rounded is held; ``otherwise`` is how it is without the policy."""

    def reason_against(self, spec: RuleSpec) -> str | None:
        if any(may_round(slot) for slot in spec.slots):
            return None
        exact = [slot.name for slot in spec.slots if slot.at_least_float32]
        what = f"its {' and '.join(exact)} must not be rounded" if exact else "it keeps no number for each element"
        return (
            f"{type(self).__name__} cannot be combined with {spec.name}: {what}; leave out precision, or choose one "
            "for the parameters, SplitMaster() say"
        )

    def types(self, spec: RuleSpec, parameter: Tensor) -> Types:
        as_it_is = Codec(Kind.NEAREST, parameter.dtype)
        return types_with(as_it_is, self, as_it_is, spec, parameter)


class ParameterPolicy(PrecisionPolicy):
    """Abstract base of policies of the parameters: the rule sees a float32 value, and so is its state.

    Attributes:
        state: how the state is held; None: as beside a float32 parameter.
        kind: how the parameter is stored.

    Raises:
        TypeError: for a ``state=`` that is no policy of the state.
    """

    state: StatePolicy | None
    kind: ClassVar[Kind]

    def __post_init__(self) -> None:
        if self.state is not None and not isinstance(self.state, StatePolicy):
            name = type(self).__name__
            raise TypeError(f"state={self.state!r} of {name} must be StateDtype(...), Blockwise8bit() or None")

    @property
    def draws(self) -> bool:
        return self.kind is Kind.STOCHASTIC or (self.state is not None and self.state.draws)

    @property
    def has_blocks(self) -> bool:
        return self.state is not None and self.state.has_blocks

    def reason_against(self, spec: RuleSpec) -> str | None:
        return None if self.state is None else self.state.reason_against(spec)

    def types(self, spec: RuleSpec, parameter: Tensor) -> Types:
        return types_with(Codec(self.kind, parameter.dtype), self.state, FLOAT32, spec, parameter)


def types_with(
    parameter_codec: Codec, state: StatePolicy | None, otherwise: Codec, spec: RuleSpec, parameter: Tensor
) -> Types:
    """The types of a parameter held by ``parameter_codec``, whose state is held by a policy, or else ``otherwise``."""
    slots: dict[str, Codec] = {}
    for slot in spec.slots:
        if slot.extent is not Extent.ELEMENT:
            continue  # a number for each row or tensor, which is held as without a policy
        if not may_round(slot):
            slots[slot.name] = FLOAT32
        else:
            slots[slot.name] = otherwise if state is None else state.slot_codec(slot, parameter, otherwise)
    return Types(parameter_codec, slots, {slot.name: number for number, slot in enumerate(spec.slots, 1)})
