"""What param groups say of backends: torch's flags, and whether they go together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

FUSED_BACKENDS = ("cuda", "triton", "cpu")


def demands_compiled(requested: str | None, param_groups: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the reference path cannot be chosen."""
    return requested in FUSED_BACKENDS or any(group.get("fused") or group.get("capturable") for group in param_groups)


def check_flags(group: Mapping[str, Any], requested: str | None) -> None:
    """Raises when a group's flags, or a flag and the backend asked for, contradict one another."""
    if group.get("fused") and group.get("foreach"):
        raise RuntimeError(
            "`fused` and `foreach` cannot be `True` together. A fused backend serves both; where there is none, "
            "foreach=True runs on the reference path and fused=True raises: drop one of them"
        )
    if group.get("fused") and group.get("differentiable"):
        raise RuntimeError(
            "`fused` does not support `differentiable`: a differentiable step runs on the reference path; "
            "drop fused=True"
        )
    flag = reference_flag(group)
    if requested in FUSED_BACKENDS and flag is not None:
        raise ValueError(
            f"backend={requested!r} contradicts {flag}, which chooses the reference path; drop one of them"
        )
    if requested == "reference" and group.get("fused"):
        raise ValueError("backend='reference' contradicts fused=True, which demands a fused backend; drop one of them")


def reference_flag(group: Mapping[str, Any]) -> str | None:
    """The flag of a group that chooses the reference path, if there is one."""
    for name, value in (("fused", False), ("differentiable", True)):
        if group.get(name) is value:
            return f"{name}={value}"
    return None
