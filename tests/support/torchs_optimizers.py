"""What torch tests its own optimizers with (``torch.testing._internal.common_optimizers``)."""

from __future__ import annotations

import functools
from typing import Any


@functools.cache
def _infos() -> dict[str, Any]:
    from torch.testing._internal.common_optimizers import optim_db  # which takes seconds to import

    return {info.optim_cls.__name__: info for info in optim_db}


def info_of(name: str, otherwise: str | None = None) -> Any:
    """The ``OptimizerInfo`` of a class's name, or that of another one where torch has none of that."""
    infos = _infos()
    return infos[name] if otherwise is None else infos.get(name, infos[otherwise])
