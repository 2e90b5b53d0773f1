"""The arguments that every optimizer takes beside those of its rule.

Defined once here. A class takes them as ``**options: Unpack[Options]``, and its signature and its help name each.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from types import FunctionType
from typing import Any, TypedDict, get_args, get_type_hints

from torchclip.backends.choice import Backend
from torchclip.distributed.processes import GroupOrMesh
from torchclip.policies.clip import ClipPolicy
from torchclip.policies.extensions import Extension
from torchclip.policies.precision import Precision
from torchclip.policies.skip import SkipSpikes
from torchclip.policies.step_size import StepSize


class OptionsButStepSize(TypedDict, total=False):
    """Those of a class whose rule has a step size already."""

    clip: ClipPolicy | float | None
    skip: SkipSpikes | None
    extensions: Iterable[Extension] | None
    precision: Precision | None
    seed: int | None
    backend: Backend | None
    norm_group: GroupOrMesh | None
    loss_group: GroupOrMesh | None


class Options(OptionsButStepSize, total=False):
    """All of them, each None where it is not given."""

    step_size: StepSize | None


MEANINGS = {
    "clip": "a clip policy; a number is ``ClipByGlobalNorm(max_norm)``.",
    "skip": "``SkipSpikes``, which leaves out steps whose gradients or loss stand out.",
    "step_size": "``AdaLossStep``, ``SqrtDecay`` or ``PolyakStep``, a factor on the gradient.",
    "extensions": "gradient noise, gradient dropout, learning-rate dropout, Lookahead, WeightEMA; at most one of each.",
    "precision": "in which types parameters and state are held: ``StateDtype``, ``Blockwise8bit``, ``SplitMaster``, "
    "``MasterWeights`` or ``StochasticRounding``.",
    "seed": "fixes the random draws of the extensions and of stochastic rounding; None takes one from torch's default "
    "generator.",
    "backend": '``"cuda"``, ``"triton"``, ``"cpu"`` or ``"reference"``; None: the first that serves the parameters.',
    "norm_group": "the processes over which the parameters are distinct, where nothing else says so: pipeline stages, "
    "experts, pieces of FSDP1 and of ZeRO; see docs/distributed.md.",
    "loss_group": "the processes over whose losses a step that needs one averages; None: those of the parameters.",
}
"""In the order in which they are shown."""

_ARGUMENTS = re.compile(r"^( *)Args:\n((?:[ \t]*\n|\1[ \t]+\S.*(?:\n|\Z))*)", re.MULTILINE)


def check_known(optimizer: str, options: Iterable[str]) -> None:
    """Raises TypeError, as Python does for a function's arguments, for one that is none of these."""
    for name in options:
        if name not in MEANINGS:
            remedy = ": its rule has no threshold to steer; use GRDA, LinBreg or AdaBreg" * (name == "target_sparsity")
            raise TypeError(f"{optimizer}.__init__() got an unexpected keyword argument {name!r}{remedy}")


def show_options(cls: type) -> None:
    """Names them in the signature of a class whose constructor takes them, and in its docstring where it has not."""
    constructor = inspect.unwrap(vars(cls).get("__init__", None))
    if not isinstance(constructor, FunctionType):
        return
    taken = _taken(constructor)
    if taken is None:
        return
    last, options = taken
    types = get_type_hints(options)
    shown = {name: types[name] for name in MEANINGS if name in types}
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_WRITTEN[name])
        for name in shown
    ]
    signature = inspect.signature(constructor)
    others = [parameter for name, parameter in signature.parameters.items() if name != last]
    vars(constructor)["__signature__"] = signature.replace(parameters=[*others, *added])
    kept: dict[str, Any] = {name: type_ for name, type_ in constructor.__annotations__.items() if name != last}
    constructor.__annotations__ = {**kept, **shown}
    if cls.__doc__ is not None:
        cls.__doc__ = _with_lines(cls.__doc__, shown)


_KINDS = {kind.__name__: kind for kind in (OptionsButStepSize, Options)}
_WRITTEN = {name: reference.__forward_arg__ for name, reference in Options.__annotations__.items()}
"""The types as they stand above."""


def _taken(constructor: FunctionType) -> tuple[str, type] | None:
    """What a constructor calls the options that it takes, and which they are; None where it takes none."""
    try:
        annotations = constructor.__annotations__
    except NameError:  # of a name that only a type checker sees, which Python 3.14 asks for here
        return None
    for name, annotation in annotations.items():
        arguments = (annotation,) if isinstance(annotation, str) else get_args(annotation)
        for kind in _KINDS.values():
            if arguments in ((f"Unpack[{kind.__name__}]",), (kind,)):
                return name, kind
    return None


def _with_lines(text: str, names: Iterable[str]) -> str:
    """A docstring with a line for each name that its section of arguments lacks."""
    section = _ARGUMENTS.search(text)
    if section is None:
        return text
    body = section[2].rstrip()
    first = body.lstrip("\n")
    indent = first[: len(first) - len(first.lstrip())]
    missing = [name for name in names if f"\n{indent}{name}: " not in f"\n{body}"]
    end = section.start(2) + len(body)
    return text[:end] + "".join(f"\n{indent}{name}: {MEANINGS[name]}" for name in missing) + text[end:]
