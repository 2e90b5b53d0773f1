"""``python -m recipes compare``: algorithms × seeds of one recipe, with the paper's figure and a table.

One of the papers' studies, or lines of one's own::

    python -m recipes compare clipping --jobs 2
    python -m recipes compare --recipe image --run "SGD=--algo sgd --lr 0.1" --run "MixClip=--algo mix_clip" \\
        --seeds 0 1 2 -- --dataset mnist --epochs 3

A study that was stopped goes on where it was when it is called again.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from recipes.comparison.figures import draw
from recipes.comparison.results import results_of, table
from recipes.comparison.runs import execute, runs_of
from recipes.comparison.studies import STUDIES, Drawing, Line, Study
from recipes.run_folder import folder_name

_INTERRUPTED = 130


def _line(text: str) -> Line:
    """``"NAME=--algo sgd --lr 0.1"``. For argparse."""
    series, equals, options = text.partition("=")
    try:
        given = shlex.split(options)
    except ValueError:  # a quote that is not closed
        given = []
    if not equals or not series or not given or not given[0].startswith("-"):
        raise argparse.ArgumentTypeError(f'{text!r} is not NAME=OPTIONS, as in "SGD=--algo sgd --lr 0.1"')
    return Line(series, options)


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Ends with a message where options exclude each other."""
    own = {
        "--recipe": options.recipe,
        "--run": options.lines,
        "--metric": options.metric,
        "--sparsity": options.sparsity,
    }
    given = [flag for flag, value in own.items() if value]
    if options.study is not None and given:
        parser.error(f"{given[0]} is of lines of one's own, and {options.study} is a study: drop one of them")
    if options.study is None and (options.lines is None or options.recipe is None):
        parser.error("name a study, or give --recipe and a --run for every line")
    if options.study is None and options.only is not None:
        parser.error("--only is of a study: leave out the --run that is not wanted")
    names = [folder_name(line.label) for line in options.lines or ()]
    if len(set(names)) < len(names):
        twice = next(line.label for line in options.lines if names.count(folder_name(line.label)) > 1)
        parser.error(f"two lines would share the folder of {twice!r}: name them apart")
    if options.jobs < 1:
        parser.error(f"--jobs {options.jobs}: at least 1")


def _parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options, and what stands after ``--``: options of every run."""
    given = list(arguments)
    split = given.index("--") if "--" in given else len(given)
    parser = argparse.ArgumentParser(
        prog="python -m recipes compare",
        description="Algorithms times seeds of one recipe, with the paper's figure and a table. "
        "What follows -- goes to every run.",
        epilog="studies: " + "; ".join(f"{name}: {study.title}" for name, study in STUDIES.items()),
    )
    add = parser.add_argument
    add("study", nargs="?", choices=tuple(STUDIES), metavar="STUDY", help="one of the studies below")
    add("--recipe", help="instead of a study: the recipe of one's own lines")
    add("--run", dest="lines", type=_line, action="append", metavar="NAME=OPTIONS", help="a line; may be repeated")
    add("--metric", help="of one's own lines (default test_accuracy)")
    add("--sparsity", action="store_true", help="draw one's own lines over their sparsity")
    add("--only", nargs="+", metavar="NAME", help="only these series of the study")
    add("--seeds", type=int, nargs="+", help="default: the study's, or 0 1 2")
    add("--jobs", type=int, default=1, help="runs at a time (default 1); the cores are shared out")
    add("--data-dir", type=Path, default=Path("data"), help="where data sets lie (default data)")
    add("--result-dir", type=Path, help="default results/compare/STUDY")
    add("--draw", action="store_true", help="run nothing: figure and table of what there is")
    options = parser.parse_args(given[:split])
    _check(parser, options)
    return options, given[split + 1 :]


def _study(options: argparse.Namespace) -> Study:
    """Raises ValueError when nothing of the study is left."""
    if options.study is None:
        drawing = Drawing.SPARSITY if options.sparsity else Drawing.CURVES
        title = f"{options.recipe}: " + ", ".join(line.series for line in options.lines)
        return Study(options.recipe, title, "", "", tuple(options.lines), drawing, options.metric or "test_accuracy")
    study = STUDIES[options.study]
    if options.only is None:
        return study
    unknown = set(options.only) - {line.series for line in study.lines}
    if unknown:
        known = ", ".join(dict.fromkeys(line.series for line in study.lines))
        raise ValueError(f"{', '.join(sorted(unknown))}: not in the study, which has {known}")
    lines = tuple(line for line in study.lines if line.series in options.only)
    return Study(**{**vars(study), "lines": lines})


def main(arguments: Sequence[str] | None = None) -> int:
    options, others = _parse(sys.argv[1:] if arguments is None else arguments)
    try:
        study = _study(options)
    except ValueError as error:
        print(f"python -m recipes compare: {error}", file=sys.stderr)
        return 2
    folder = options.result_dir or Path("results", "compare", options.study or options.recipe)
    runs = runs_of(study, list(dict.fromkeys(options.seeds or study.seeds)), folder)
    failures: list[str] = []
    if not options.draw:
        try:
            failures = execute(study, runs, options.data_dir, options.jobs, others)
        except KeyboardInterrupt:
            print(f"interrupted; the same command goes on with {folder}", file=sys.stderr)
            return _INTERRUPTED
    for failure in failures:
        print(f"FAILED: {failure}", file=sys.stderr)
    results = results_of(study, runs)
    if results:
        draw(study, results, folder / "figure.png")
        text = table(study, results)
        (folder / "table.md").write_text(text)
        print(f"{study.title}\n{study.source}\n\n{text}\n{folder}/figure.png, {folder}/table.md")
    else:
        print(f"{folder} has no run with an epoch yet", file=sys.stderr)
    return 1 if failures or not results else 0
