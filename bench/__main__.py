"""`python -m bench {step,kernels,scaling,train,plot,report}`; `--help` behind each says more."""

import argparse
import sys
from collections.abc import Sequence

from bench.commands import kernels, plot, report, scaling, step, train


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Benchmarks of torchclip.")
    commands = parser.add_subparsers(dest="command", required=True)
    runs = {
        "step": (step.run, step.add_parser(commands)),
        "kernels": (kernels.run, kernels.add_parser(commands)),
        "scaling": (scaling.run, scaling.add_parser(commands)),
        "train": (train.run, train.add_parser(commands)),
        "plot": (plot.run, plot.add_parser(commands)),
        "report": (report.run, report.add_parser(commands)),
    }
    options = parser.parse_args(arguments)
    run, own_parser = runs[options.command]
    return run(options, own_parser)


if __name__ == "__main__":
    sys.exit(main())
