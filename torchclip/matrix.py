"""``python -m torchclip.matrix``: which optimizer takes which policies and extensions, as Markdown.

Nothing is listed twice: the classes are those of ``torchclip.optimizers``, and every cell is what the constructor said
when it was called with a parameter of one element.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, get_args

import torch

from torchclip import optimizers
from torchclip.policies.clip import POLICIES, ClipByGlobalNorm, ClipByTensorNorm, ClipByValue
from torchclip.policies.extensions import EXTENSIONS
from torchclip.policies.precision import PRECISIONS, StateDtype
from torchclip.policies.skip import SkipSpikes
from torchclip.policies.step_size import StepSize
from torchclip.step.fused_optimizer import FusedOptimizer

OptimizerClass = type[FusedOptimizer]

KINDS: dict[str, tuple[type, ...]] = {
    "clip": POLICIES,
    "skip": (SkipSpikes,),
    "step_size": get_args(StepSize),
    "extensions": EXTENSIONS,
    "precision": PRECISIONS,
}
"""The constructor's arguments, and the classes that go into each."""

TITLES = {
    "clip": "Clip policies",
    "skip": "Skipped steps",
    "step_size": "Step sizes",
    "extensions": "Extensions",
    "precision": "Precision policies",
}

INTRODUCTION = """\
# What can be combined

Written by `make docs` from what the constructors accept; do not edit. Each table holds one optimizer with one part
beside it. A clip policy, what skips steps, a step size and any extensions that an optimizer takes one by one, it takes
together, but for `PolyakStep` with `ClipByValue` and `Lookahead` with `WeightEMA`. Every
`scope` takes the same. A param group's own `clip` is a number, `ClipByGlobalNorm` or None, beside an optimizer's
`ClipByGlobalNorm` or None. Precision policies are beside a bfloat16 parameter, which all of them serve; none
goes with `differentiable`. A number stands for the constructor's reason, below the tables."""


def optimizer_classes() -> dict[str, OptimizerClass]:
    """Every public optimizer under its first name, in alphabetical order."""
    classes: dict[str, OptimizerClass] = {}
    for name in sorted(optimizers.__all__, key=str.lower):
        cls = getattr(optimizers, name)
        classes.setdefault(cls.__name__, cls)
    return classes


def example(part: type) -> Any:
    """A clip policy, step size, extension or precision policy with its defaults, where it has them."""
    bounded = part in (ClipByGlobalNorm, ClipByTensorNorm, ClipByValue)
    if part is StateDtype:
        return StateDtype("bfloat16")
    return part(1.0) if bounded else part()


def required_arguments(cls: OptimizerClass) -> dict[str, Any]:
    """A value for each argument beside ``params`` that has no default: learning rates and thresholds."""
    parameters = list(inspect.signature(cls).parameters.values())[1:]
    return {parameter.name: 1.0 for parameter in parameters if parameter.default is inspect.Parameter.empty}


def reason_against(cls: OptimizerClass, arguments: Mapping[str, Any]) -> str | None:
    """Why the constructor refuses these arguments; None where it takes them."""
    dtype = torch.bfloat16 if "precision" in arguments else torch.float32
    parameter = torch.nn.Parameter(torch.ones(1, dtype=dtype))
    try:
        cls([parameter], **required_arguments(cls), **arguments, backend="reference")
    except (TypeError, ValueError, RuntimeError) as error:
        return str(error)
    return None


def argument(kind: str, part: type) -> dict[str, Any]:
    """The constructor's argument that adds an example of ``part``."""
    return {kind: (example(part),) if kind == "extensions" else example(part)}


def table(kind: str, notes: list[str]) -> list[str]:
    """The lines of the table of one kind of part; a reason that is not yet in ``notes`` is added."""
    parts = KINDS[kind]
    lines = [
        "| optimizer | " + " | ".join(f"`{part.__name__}`" for part in parts) + " |",
        "|---" * (len(parts) + 1) + "|",
    ]
    for name, cls in optimizer_classes().items():
        cells = [_cell(reason_against(cls, argument(kind, part)), notes) for part in parts]
        lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    return lines


def _cell(reason: str | None, notes: list[str]) -> str:
    if reason is None:
        return "yes"
    if reason not in notes:
        notes.append(reason)
    return f"[{notes.index(reason) + 1}](#reasons)"


def document() -> str:
    """The whole page."""
    notes: list[str] = []
    lines = [INTRODUCTION]
    for kind, title in TITLES.items():
        lines += ["", f"## {title}", "", *table(kind, notes)]
    lines += ["", "## Reasons", "", *(f"{number}. {reason}" for number, reason in enumerate(notes, 1))]
    return "\n".join(lines)


if __name__ == "__main__":
    print(document())
