"""``python -m recipes compare``: algorithms × seeds of one recipe, with the paper's figure and a table.

One of the papers' studies, or lines of one's own::

    python -m recipes compare clipping --jobs 2
    python -m recipes compare --recipe image --run "SGD=--algo sgd --lr 0.1" --run "MixClip=--algo mix_clip" \\
        --seeds 0 1 2 -- --dataset mnist --epochs 3

A study that was stopped goes on where it was when it is called again. ``compare spikes`` is a study of another kind:
recipes/comparison/spikes.py.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from recipes.command import INTERRUPTED, positive
from recipes.comparison import spikes
from recipes.comparison.figures import draw
from recipes.comparison.runs import execute, results_of, runs_of, table
from recipes.comparison.studies import STUDIES, Line, Study
from recipes.run_folder import folder_name

TRAINING = ("image", "finetune", "imagenet", "control", "lm", "text")
"""The recipes of which a run can be a line: those whose options are recipes.command's."""


def _line(text: str) -> Line:
    """``"NAME=--algo sgd --lr 0.1"``. For argparse."""
    series, _, options = text.partition("=")
    if not series or not options.startswith("-"):
        raise argparse.ArgumentTypeError(f'{text!r} is not NAME=OPTIONS, as in "SGD=--algo sgd --lr 0.1"')
    return Line(series, options)


def _parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, Study, list[str]]:
    """The options, the study, and what stands after ``--``: options of every run."""
    given = list(arguments)
    split = given.index("--") if "--" in given else len(given)
    parser = argparse.ArgumentParser(
        prog="python -m recipes compare",
        description="Algorithms times seeds of one recipe, with the paper's figure and a table. "
        "What follows -- goes to every run.",
        epilog="studies: spikes: what one bad batch costs, by policy (has options of its own); "
        + "; ".join(f"{name}: {study.title}" for name, study in STUDIES.items()),
    )
    add = parser.add_argument
    add("study", nargs="?", choices=tuple(STUDIES), metavar="STUDY", help="one of the studies below")
    add("--recipe", choices=TRAINING, help="instead of a study: the recipe of one's own lines")
    add("--run", dest="lines", type=_line, action="append", metavar="NAME=OPTIONS", help="a line; may be repeated")
    add("--metric", default="test_accuracy", help="of one's own lines (default test_accuracy)")
    add("--seeds", type=partial(positive, least=0), nargs="+", help="default: the study's, or 0 1 2")
    add("--jobs", type=positive, default=1, help="runs at a time (default 1); the cores are shared out")
    add("--data-dir", type=Path, default=Path("data"), help="where data sets lie (default data)")
    add("--result-dir", type=Path, help="default results/compare/STUDY")
    add("--draw", action="store_true", help="run nothing: figure and table of what there is")
    options = parser.parse_args(given[:split])
    own = options.recipe is not None and options.lines is not None
    if own == (options.study is not None) or (options.recipe is None) != (options.lines is None):
        parser.error("name a study, or give --recipe and a --run for every line")
    if not own:
        return options, STUDIES[options.study], given[split + 1 :]
    title = f"{options.recipe}: " + ", ".join(line.series for line in options.lines)
    if len({folder_name(line.series) for line in options.lines}) < len(options.lines):
        parser.error(f"two lines of {title} would share a folder: name them apart")
    study = Study("", options.recipe, title, "", tuple(options.lines), metric=options.metric)
    return options, study, given[split + 1 :]


def main(arguments: Sequence[str] | None = None) -> int:
    given = sys.argv[1:] if arguments is None else arguments
    if given[:1] == ["spikes"]:
        return spikes.main(given[1:])
    options, study, others = _parse(given)
    folder = options.result_dir or Path("results", "compare", options.study or options.recipe)
    runs = runs_of(study, list(dict.fromkeys(options.seeds or study.seeds)), folder)
    failures: list[str] = []
    if not options.draw:
        try:
            failures = execute(study, runs, options.data_dir, options.jobs, others)
        except KeyboardInterrupt:
            print(f"interrupted; the same command goes on with {folder}", file=sys.stderr)
            return INTERRUPTED
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


if __name__ == "__main__":
    sys.exit(main())
