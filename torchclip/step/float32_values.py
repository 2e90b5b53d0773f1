"""What parameters and state stand for in float32, whatever a precision policy holds them in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from torchclip.backends.reference.operands import encoded, parameter_value, slot_value
from torchclip.policies.precision.codec import MASTER, REMAINDER, Kind, Types
from torchclip.state.precision_state import check_precision, created_beside
from torchclip.state.real_view import real_view
from torchclip.state.sharded import local_of
from torchclip.step.backed_optimizer import BackedOptimizer


class ConvertedOptimizer(BackedOptimizer):
    """Abstract base of :class:`~torchclip.FusedOptimizer`: parameters and state to float32 and back."""

    @torch.no_grad()
    def float32_parameters(self) -> list[Tensor]:
        """The float32 values that the parameters stand for, in the order of the param groups: copies.

        Under :class:`~torchclip.SplitMaster` and :class:`~torchclip.MasterWeights` they are what steps start from,
        exactly. float64 and complex parameters stay so.

        Example:
            >>> import torch, torchclip
            >>> weight = torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16))
            >>> optimizer = torchclip.SGD([weight], lr=1e-3, precision=torchclip.SplitMaster())
            >>> optimizer.load_float32_parameters([torch.tensor([0.1, 0.2])])
            >>> weight.detach(), optimizer.float32_parameters()
            (tensor([0.1001, 0.2002], dtype=torch.bfloat16), [tensor([0.1000, 0.2000])])
        """
        own = self._own
        values = []
        for _, parameter, _ in own._named_parameters():
            local = local_of(parameter)
            if not parameter.is_floating_point():
                values.append(local.detach().clone())
                continue
            dtype = torch.promote_types(parameter.dtype, torch.float32)
            value = parameter_value(local, own._types(parameter), own.state.get(parameter, {}), dtype)
            values.append(value.view(local.shape).clone())
        return values

    @torch.no_grad()
    def load_float32_parameters(self, values: Iterable[Tensor]) -> None:
        """Writes float32 values into the parameters, and what a precision policy keeps beside them.

        Without one, and under policies of the state, they are rounded to the parameters' types.

        Args:
            values: a tensor for each parameter, in the order of the param groups, each of the parameter's shape.

        Raises:
            ValueError: for another number of them, or another shape; nothing is written then.
            TypeError: for a parameter of a type that the policy does not serve.
        """
        own, given = self._own, list(values)
        named = list(own._named_parameters())
        if len(given) != len(named):
            raise ValueError(f"load_float32_parameters got {len(given)} tensors, and the optimizer has {len(named)}")
        precision = own._modifiers.precision
        for value, (name, parameter, group) in zip(given, named, strict=True):
            if value.shape != local_of(parameter).shape:
                raise ValueError(
                    f"load_float32_parameters got a tensor of shape {tuple(value.shape)} for {name}, of which this "
                    f"process holds {tuple(local_of(parameter).shape)}: give them in the order of the param groups"
                )
            if precision is not None:
                check_precision(name, parameter, group, precision)
        for value, (_, parameter, group) in zip(given, named, strict=True):
            types, local = own._types(parameter), real_view(local_of(parameter))
            if types is None or types.parameter.kind in (Kind.NEAREST, Kind.STOCHASTIC):
                local.copy_(real_view(value))
                continue
            held = own.state[parameter]
            held.update(
                {
                    name: tensor
                    for name, tensor in created_beside(own.spec, types, parameter, group, held).items()
                    if name in (REMAINDER, MASTER)
                }
            )
            kept, beside = encoded(local, types, value.to(local.device, torch.float32), {}, held, None)
            local.copy_(kept)
            for name, tensor in beside.items():
                local_of(held[name]).copy_(tensor)

    @torch.no_grad()
    def float32_state_dict(self) -> dict[str, Any]:
        """:meth:`state_dict` with state in float32, and without what a precision policy keeps beside it.

        ``torch.optim``'s class of the same name loads it, and an optimizer without ``precision``, beside a model that
        has :meth:`float32_parameters`. What is in 8 bits or bfloat16 has been rounded; nothing else loses anything.
        """
        own = self._own
        saved = own.state_dict()
        if own._modifiers.precision is None:
            return saved
        everyone = [parameter for _, parameter, _ in own._named_parameters()]
        state = {key: _wide(held, own._types(everyone[key])) for key, held in saved["state"].items()}
        return {**saved, "state": {key: held for key, held in state.items() if held}}

    def _types(self, parameter: Tensor) -> Types | None:
        """How the operands of a parameter are held; None without a policy, or for one that cannot step."""
        precision = self._modifiers.precision
        if precision is None or precision.reason_against_parameter(parameter) is not None:
            return None
        return precision.types(self.spec, parameter)


def _wide(held: Mapping[str, Any], types: Types | None) -> dict[str, Any]:
    """The state of one parameter with every slot in float32."""
    if types is None:
        return dict(held)
    wide = {name: value for name, value in held.items() if name not in types.beside}
    for name in types.slots:
        if isinstance(held.get(name), Tensor):
            value = slot_value(name, types, held, torch.float32)
            wide[name] = value.view(local_of(held[name]).shape)
    return wide
