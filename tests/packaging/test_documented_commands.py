"""Command lines in the documents: each is accepted by the parser of its own program, and nothing of it is run."""

from __future__ import annotations

import argparse
import importlib.util
import re
import shlex
import sys
from importlib import import_module
from typing import Any

import pytest
from torch import nn

from places import ROOT, TESTS
from recipes.algorithms import Schedule, make_optimizer
from recipes.compare import TRAINING

DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
BLOCK = re.compile(r"^```[\s\S]*?^```|^ {4}.*(?:\n {4}.*)*", re.MULTILINE)
SPAN = re.compile(r"`([^`]+)`")
COMMAND = re.compile(r"^((?:[A-Z_]+=\S+ )*)(?:(?:\S*/)?python3?(?: -m)?|torchrun .* -m|(make)) (.+)$")
MEANT = {"NAME": "image", "[options]": "", "STUDY": "clipping"}
"""What stands for a word of the reader's own."""


def lines_of(text: str) -> list[str]:
    """What may be a command: the lines of code, continued ones joined, and what stands between backquotes."""
    blocks = [line for block in BLOCK.findall(text) for line in block.replace("\\\n", " ").splitlines()]
    spans = [" ".join(span.split()) for span in SPAN.findall(BLOCK.sub("", text))]
    return [line.strip() for line in (*blocks, *spans)]


def commands() -> list[tuple[str, str, list[str]]]:
    """Where each stands, ``make`` or the module that is run, and its words."""
    found = []
    for path in DOCUMENTS:
        for line in lines_of(path.read_text(encoding="utf-8")):
            if matched := COMMAND.match(line):
                variables, make, rest = matched.groups()
                words = [MEANT.get(word, word) for word in shlex.split(rest, comments=True)]
                if make is None:
                    found.append((path.name, words[0], [word for word in words[1:] if word]))
                else:
                    found.append((path.name, "make", [*variables.split(), *words]))
    return [each for each in found if each[1].partition(".")[0] in ("make", "tests/mutants", "recipes", "bench")]


COMMANDS = commands()
NAMED_ALONE = (("recipes", []), ("bench", []), ("bench", ["report"]))
"""Named, with no word of what has to follow."""
PROGRAMS = [each for each in COMMANDS if each[1] != "make" and each[1:] not in NAMED_ALONE]


class Accepted(Exception):
    """A parser has taken its words."""


def parse(module: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs the module as far as its parser; SystemExit where that refuses."""
    original = argparse.ArgumentParser.parse_args

    def parse_args(self: argparse.ArgumentParser, *arguments: Any) -> None:
        original(self, *arguments)
        raise Accepted

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
    monkeypatch.setattr(sys, "argv", [module, *words])
    name = f"{module}.__main__" if module in ("recipes", "bench") else module
    with pytest.raises(Accepted):
        import_module(name).main()
    monkeypatch.undo()


def parse_mutants(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """``python tests/mutants``, which is a folder and no module."""
    spec = importlib.util.spec_from_file_location("mutants", TESTS / "mutants" / "__main__.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, "argv", ["tests/mutants", *words])
    module._arguments()


def check_recipe(name: str, words: list[str]) -> None:
    """What recipes.command checks before it reads data."""
    options = import_module(f"recipes.{name}").parse(words)
    Schedule(options.schedule, make_optimizer(options, nn.Linear(1, 1)), options.epochs)


def check(module: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    if module == "tests/mutants":
        return parse_mutants(words, monkeypatch)
    parse(module, words, monkeypatch)
    if module == "recipes" and words[0] in TRAINING:
        check_recipe(words[0], words[1:])
    elif module == "recipes" and words[0] == "compare" and words[1:2] != ["spikes"]:
        _, study, others = import_module("recipes.compare")._parse(words[1:])
        for line in study.lines:
            check_recipe(study.recipe, [*shlex.split(study.common), *shlex.split(line.options), *others])


def check_make(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    for word in words:
        name, is_variable, value = word.partition("=")
        if not is_variable:
            assert re.search(rf"^{re.escape(name)}:", text, re.MULTILINE), f"no target {name}"
            continue
        assert re.search(rf"^(?:export )?{name} \?=|\$\({name}\)", text, re.MULTILINE), f"no variable {name}"
        if name == "NAMES":
            parse_mutants(shlex.split(value), monkeypatch)


def test_they_are_found() -> None:
    programs = {(module, *words[:1]) for _, module, words in COMMANDS}
    wanted = {("recipes", "compare"), ("recipes", "image"), ("bench", "step"), ("make", "test"), ("make", "gpu")}
    assert wanted <= programs
    assert any("--nu" in words for _, _, words in COMMANDS), "a line that is continued"
    assert ("README.md", "make", ["gpu"]) in COMMANDS, "between backquotes, behind a block"


@pytest.mark.parametrize(
    ("module", "words"), [pytest.param(*each[1:], id=f"{each[0]}-{shlex.join(each[2])}") for each in PROGRAMS]
)
def test_a_program_takes_its_options(module: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    if words[:1] == ["demo"] or module == "recipes.demo":
        pytest.importorskip("sklearn")
    check(module, words, monkeypatch)


@pytest.mark.parametrize(
    "words", [pytest.param(each[2], id=f"{each[0]}-{shlex.join(each[2])}") for each in COMMANDS if each[1] == "make"]
)
def test_make_has_its_targets_and_variables(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    check_make(words, monkeypatch)


@pytest.mark.parametrize(
    "line",
    [
        "recipes image --nope",
        "recipes compare nope",
        "recipes compare clipping -- --nope",
        "recipes compare spikes --jobs 2",
        "recipes image --algo sgd --nu 1",
        "recipes theory --nope",
        "bench step --nope",
        "bench.gpu --nope",
        "tests/mutants --nope",
    ],
)
def test_one_that_does_not_exist_is_found(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, *words = line.split()
    with pytest.raises((SystemExit, ValueError)):
        check(module, words, monkeypatch)


@pytest.mark.parametrize("line", ["nope", "test NOPE=1", 'mutants NAMES="--nope"'])
def test_make_does_not_know_it(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises((SystemExit, AssertionError)):
        check_make(shlex.split(line), monkeypatch)
