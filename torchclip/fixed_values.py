"""Keys of a param group that have one value in every optimizer of a class, whatever it loads or is handed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from torchclip.checks import Check


def fixed_values(values: Mapping[str, Any]) -> dict[str, Check]:
    """Checks for such keys, by name."""

    def check(name: str, wanted: Any) -> Check:
        def check_value(value: Any) -> str | None:
            fits = value == wanted
            if fits.numel() == 1 and bool(fits) if isinstance(fits, Tensor) else bool(fits):
                return None
            return (
                f"Invalid {name}: {value}; it is {wanted} in every optimizer of this class: leave it out, or choose a "
                "class that does not fix it"
            )

        return check_value

    return {name: check(name, wanted) for name, wanted in values.items()}
