"""`python -m bench report`: docs/benchmarks.md from files of results."""

import argparse
from pathlib import Path

from bench.markdown.report import read_runs, write_report

_PATH = Path("docs") / "benchmarks.md"


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> argparse.ArgumentParser:
    parser = commands.add_parser("report", help="docs/benchmarks.md, with its figures, from files of results")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="written by --json of the other commands")
    parser.add_argument("--out", type=Path, default=_PATH, metavar="PATH", help="default: %(default)s")
    return parser


def run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    try:
        from bench.plots.draw import draw
    except ImportError as error:  # a machine that only measures need not have it
        parser.error(f"{error}: pip install matplotlib")
    try:
        runs = read_runs(options.files)
        write_report(runs, options.out, draw)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    print(options.out)
    return 0
