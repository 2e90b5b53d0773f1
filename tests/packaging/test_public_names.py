"""What an editor shows: the public names, the words that may stand in an argument, and a line for every argument."""

from __future__ import annotations

import enum
import functools
import inspect
import math
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
from torchclip.policies.clip import POLICIES
from torchclip.policies.extensions import EXTENSIONS
from torchclip.step import options
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


OF_SOME_CLASS = {argument for name in optimizers.__all__ for argument in inspect.signature(PUBLIC[name]).parameters}


@pytest.mark.parametrize("name", optimizers.__all__)
def test_an_argument_of_another_class_is_refused(name: str) -> None:
    cls = PUBLIC[name]
    needed = required_arguments(cls)
    for foreign in (OF_SOME_CLASS | {"clips"}) - inspect.signature(cls).parameters.keys():
        with pytest.raises(
            TypeError, match=rf"{cls.__name__}.__init__\(\) got an unexpected keyword argument '{foreign}'"
        ):
            cls([torch.nn.Parameter(torch.ones(3))], **needed, **{foreign: True})


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

    assert list(inspect.signature(Own).parameters) == [
        *(
            "params",
            "clip",
            "skip",
            "step_size",
            "extensions",
            "precision",
            "seed",
            "backend",
            "norm_group",
            "loss_group",
        )
    ]
    lines = [line for line in inspect.cleandoc(Own.__doc__ or "").splitlines() if line.startswith("    ")]
    assert [line.split(":")[0].strip() for line in lines] == [
        *(
            "params",
            "seed",
            "clip",
            "skip",
            "step_size",
            "extensions",
            "precision",
            "backend",
            "norm_group",
            "loss_group",
        )
    ]
    assert lines[1] == "    seed: of its own."
    assert list(inspect.signature(Plain).parameters) == ["params", "kwargs"] and Plain.__doc__ == "Plain."


class OtherOptions(typing.TypedDict, total=False):
    lr: float
    clip: float


def test_a_class_of_the_users_own_may_be_of_any_kind() -> None:
    """Its constructor is looked at, and left alone where it does not take the options as the classes here do."""

    def constructor(self: Any, params: Any, **options: Any) -> None:
        torchclip.SGD.__init__(self, params, **options)

    def wrapper(self: Any, *args: Any, **kwargs: Any) -> None:
        constructor(self, *args, **kwargs)

    class Local(typing.TypedDict, total=False):
        seed: int

    for annotation, shows in (
        (Unpack[Options], True),
        ("Unpack[Options]", True),
        (Unpack[Local], False),
        ("Unpack[Local]", False),
        (Unpack[OtherOptions], False),
        ("Unpack[OtherOptions]", False),
    ):
        constructor.__annotations__ = {"options": annotation}
        vars(constructor).pop("__signature__", None)
        for written in (constructor, functools.wraps(constructor)(wrapper)):
            cls = type("Own", (torchclip.SGD,), {"__init__": written})
            assert ("clip" in inspect.signature(cls).parameters) is shows
            assert cls([torch.nn.Parameter(torch.ones(3))], lr=0.5, clip=1.0).clip.max_norm == 1.0
    for other in (functools.partialmethod(torchclip.SGD.__init__, lr=0.5), staticmethod(lambda: None)):
        type("Own", (torchclip.SGD,), {"__init__": other})


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("Args:\n  a: one\n", "Args:\n  a: one\n  seed: S\n"),
        ("Args:\n    a: one", "Args:\n    a: one\n    seed: S"),
        (
            "Args:\n    a: one\n\n    b: two\n\nElse:\n    c\n",
            "Args:\n    a: one\n\n    b: two\n    seed: S\n\nElse:\n    c\n",
        ),
        ("Args:\n    a: one\n\n    seed: own\n", "Args:\n    a: one\n\n    seed: own\n"),
        ("Nothing.", "Nothing."),
    ],
)
def test_lines_go_to_the_end_of_the_arguments(text: str, wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(options.MEANINGS, "seed", "S")
    assert options._with_lines(text, ["seed"]) == wanted


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
        if argument in ("name", "no_weight_decay"):  # of an optimizer in any spelling, and of a model's parameters
            continue
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


@pytest.mark.parametrize(
    "cls",
    (*POLICIES, *EXTENSIONS, torchclip.AdaLossStep, torchclip.SqrtDecay, torchclip.PolyakStep, torchclip.SkipSpikes),
)
def test_a_policys_help_says_which_numbers_must_be_finite(cls: Any) -> None:
    needed = {name: 1.0 for name in ("max_norm", "max_value") if name in inspect.signature(cls).parameters}
    ranges = re.findall(
        r"^    (\w+): .*?((?:finite and )?(?:above|at least) 0)", inspect.getdoc(cls) or "", re.MULTILINE
    )
    for name, told in ranges:
        if name == "smooth":  # which speaks of max_norm
            continue
        try:
            cls(**{**needed, name: math.inf})
        except ValueError:
            assert told.startswith("finite and "), name
        except TypeError:  # of a number of things
            assert not told.startswith("finite and "), name
        else:
            assert not told.startswith("finite and "), name
