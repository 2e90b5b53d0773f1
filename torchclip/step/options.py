"""The arguments that every optimizer takes beside those of its rule.

They stand here once. A class takes them as ``**options: Unpack[Options]``, and its signature and its help name each.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from typing import Any, TypedDict, get_type_hints

from torchclip.backends.choice import Backend
from torchclip.policies.clip import ClipPolicy
from torchclip.policies.extensions import Extension
from torchclip.policies.step_size import StepSize


class OptionsButStepSize(TypedDict, total=False):
    """Those of a class whose rule has a step size already."""

    clip: ClipPolicy | float | None
    extensions: Iterable[Extension] | None
    seed: int | None
    backend: Backend | None


class Options(OptionsButStepSize, total=False):
    """All of them, each None where it is not given."""

    step_size: StepSize | None


MEANINGS = {
    "clip": "a clip policy; a number is ``ClipByGlobalNorm(max_norm)``.",
    "step_size": "``AdaLossStep`` or ``SqrtDecay``, a factor on the gradient.",
    "extensions": "gradient noise, gradient dropout, learning-rate dropout, Lookahead; at most one of each.",
    "seed": "fixes the random draws of the extensions; None takes one from torch's default generator.",
    "backend": '``"cuda"``, ``"triton"``, ``"cpu"`` or ``"reference"``; None: the first that serves the parameters.',
}
"""In the order in which they are shown."""

_UNPACKED = re.compile(r"Unpack\[(\w+)\]")
_ARGUMENTS = re.compile(r"^( *)Args:\n(?:\1 +\S.*\n)+", re.MULTILINE)


def check_known(optimizer: str, options: Iterable[str]) -> None:
    """Raises TypeError, as Python does for a function's arguments, for one that is none of these."""
    for name in options:
        if name not in MEANINGS:
            raise TypeError(f"{optimizer}.__init__() got an unexpected keyword argument {name!r}")


def show_options(cls: type) -> None:
    """Names them in the signature of a class whose constructor takes them, and in its docstring where it has not."""
    constructor = vars(cls).get("__init__")
    if constructor is None:
        return
    signature = inspect.signature(constructor)
    *others, last = signature.parameters.values()
    unpacked = _UNPACKED.fullmatch(str(last.annotation))
    if unpacked is None:
        return
    options = constructor.__globals__[unpacked[1]]
    types = get_type_hints(options)
    shown = {name: types[name] for name in MEANINGS if name in types}
    written = {name: options.__annotations__[name].__forward_arg__ for name in shown}  # as it stands above
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=text)
        for name, text in written.items()
    ]
    constructor.__signature__ = signature.replace(parameters=[*others, *added])
    kept: dict[str, Any] = {name: type_ for name, type_ in constructor.__annotations__.items() if name != last.name}
    constructor.__annotations__ = {**kept, **shown}
    if cls.__doc__ is not None:
        cls.__doc__ = _ARGUMENTS.sub(lambda section: section[0] + _lines(section, shown), cls.__doc__, count=1)


def _lines(section: re.Match[str], names: Iterable[str]) -> str:
    indent = section[1] + 4 * " "
    missing = [name for name in names if f"\n{indent}{name}: " not in section[0]]
    return "".join(f"{indent}{name}: {MEANINGS[name]}\n" for name in missing)
