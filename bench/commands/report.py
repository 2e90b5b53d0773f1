"""`python -m bench report`: docs/benchmarks.md from files of results."""

import argparse
from pathlib import Path

from bench.commands.options import add_files, drawing
from bench.markdown.report import read_runs, write_report

_PATH = Path("docs") / "benchmarks.md"


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> argparse.ArgumentParser:
    parser = commands.add_parser("report", help="docs/benchmarks.md, with its figures, from files of results")
    add_files(parser)
    parser.add_argument("--out", type=Path, default=_PATH, metavar="PATH", help="default: %(default)s")
    return parser


def run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    draw = drawing(parser)
    try:
        runs = read_runs(options.files)
        write_report(runs, options.out, draw)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    print(options.out)
    return 0
