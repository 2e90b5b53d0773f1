"""What an editor shows: the public names, the words that may stand in an argument, and a line for every argument."""

from __future__ import annotations

import enum
import inspect
import re
import typing
from collections.abc import Callable
from typing import Any, Literal, get_args, get_origin

import pytest
import torch
from typing_extensions import Unpack

import torchclip
from torchclip import optimizers
from torchclip.backends.choice import BACKENDS
from torchclip.matrix import required_arguments
from torchclip.step.options import Options

PUBLIC = {name: getattr(torchclip, name) for name in torchclip.__all__}

DOCUMENTED = {
    name: value
    for name, value in PUBLIC.items()
    if inspect.isfunction(value)
    or (inspect.isclass(value) and not issubclass(value, enum.Enum) and value is not torchclip.FusedOptimizer)
}
"""What is called. Enumerations are named by their words, and nobody makes an abstract optimizer."""

each_documented = pytest.mark.parametrize("name", DOCUMENTED)


def documented_arguments(called: Callable[..., Any]) -> set[str]:
    """The names in the ``Args`` section of a docstring."""
    text = inspect.cleandoc(called.__doc__ or "")
    section = re.search(r"^Args:\n((?:    .*\n|\n)*)", text + "\n", re.MULTILINE)
    return set() if section is None else set(re.findall(r"^    (\w+): \S", section[1], re.MULTILINE))


@each_documented
def test_every_argument_has_a_line(name: str) -> None:
    called = DOCUMENTED[name]
    assert documented_arguments(called) == set(inspect.signature(called).parameters)


@pytest.mark.parametrize("name", optimizers.__all__)
def test_the_line_of_the_backend_names_every_one(name: str) -> None:
    line = next(line for line in (PUBLIC[name].__doc__ or "").splitlines() if line.strip().startswith("backend: "))
    assert re.findall(r'``"(\w+)"``', line) == list(BACKENDS)


@pytest.mark.parametrize("name", optimizers.__all__)
def test_an_unknown_option_is_refused(name: str) -> None:
    needed = required_arguments(PUBLIC[name])
    with pytest.raises(TypeError, match=r"__init__\(\) got an unexpected keyword argument 'clips'"):
        PUBLIC[name]([torch.nn.Parameter(torch.ones(3))], **needed, clips=1.0)


def test_a_class_of_the_users_own_shows_its_options() -> None:
    class Own(torchclip.SGD):
        """Own.

        Args:
            params: those.
            seed: of its own.

        Returns nothing.
        """

        def __init__(self, params: Any, **options: Unpack[Options]) -> None:
            super().__init__(params, **options)

    class Plain(torchclip.SGD):
        """Plain."""

        def __init__(self, params: Any, **kwargs: Any) -> None:
            super().__init__(params, **kwargs)

    assert list(inspect.signature(Own).parameters) == ["params", "clip", "step_size", "extensions", "seed", "backend"]
    lines = [line for line in inspect.cleandoc(Own.__doc__ or "").splitlines() if line.startswith("    ")]
    assert [line.split(":")[0].strip() for line in lines] == [
        *("params", "seed", "clip", "step_size", "extensions", "backend")
    ]
    assert lines[1] == "    seed: of its own."
    assert list(inspect.signature(Plain).parameters) == ["params", "kwargs"] and Plain.__doc__ == "Plain."


def words_of(hint: Any) -> list[str]:
    """Those that a type checker lets stand in an argument."""
    if get_origin(hint) is Literal:
        return [word for word in get_args(hint) if isinstance(word, str)]
    return [word for part in get_args(hint) for word in words_of(part)]


def hints_of(called: Callable[..., Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(called.__init__ if inspect.isclass(called) else called)
    return {name: hint for name, hint in hints.items() if name != "return"}


WORDS = {
    "backend": {("cuda", "triton", "cpu", "reference")},
    "nonfinite": {("propagate", "skip", "error")},
    "scope": {("optimizer", "group"), ("optimizer", "group", "tensor"), ("optimizer", "group", "tensor", "row")},
}
"""What each argument that takes words may allow."""


@each_documented
def test_words_are_literal(name: str) -> None:
    """An argument that takes any text would let backend="gpu" stand until it runs."""
    for argument, hint in hints_of(DOCUMENTED[name]).items():
        assert hint is not str and str not in get_args(hint), argument
        if argument in WORDS:
            assert tuple(words_of(hint)) in WORDS[argument], argument


def test_the_words_are_those_that_are_taken() -> None:
    """Every one, and no other."""
    weight = torch.nn.Parameter(torch.ones(3))
    for word in words_of(hints_of(torchclip.AdaGradNorm)["scope"]):
        assert torchclip.AdaGradNorm([weight], scope=word).clips_by == word
    for word in words_of(hints_of(torchclip.MixClip)["scope"]):
        assert torchclip.MixClip([weight], lr=0.1, gamma=1.0, scope=word).clips_by == word
    for word in words_of(hints_of(torchclip.ClipByGlobalNorm)["scope"]):
        assert torchclip.ClipByGlobalNorm(1.0, scope=word).scope == word
    for word in words_of(hints_of(torchclip.ClipByGlobalNorm)["nonfinite"]):
        assert torchclip.ClipByGlobalNorm(1.0, nonfinite=word).nonfinite == word
    assert tuple(words_of(hints_of(torchclip.SGD)["backend"])) == BACKENDS
    with pytest.raises(ValueError, match="scope"):
        torchclip.MixClip([weight], lr=0.1, gamma=1.0, scope="row")
    with pytest.raises(ValueError, match="scope"):
        torchclip.ClipByGlobalNorm(1.0, scope="tensor")


def test_dir_lists_the_public_names() -> None:
    assert dir(torchclip) == sorted(torchclip.__all__)
    assert len(torchclip.__all__) == len(set(torchclip.__all__))


def test_the_types_of_every_argument_are_public() -> None:
    """What a user's own function has to say of an optimizer's arguments."""
    assert torchclip.ClipPolicy is torchclip.policies.clip.ClipPolicy
    for policy in get_args(torchclip.ClipPolicy):
        assert PUBLIC[policy.__name__] is policy
    for part in (*get_args(torchclip.StepSize), *get_args(torchclip.Extension)):
        assert PUBLIC[part.__name__] is part
    assert torchclip.NonFinite("skip") is torchclip.NonFinite.SKIP
    assert torchclip.Scope("row") is torchclip.Scope.ROW
    assert get_args(torchclip.Backend) == BACKENDS
    assert all(issubclass(PUBLIC[name], torchclip.FusedOptimizer) for name in optimizers.__all__)


def test_repr_shows_the_backend(backend: str) -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    assert f"\nbackend: {backend}\n" in repr(torchclip.SGD([weight], lr=0.1, backend=backend))
    chosen = torchclip.SGD([weight], lr=0.1)
    assert f"\nbackend: {chosen.backend}\n" in repr(chosen)
