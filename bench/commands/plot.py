"""`python -m bench plot`: figures from files of results, and from nothing else."""

import argparse
from pathlib import Path

from bench.commands.options import add_files, drawing
from bench.store import read_document

_FOLDER = Path("results") / "figures"


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> argparse.ArgumentParser:
    parser = commands.add_parser("plot", help="figures from files of results")
    add_files(parser)
    parser.add_argument("--out", type=Path, default=_FOLDER, metavar="FOLDER", help="default: %(default)s")
    return parser


def run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    draw = drawing(parser)
    try:
        documents = [(path, read_document(path)) for path in options.files]
        for path, document in documents:
            print(*draw(document, options.out, path.stem), sep="\n")
    except (OSError, ValueError) as error:
        parser.error(str(error))
    return 0
