"""recipes.comparison.studies: every line can be parsed and made by its recipe, so that no study rots."""

from __future__ import annotations

import argparse
import re
import shlex
from importlib import import_module
from typing import Any

import pytest
from torch import nn

from recipes.__main__ import RECIPES
from recipes.algorithms import Schedule, make_optimizer
from recipes.comparison.studies import STUDIES, Line, Study


def lines() -> list[Any]:
    return [
        pytest.param(study, line, id=f"{name}-{line.label}") for name, study in STUDIES.items() for line in study.lines
    ]


@pytest.mark.parametrize(("study", "line"), lines())
def test_every_line_of_every_study_can_be_run(study: Study, line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its recipe parses it, and it makes an optimizer and a schedule."""
    if study.recipe not in RECIPES:
        pytest.skip(f"no recipe {study.recipe} here")
    recipe = import_module(f"recipes.{study.recipe}")
    parsed_options: list[argparse.Namespace] = []

    def run_recipe(name: str, options: argparse.Namespace, *_: Any, **__: Any) -> int:
        parsed_options.append(options)
        return 0

    monkeypatch.setattr(recipe, "run_recipe", run_recipe)
    assert recipe.main([*shlex.split(study.common), *shlex.split(line.options), "--seed", "1"]) == 0
    (options,) = parsed_options
    optimizer = make_optimizer(options, nn.Linear(2, 2))
    assert Schedule(options.schedule, optimizer, options.epochs).epochs == options.epochs[-1]
    assert study.milestone is None or study.milestone in options.epochs
    if line.value is not None:
        varied = ("b0", "c", "mu", "target_sparsity")
        assert line.value in [getattr(options, name) for name in varied]


@pytest.mark.parametrize("name", STUDIES)
def test_the_lines_of_a_study_differ(name: str) -> None:
    lines = STUDIES[name].lines
    assert len({line.label for line in lines}) == len(lines)
    assert len({line.options for line in lines}) == len(lines)


def test_the_studies_have_the_papers_algorithms() -> None:
    def algorithms(name: str) -> list[str]:
        return [re.match(r"--algo (\w+)", line.options)[1] for line in STUDIES[name].lines]

    assert algorithms("clipping") == ["sgd", "normalized_sgd", "sgd_clip", "mom_clip", "mix_clip"]
    assert len(STUDIES["collection"].lines) == 18
    assert set(algorithms("adaloss")) == {"adaloss", "adagrad_norm", "sgd_constant", "sgd_sqrt"}
    assert set(algorithms("pruning")) == {"sgd", "grda"}
