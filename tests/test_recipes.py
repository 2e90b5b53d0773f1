"""`python -m recipes`: the list of recipes, names that are none, and the help of every one."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from recipes.__main__ import RECIPES, main
from recipes.algorithms import ALGORITHMS
from recipes.comparison.studies import STUDIES

ROOT = Path(__file__).parent.parent

# What trains through recipes.command has the options of every recipe.
OWN_OPTIONS = ("demo", "compare")


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


def test_the_help_of_compare_names_the_studies(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["compare", "--help"])
    words = " ".join(capsys.readouterr().out.split())
    for name in STUDIES:
        assert f"{name}:" in words


def test_every_recipe_says_what_it_is() -> None:
    for name in RECIPES:
        if name == "demo":
            pytest.importorskip("sklearn")
        module = import_module(f"recipes.{name}")
        assert module.__doc__ and f"python -m recipes{'.' if name == 'demo' else ' '}{name}" in module.__doc__


def test_the_module_is_a_command() -> None:
    done = subprocess.run([sys.executable, "-m", "recipes", "nothing"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.strip() == "'nothing' is no recipe"
