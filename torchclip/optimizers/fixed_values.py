"""Keys of a param group that have one value in every optimizer of a class, whatever it loads or is handed."""

from __future__ import annotations

from collections.abc import Mapping

from torchclip.rules.hyperparameters import Check


def fixed_values(values: Mapping[str, float]) -> dict[str, Check]:
    """Checks for such keys, by name."""
    return {name: _check(name, value) for name, value in values.items()}


def _check(name: str, value: float) -> Check:
    wanted = f"{value} in every optimizer of this class: leave it out, or choose a class that does not fix it"
    return Check(name, wanted, least=value, most=value, is_flag=isinstance(value, bool))
