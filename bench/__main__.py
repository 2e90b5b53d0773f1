"""`python -m bench {step,kernels,scaling,train,blocks,plot,report}`; `--help` behind each says more."""

import sys
from collections.abc import Sequence

from bench.blocks import Blocks
from bench.kernels import Kernels
from bench.options import run_command
from bench.report import Plot, Report
from bench.scaling import Scaling
from bench.step import Step
from bench.train import Train


def main(arguments: Sequence[str] | None = None) -> int:
    commands = (Step, Kernels, Scaling, Train, Blocks, Plot, Report)
    return run_command(commands, arguments, "python -m bench", "Benchmarks of torchclip.")


if __name__ == "__main__":
    sys.exit(main())
