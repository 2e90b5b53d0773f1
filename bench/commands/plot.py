"""`python -m bench plot`: figures from files of results, and from nothing else."""

import argparse
from pathlib import Path

from bench.store import read_document

_FOLDER = Path("results") / "figures"


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> argparse.ArgumentParser:
    parser = commands.add_parser("plot", help="figures from files of results")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="written by --json of the other commands")
    parser.add_argument("--out", type=Path, default=_FOLDER, metavar="FOLDER", help="default: %(default)s")
    return parser


def run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    try:
        from bench.plots.draw import draw
    except ImportError as error:  # a machine that only measures need not have it
        parser.error(f"{error}: pip install matplotlib")
    try:
        documents = [(path, read_document(path)) for path in options.files]
        for path, document in documents:
            print(*draw(document, options.out, path.stem), sep="\n")
    except (OSError, ValueError) as error:
        parser.error(str(error))
    return 0
