"""`python -m recipes`: the list of recipes, names that are none, and the help of every one."""

from __future__ import annotations

import argparse
import ast
import re
import runpy
import shlex
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from places import ROOT
from recipes.__main__ import RECIPES, main
from recipes.algorithms import ALGORITHMS, Schedule, make_optimizer
from recipes.compare import TRAINING

# What trains through recipes.command has the options of every recipe.
OWN_OPTIONS = ("demo", "keras_cnn", "theory", "tutorial", "compare")


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"]])
def test_the_list(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    said = capsys.readouterr()
    listed = [line.split(maxsplit=1) for line in said.out.splitlines() if line.startswith("  ")]
    assert listed == [[name, what] for name, what in RECIPES.items()] and not said.err


def test_an_unknown_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nothing", "--help"]) == 2
    said = capsys.readouterr()
    assert said.err.strip() == "'nothing' is no recipe" and all(name in said.out for name in RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    if name == "demo":
        pytest.importorskip("sklearn")
    with pytest.raises(SystemExit) as caught:
        main([name, "--help"])
    assert caught.value.code == 0
    said = capsys.readouterr().out
    assert said.startswith(f"usage: python -m recipes{'.' if name == 'demo' else ' '}{name} ")
    if name not in OWN_OPTIONS:
        groups = [line for line in said.splitlines() if line.endswith(":") and not line.startswith(" ")]
        assert {"optimizer:", "training:", "files:"} <= set(groups)
        words = " ".join(said.split())
        assert all(algo in words for algo in ALGORITHMS)


@pytest.mark.filterwarnings("ignore:.* found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("name", RECIPES)
def test_a_module_of_its_own(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """``python -m recipes.image`` is no silent end."""
    if name == "demo":
        pytest.importorskip("sklearn")
    monkeypatch.setattr(sys, "argv", [f"recipes.{name}", "--help"])
    with pytest.raises(SystemExit) as caught:
        runpy.run_module(f"recipes.{name}", run_name="__main__")
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith("usage: python -m recipes")


MISTAKES = {"--algo sgd --nu 1": "--nu is no option of --algo sgd", "--backend nope": "unknown backend='nope'"}
OF_MODELS = {
    "image --model nope": "'nope' is no model",
    "image --model resnet(9,1)": "the depth must be 6n + 2",
    "image --fsdp": "--fsdp and --tp are for several processes",
    "finetune --model resnet(9,1)": "the depth must be 6n + 2",
    "imagenet --arch resnet(9,1)": "the depth must be 6n + 2",
    "lm --wdrop 1": "wanted probabilities",
    "lm --emsize 0": "wanted at least 1 of each",
}


@pytest.mark.parametrize(
    ("line", "words"),
    [*((f"{name} {options}", words) for name in TRAINING for options, words in MISTAKES.items()), *OF_MODELS.items()],
)
def test_options_are_checked_before_data_are_read(
    line: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # where there are none
    name, *options = line.split()
    data = {"imagenet": ("--data", "none"), "lm": ("--data", "none"), "control": ()}.get(name, ("--dataset", "none"))
    if name == "control":
        monkeypatch.setitem(sys.modules, "gymnasium", None)
    assert main([name, *data, *options]) == 2
    assert words in capsys.readouterr().err


def test_what_compare_runs() -> None:
    assert set(TRAINING) == RECIPES.keys() - set(OWN_OPTIONS)


def examples() -> list[Any]:
    """The command lines in the recipes' docstrings."""
    found = []
    for name in RECIPES:
        text = ast.get_docstring(ast.parse((ROOT / "recipes" / f"{name}.py").read_text())) or ""
        for line in re.findall(
            r"^ +(?:\w+=\S+ )*(?:python|torchrun.*) -m recipes (\w+) ?(.*)$", text.replace("\\\n", ""), re.M
        ):
            found.append(pytest.param(*line, id=f"{name}-{len(found)}"))
    return found


@pytest.mark.parametrize(("name", "options"), examples())
def test_examples_can_be_run(name: str, options: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As far as to the first step: their options are there, and belong to their algorithm."""
    recipe, checked = import_module(f"recipes.{name}"), []

    def run_recipe(recipe: str, options: argparse.Namespace, *_: Any, **__: Any) -> int:
        optimizer = make_optimizer(options, nn.Linear(2, 2))
        Schedule(options.schedule, optimizer, options.epochs)
        checked.append(options)
        return 0

    def execute(study: Any, runs: Any, data_dir: Path, jobs: int, others: Any) -> list[str]:
        checked.extend(runs)
        for run in runs:
            words = [*shlex.split(study.common), *shlex.split(run.line.options), *others]
            inner = import_module(f"recipes.{study.recipe}")
            monkeypatch.setattr(inner, "run_recipe", run_recipe)
            assert inner.main(words) == 0
        return []

    monkeypatch.chdir(tmp_path)  # where no study has run
    words = shlex.split(options)
    if name == "compare":
        monkeypatch.setattr(recipe, "execute", execute)
        assert recipe.main(words) == 1, "nothing has run"
    else:
        monkeypatch.setattr(recipe, "run_recipe", run_recipe)
        assert recipe.main(words) == 0
    assert checked
