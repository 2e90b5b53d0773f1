"""``torch.optim`` under another name: ``from torchclip import optim`` is the whole port of a training script.

The optimizers are ours, under torch's names where torch has them. ``Optimizer``, ``lr_scheduler`` and ``swa_utils`` are
torch's own. What torch has and torchclip has not is refused, with the remedy: a script must not believe that torch's
class clips in its step.

Example:
    >>> import torch
    >>> from torchclip import optim
    >>> model = torch.nn.Linear(2, 1)
    >>> optimizer = optim.AdamW(model.parameters(), lr=1e-3, clip=1.0)
    >>> scheduler = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=100)
    >>> model(torch.ones(4, 2)).sum().backward()
    >>> optimizer.step()
    >>> scheduler.step()
"""

from __future__ import annotations

import sys
from opcode import opmap
from typing import TYPE_CHECKING, NoReturn

import torch
from torch.optim import Optimizer, lr_scheduler, swa_utils

from torchclip import optimizers
from torchclip.optimizers import *  # noqa: F403  a new class is listed in one place

__all__ = ["Optimizer", "lr_scheduler", "swa_utils"]
__all__ += optimizers.__all__


def __dir__() -> list[str]:
    return sorted(__all__)


if not TYPE_CHECKING:  # a type checker that saw this would take every name for one of ours

    def __getattr__(name: str) -> NoReturn:
        """Refuses a name that is not here.

        Raises:
            AttributeError: with the remedy.
            ImportError: for ``from torchclip.optim import ...``, which would not show an AttributeError's words.
        """
        asking = sys._getframe(1)
        is_import = asking.f_code.co_code[asking.f_lasti] == opmap["IMPORT_FROM"]
        raise (ImportError if is_import else AttributeError)(_reason_against(name))


def _reason_against(name: str) -> str:
    torchs = None if name.startswith("_") else getattr(torch.optim, name, None)
    if isinstance(torchs, type) and issubclass(torchs, Optimizer):
        return (
            f"torchclip has no {name} of its own, and does not pass torch's off as one: use torch.optim.{name}, with "
            "torchclip.clip_grad_norm_ in front of its step() to clip"
        )
    if torchs is not None:
        return f"torchclip.optim leaves {name} to torch: use torch.optim.{name}"
    return f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__dir__())}"
