"""What parameters and state stand for in float32, whatever a precision policy holds them in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from torchclip.backends.reference.operands import encoded, parameter_value, slot_value, working
from torchclip.policies.modifiers import EMA, SLOW
from torchclip.policies.precision.codec import MASTER, REMAINDER, Kind, Types
from torchclip.state.precision_state import check_precision, created_beside
from torchclip.state.real_view import real_view
from torchclip.state.sharded import local_of, shard_like
from torchclip.state.steppable import can_step
from torchclip.step.backed_optimizer import BackedOptimizer


class ConvertedOptimizer(BackedOptimizer):
    """Abstract base of :class:`~torchclip.FusedOptimizer`: parameters and state to float32 and back."""

    @torch.no_grad()
    def float32_parameters(self) -> list[Tensor]:
        """The float32 values that the parameters stand for, in the order of the param groups: copies.

        Under :class:`~torchclip.SplitMaster` and :class:`~torchclip.MasterWeights` they are what steps start from,
        exactly; within :meth:`averaged` they are the averages. float64 and complex parameters stay so.

        Raises:
            TypeError: for a parameter with state that was cast to a type that the precision policy does not serve.

        Example:
            >>> import torch, torchclip
            >>> weight = torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16))
            >>> optimizer = torchclip.SGD([weight], lr=1e-3, precision=torchclip.SplitMaster())
            >>> optimizer.load_float32_parameters([torch.tensor([0.1, 0.2])])
            >>> weight.detach(), optimizer.float32_parameters()
            (tensor([0.1001, 0.2002], dtype=torch.bfloat16), [tensor([0.1000, 0.2000])])
        """
        own = self._own
        own._all_unstarted()  # whose masters follow what was written
        values = []
        for name, parameter, _ in own._named_parameters():
            local = local_of(parameter)
            if not parameter.is_floating_point():
                values.append(local.detach().clone())
                continue
            dtype, held = torch.promote_types(parameter.dtype, torch.float32), own.state.get(parameter, {})
            if own._shows_averages and held.get(EMA.name) is not None:
                value = working(local_of(held[EMA.name]), dtype)
            else:
                value = parameter_value(local, own._types(name, parameter), held, dtype)
            values.append(value.view(local.shape).clone())
        return values

    @torch.no_grad()
    def load_float32_parameters(self, values: Iterable[Tensor]) -> None:
        """Writes float32 values into the parameters, and what a precision policy keeps beside them.

        Without one, and under policies of the state, they are rounded to the parameters' types. What a parameter is
        made of in each step goes with it: gRDA's accumulator, the subgradient of LinBreg and AdaBreg, Lookahead's slow
        weights. An average of :class:`~torchclip.WeightEMA` stays.

        Args:
            values: a tensor for each parameter, in the order of the param groups, each of the parameter's shape.

        Raises:
            ValueError: for another number of them, or another shape.
            TypeError: for a value that is no dense tensor of floating-point numbers, or complex where the parameter is
                real, and for a parameter of a type that the policy does not serve.
            RuntimeError: within :meth:`averaged`.

            Nothing is written then.
        """
        own, given = self._own, list(values)
        if own._shows_averages:
            raise RuntimeError(
                "load_float32_parameters() was called within averaged(), where the parameters are averages: leave it "
                "first"
            )
        named = list(own._named_parameters())
        if len(given) != len(named):
            raise ValueError(f"load_float32_parameters got {len(given)} tensors, and the optimizer has {len(named)}")
        precision = own._modifiers.precision
        for value, (name, parameter, group) in zip(given, named, strict=True):
            _check_value(value, name, parameter)
            if precision is not None and can_step(parameter):
                check_precision(name, parameter, group, precision)
        for value, (name, parameter, group) in zip(given, named, strict=True):
            own._load_value(name, value, parameter, group)

    def _load_value(self, name: str, value: Tensor, parameter: Tensor, group: Mapping[str, Any]) -> None:
        types, local, held = self._types(name, parameter), real_view(local_of(parameter)), self.state.get(parameter, {})
        value = real_view(value.to(local.device, torch.promote_types(parameter.dtype, torch.float32)))
        if types is None or types.parameter.kind in (Kind.NEAREST, Kind.STOCHASTIC):
            local.copy_(value)
        else:
            held = self.state[parameter]
            made = created_beside(self.spec, types, parameter, group, held)
            held.update({name: tensor for name, tensor in made.items() if name in (REMAINDER, MASTER)})
            kept, beside = encoded(types, value, {}, held, None)
            local.copy_(kept)
            for name, tensor in beside.items():
                local_of(held[name]).copy_(tensor)
        of_rule = self.spec.state_of
        follows = {} if of_rule is None or not self._has_state(held) else of_rule(value, held, group)
        for name, tensor in {SLOW.name: value, **follows}.items():
            if held.get(name) is not None:
                real_view(local_of(held[name])).copy_(tensor)

    def _has_state(self, held: Mapping[str, Any]) -> bool:
        """Whether a parameter has all numbers of the rule's state."""
        return all(held.get(scalar.name) is not None for scalar in self.spec.scalars)

    @torch.no_grad()
    def float32_state_dict(self) -> dict[str, Any]:
        """:meth:`state_dict` with state in float32, and without what a precision policy keeps beside it.

        ``torch.optim``'s class of the same name loads it, and an optimizer without ``precision``, beside a model that
        has :meth:`float32_parameters`. What is in 8 bits or bfloat16 has been rounded; nothing else loses anything. The
        tensors are copies, so that both optimizers can go on.

        Raises:
            TypeError: as in :meth:`float32_parameters`.
        """
        own = self._own
        saved = own.state_dict()
        keys = [key for group in saved["param_groups"] for key in group["params"]]
        types = {
            key: own._types(name, parameter)
            for key, (name, parameter, _) in zip(keys, own._named_parameters(), strict=True)
        }
        state = {key: _wide(held, types.get(key)) for key, held in saved["state"].items()}
        return {**saved, "state": {key: held for key, held in state.items() if held}}

    def _types(self, name: str, parameter: Tensor) -> Types | None:
        """How the operands of a parameter are held; None without a policy, or for one that cannot step."""
        precision = self._modifiers.precision
        if precision is None:
            return None
        reason = precision.reason_against_parameter(parameter)
        if reason is not None and self.state.get(parameter):  # of what it was before it was cast
            raise TypeError(f"{name} {reason}")
        if reason is not None:
            return None
        return precision.types(self.spec, parameter)


def _check_value(value: Any, name: str, parameter: Tensor) -> None:
    """Raises when a value cannot be written into a parameter; ``name`` is the parameter's."""
    wanted = "complex or floating-point" if parameter.is_complex() else "floating-point"
    if not isinstance(value, Tensor):
        raise TypeError(
            f"load_float32_parameters got {type(value).__name__} for {name}, and a tensor is wanted: torch.as_tensor() "
            "makes one"
        )
    is_number = value.is_floating_point() or (value.is_complex() and parameter.is_complex())
    if not is_number or value.layout is not torch.strided or value.is_meta:
        raise TypeError(
            f"load_float32_parameters got a tensor of {value.dtype}, {value.layout} on {value.device} for {name}, and "
            f"a dense one of {wanted} numbers is wanted"
        )
    if value.shape != local_of(parameter).shape:
        raise ValueError(
            f"load_float32_parameters got a tensor of shape {tuple(value.shape)} for {name}, of which this "
            f"process holds {tuple(local_of(parameter).shape)}: give them in the order of the param groups"
        )


def _wide(held: Mapping[str, Any], types: Types | None) -> dict[str, Any]:
    """A copy of the state of one parameter, with every slot in float32."""
    wide = {name: value.clone() if isinstance(value, Tensor) else value for name, value in held.items()}
    if types is None:
        return wide
    for name in types.beside:
        wide.pop(name, None)
    for name in types.slots:
        if isinstance(held.get(name), Tensor):
            value = slot_value(name, types, held, torch.float32)
            wide[name] = shard_like(held[name], value.view(local_of(held[name]).shape).clone())
    return wide
