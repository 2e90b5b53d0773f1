"""Torch's wrapper around every ``step``, left out where nobody listens."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch._C._autograd import _profiler_enabled
from torch.compiler import is_compiling
from torch.optim import Optimizer
from torch.optim import optimizer as torch_optimizer

from torchclip.step.first_step import drop_handed


def hook_step(func: Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., Any]:
    """Stands in for ``Optimizer.profile_hook_step``: step hooks, and a record for the profiler.

    A step that raises has used up the norm and the loss that it was handed, wherever it was.

    Torch's takes as long as a hundred parameters do. Where nobody listens, the step runs without it.

    Args:
        func: the step.
        plain: the same of an optimizer without arguments, where no graph is compiled.
    """
    observed = Optimizer.profile_hook_step(func)

    @functools.wraps(func)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        if is_compiling():  # which can look at hooks, and not at the profiler
            return observed(self, *args, **kwargs)
        try:
            if (
                self._optimizer_step_pre_hooks
                or self._optimizer_step_post_hooks
                or torch_optimizer._global_optimizer_pre_hooks
                or torch_optimizer._global_optimizer_post_hooks
                or _profiler_enabled()
            ):
                return observed(self, *args, **kwargs)
            return func(self, *args, **kwargs) if args or kwargs else plain(self)  # without a tuple and a dict
        except BaseException:
            drop_handed(self)  # in front of a step that a hook has not let begin, too
            raise

    return wrapper
