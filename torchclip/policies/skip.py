"""Steps that are left out because their gradients or their loss stand out from those before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torchclip.policies.numbers import set_flag, set_number

Watched = Literal["grad_norm", "loss"]
WATCHED: tuple[Watched, ...] = ("grad_norm", "loss")


@dataclass(frozen=True)
class SkipSpikes:
    r"""Skips the whole step where the gradients' norm or the loss stands out from the last of its kind.

    .. math::
        \text{the step is taken where} \quad x - \operatorname{mean}(H) \le \sigma \operatorname{std}(H)
        \quad \text{for each } x

    with :math:`x` the joint norm of all gradients before any clipping, or the loss, and :math:`H` the ``window`` values
    before it, those of skipped steps too; std divides by one less than their number. Before ``window // 2`` values are
    there, this one counted, and before there are two in :math:`H`, the step is taken. A value that is not finite skips
    the step and is not remembered. A skipped step changes nothing but :math:`H`: no parameter, no state, no count of
    steps, no decay. It is decided on the device, which nobody waits for. Without a clip policy that takes norms, the
    norm is measured for this alone.

    Args:
        window: how many values are remembered, 2 to 1,024.
        sigma: :math:`\sigma`, finite and above 0.
        on: ``"grad_norm"``, ``"loss"`` or both; the loss comes with the step, ``step(closure)`` or ``step(loss=loss)``.
        is_averaged: True where the loss is that of all processes already; else a step of several averages it.

    Raises:
        TypeError: when ``window`` is not an integer.
        ValueError: when a field is out of range.

    Example:
        >>> import torch, torchclip
        >>> weight = torch.nn.Parameter(torch.zeros(1))
        >>> optimizer = torchclip.SGD([weight], lr=1.0, skip=SkipSpikes(window=4, on=("grad_norm",)))
        >>> for norm in (1.0, 1.1, 0.9, 1000.0):
        ...     weight.grad = torch.tensor([norm])
        ...     optimizer.step()
        >>> weight.detach()
        tensor([-3.])
        >>> optimizer.metrics()["skipped_fraction"]
        tensor(0.2500)

    Source: the rule of the skip-step optimizers of OLMo-core (Allen Institute for AI).
    """

    window: int = 128
    sigma: float = 6.0
    on: tuple[Watched, ...] = WATCHED
    is_averaged: bool = False

    def __post_init__(self) -> None:
        set_number(self, "window", least=2, most=1024, whole="the number of values that count")
        set_number(self, "sigma", above=0)
        on = (self.on,) if isinstance(self.on, str) or self.on is None else tuple(self.on)
        if not on or len(set(on)) != len(on) or not set(on) <= set(WATCHED):
            raise ValueError(f"Invalid on: {self.on!r}; it must be 'grad_norm', 'loss' or both, each once")
        object.__setattr__(self, "on", on)
        set_flag(self, "is_averaged")

    @property
    def watches_norm(self) -> bool:
        """Whether it looks at the norm of the gradients."""
        return "grad_norm" in self.on

    @property
    def watches_loss(self) -> bool:
        """Whether it looks at the loss."""
        return "loss" in self.on


def checked_skip(skip: SkipSpikes | None) -> SkipSpikes | None:
    """What an optimizer's ``skip=`` argument stands for.

    Raises:
        TypeError: when it is something else.
    """
    if skip is None or isinstance(skip, SkipSpikes):
        return skip
    raise TypeError(f"skip={skip!r} must be None or SkipSpikes(...), got {type(skip).__name__}")
