"""`python -m bench {step,kernels,scaling,train,report}`; `--help` behind each says more."""

import sys
from collections.abc import Sequence

from bench.kernels import Kernels
from bench.options import run_command
from bench.report import Report
from bench.step import Scaling, Step
from bench.train import Train


def main(arguments: Sequence[str] | None = None) -> int:
    return run_command((Step, Kernels, Scaling, Train, Report), arguments)


if __name__ == "__main__":
    sys.exit(main())
