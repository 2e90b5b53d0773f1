"""The pages of the public names, one each, from their docstrings: nothing of a class is written twice."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch

import torchclip
from torchclip import optimizers
from torchclip.matrix import KINDS, example, optimizer_classes, reason_against, required_arguments
from torchclip.rules.rule_spec import RuleSpec
from torchclip.step.fused_optimizer import FusedOptimizer

CSRC = Path(__file__).resolve().parents[2] / "csrc" / "rules"


@dataclass(frozen=True)
class Section:
    """Pages that are listed together.

    Args:
        title: of the list.
        about: its first paragraph.
        names: of the pages.
    """

    title: str
    about: str
    names: tuple[str, ...]


def sections() -> dict[str, Section]:
    """Every public name, by the file of its list; a name of an unknown kind is in ``others``."""
    policies = [part.__name__ for part in KINDS["clip"]]
    steps = [part.__name__ for part in KINDS["step_size"]] + ["SqrtDecayLR"]
    precisions = [part.__name__ for part in KINDS["precision"]]
    extensions = [part.__name__ for part in KINDS["extensions"]]
    listed = {
        "optimizers": Section(
            "Optimizers",
            "Every class takes the arguments of its namesake in `torch.optim`, where there is one, and beside them "
            "``clip``, ``step_size``, ``extensions``, ``precision``, ``seed`` and ``backend``.",
            tuple(optimizer_classes()),
        ),
        "policies": Section(
            "Clip policies", "What ``clip=`` takes, beside a number, which is ``ClipByGlobalNorm``.", tuple(policies)
        ),
        "step_sizes": Section("Step sizes", "What ``step_size=`` takes: a factor on the gradient.", tuple(steps)),
        "extensions": Section(
            "Extensions", "What ``extensions=`` takes, in any mix, at most one of each.", tuple(extensions)
        ),
        "precision": Section(
            "Precision policies",
            "What ``precision=`` takes: the types in which parameters and state are held, on the CPU backend and the "
            "reference path.",
            tuple(precisions),
        ),
    }
    known = {name for section in listed.values() for name in section.names} | {*optimizers.__all__}
    rest = tuple(name for name in torchclip.__all__ if name not in known)
    listed["others"] = Section("Base class, functions, types", "What else is public.", rest)
    return listed


def page(name: str) -> str:
    """The reStructuredText of a public name's page."""
    value = getattr(torchclip, name)
    title = name.replace("_", r"\_")  # a name that ends so would be a reference
    parts = [title, "=" * len(title), ""]
    if isinstance(value, type) and issubclass(value, FusedOptimizer):
        parts += list(_class(name, value))
        if value is not FusedOptimizer:
            parts += ["", "Cost", "----", "", *_cost(value), "", "Takes", "-----", "", *_takes(value)]
    elif isinstance(value, type):
        parts += list(_class(name, value))
    elif inspect.isfunction(value):
        parts += [f".. autofunction:: torchclip.{name}"]
    elif inspect.ismodule(value):
        parts += [f".. automodule:: torchclip.{name}"]
    else:
        choices = [getattr(each, "__name__", repr(each)) for each in get_args(value)]
        parts += [f".. py:data:: torchclip.{name}", "", "   A type: " + ", ".join(f"``{each}``" for each in choices)]
    return "\n".join(parts) + "\n"


_OF_EVERY_OPTIMIZER = (
    *("step", "loss", "clip", "step_size", "extensions", "grad_norm", "clip_factor", "metrics", "set_grad_norm"),
    *("step_was_skipped", "backend", "backend_reason", "add_param_group", "state_dict", "load_state_dict"),
    *("precision", "float32_parameters", "load_float32_parameters", "float32_state_dict"),
)


def _class(name: str, cls: type) -> Iterator[str]:
    yield f".. autoclass:: torchclip.{name}"
    if cls is FusedOptimizer:
        yield f"   :members: {', '.join(_OF_EVERY_OPTIMIZER)}"
        yield "   :inherited-members: Optimizer"
        yield "   :exclude-members: profile_hook_step"
        yield "   :member-order: groupwise"
        return
    own = [key for key, value in vars(cls).items() if not key.startswith("_") and inspect.isfunction(value)]
    if issubclass(cls, FusedOptimizer):
        base = getattr(optimizers, "FusedOptimizer", FusedOptimizer)
        own = [key for key in own if not hasattr(base, key)]
    documented = [key for key in own if getattr(cls, key).__doc__]
    if documented:
        yield f"   :members: {', '.join(documented)}"


# What a step costs.


def _state_words(cls: type[FusedOptimizer], **options: Any) -> tuple[float, RuleSpec]:
    """Words of state for each element of a parameter, of an optimizer that has taken a step."""
    parameter = torch.nn.Parameter(torch.ones(64, 64))
    optimizer = cls([parameter], **required_arguments(cls), **options, backend="reference")
    parameter.grad = torch.ones_like(parameter)
    optimizer.step(loss=1.0)
    state = optimizer.state[parameter].values()
    held = sum(each.numel() for each in state if isinstance(each, torch.Tensor) and each.shape == parameter.shape)
    return held / parameter.numel(), optimizer.spec


def _variants(cls: type[FusedOptimizer]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The class with its defaults, and with each option that asks for more state."""
    yield "as it is", {}
    for name, value in (("momentum", 0.9), ("amsgrad", True), ("centered", True)):
        parameter = inspect.signature(cls).parameters.get(name)
        if parameter is not None and not parameter.default:
            yield f"``{name}={value}``", {name: value}


def _reads_parameter(spec: RuleSpec) -> bool:
    """Whether the kernels read the old parameter, which a rule writes from its state alone may leave out."""
    headers = [CSRC / f"{name}.h" for name in (spec.name, spec.family)]
    return not any(header.exists() and "kReadsParameter = false" in header.read_text() for header in headers)


def _own_pass(spec: RuleSpec, state: float) -> float:
    """The words of the norm pass of a rule that clips itself, which reads the state where it measures a direction."""
    if not spec.clips_itself:
        return 0
    return 1 if spec.accumulate is None else 1 + state


def _cost(cls: type[FusedOptimizer]) -> Iterator[str]:
    yield "Words of 4 bytes for each parameter, in float32: of state, and moved by a step."
    yield "Every pass over memory reads the gradient once; the last one reads and writes parameter and state."
    yield ""
    yield ".. list-table::"
    yield "   :header-rows: 1"
    yield ""
    yield "   * - options"
    yield "     - state"
    yield "     - moved"
    yield "     - moved with ``clip=``"
    for title, options in _variants(cls):
        state, spec = _state_words(cls, **options)
        moved = 1 + (2 if _reads_parameter(spec) else 1) + 2 * state + _own_pass(spec, state)
        yield f"   * - {title}"
        yield from (f"     - {number:g}" for number in (state, moved, moved + 1))


def _takes(cls: type[FusedOptimizer]) -> Iterator[str]:
    refused = []
    for argument, parts in KINDS.items():
        for part in parts:
            one = example(part)
            reason = reason_against(cls, {argument: (one,) if argument == "extensions" else one})
            if reason is not None:
                refused += ["", f"Not :class:`~torchclip.{part.__name__}`: {reason}"]
    yield "Every clip policy, step size, extension and precision policy, in any mix" + (
        ", but these." if refused else "."
    )
    yield from refused


def write(folder: Path) -> None:
    """Writes all pages and their lists; a page that has not changed keeps its time, by which a build goes."""
    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    for file, section in sections().items():
        entries = "\n".join(f"   {name}" for name in section.names)
        title = f"{section.title}\n{'=' * len(section.title)}"
        lines = "\n".join(f"- :doc:`{name}`: {_first_line(name)}" for name in section.names)
        written[file] = f"{title}\n\n{section.about}\n\n{lines}\n\n.. toctree::\n   :hidden:\n\n{entries}\n"
        written.update({name: page(name) for name in section.names})
    for name, text in written.items():
        path = folder / f"{name}.rst"
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
    for path in folder.glob("*.rst"):
        if path.stem not in written:
            path.unlink()


def _first_line(name: str) -> str:
    value = getattr(torchclip, name)
    if not (inspect.isclass(value) or inspect.isfunction(value) or inspect.ismodule(value)):
        return "the type of an argument."
    paragraph = (inspect.getdoc(value) or "").split("\n\n")[0].replace("\n", " ")
    return re.split(r"(?<=\.) (?=[A-Z])", paragraph)[0]
