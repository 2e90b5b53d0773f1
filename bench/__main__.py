"""`python -m bench step`: optimizer steps of ours beside torch's and the papers' authors', measured in one run.

Examples:
    python -m bench step                                        # every row of every set: half an hour
    python -m bench step --sets large --algorithms clip_sgd mixclip
    python -m bench step --sets host small medium large --check-floors --json results/step.json
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from bench.bandwidth import BandwidthProbe
from bench.cases import ALGORITHMS
from bench.environment import available_bytes, describe_environment
from bench.floors import check_floors
from bench.measure import Settings
from bench.report import LEGEND, format_environment, format_row, write_json
from bench.shapes import SHAPE_SETS
from bench.step import Row, measure_row, required_bytes


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a positive number of seconds, got {text}")
    return value


def _threads(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected at least one thread, got {text}")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Benchmarks of torchclip.")
    commands = parser.add_subparsers(dest="command", required=True)
    step = commands.add_parser("step", help="whole optimizer steps over named sets of parameter shapes")
    step.add_argument("--sets", nargs="+", choices=list(SHAPE_SETS), default=list(SHAPE_SETS), metavar="SET",
                      help=f"sets of shapes, of {', '.join(SHAPE_SETS)} (default: all)")  # fmt: skip
    step.add_argument("--algorithms", nargs="+", choices=list(ALGORITHMS), default=list(ALGORITHMS), metavar="NAME",
                      help=f"of {', '.join(ALGORITHMS)} (default: all)")  # fmt: skip
    step.add_argument("--seconds", type=_seconds, default=Settings.seconds,
                      help="time for one row (default: %(default)s); no row has fewer than "
                      f"{Settings.min_rounds} rounds")  # fmt: skip
    step.add_argument("--threads", type=_threads, help="threads for torch and ours (default: torch's own choice)")
    step.add_argument("--cold", action="store_true",
                      help="sets that fit into the cache start each timed step outside it")  # fmt: skip
    step.add_argument("--json", type=Path, metavar="PATH", help="write versions, settings, statistics and raw samples")
    step.add_argument("--check-floors", action="store_true",
                      help="compare with the speeds that must be reached; exit with 1 when one is missed")  # fmt: skip
    return parser


def _memory_shortfall(plan: Sequence[tuple[str, str]]) -> str | None:
    """The reason why the planned rows do not fit into memory, or None when they do."""
    free = available_bytes()
    need, name, algorithm = max(
        (required_bytes(ALGORITHMS[algorithm], name), name, algorithm) for name, algorithm in plan
    )
    if free is None or need <= free:
        return None
    return (
        f"--sets {name} --algorithms {algorithm} needs {need / 1e9:.1f} GB of memory and {free / 1e9:.1f} GB are "
        "available: leave that set out or free some memory"
    )


def _run(plan: Sequence[tuple[str, str]], settings: Settings, json_path: Path | None) -> list[Row]:
    environment = describe_environment()
    print(format_environment(environment), LEGEND, sep="\n\n", flush=True)
    probe = BandwidthProbe()
    rows: list[Row] = []
    bar_format = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
    # disable=None: no bar where the output is no terminal, such as a log.
    with tqdm(total=len(plan), bar_format=bar_format, dynamic_ncols=True, disable=None) as bar:
        for done, (set_name, algorithm) in enumerate(plan):
            bar.set_description(f"{set_name}: {algorithm}")

            def show(fraction: float, done: int = done) -> None:
                bar.update(done + fraction - bar.n)

            rows.append(measure_row(set_name, ALGORITHMS[algorithm], probe, settings, show))
            tqdm.write("\n" + format_row(rows[-1]))
            # After every row, so that an interrupted run keeps what it has measured.
            if json_path is not None:
                write_json(json_path, environment, settings, rows)
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    plan = [(set_name, algorithm) for set_name in options.sets for algorithm in options.algorithms]
    shortfall = _memory_shortfall(plan)
    if shortfall is not None:
        parser.error(shortfall)
    rows = _run(plan, Settings(seconds=options.seconds, cold=options.cold), options.json)
    wrong = [row for row in rows if row.failures]
    if wrong:
        print(f"\n{len(wrong)} of {len(rows)} rows ended with different parameters: see WRONG RESULT above.")
    reached = True
    if options.check_floors:
        lines, reached = check_floors(rows)
        print("\nFloors", *lines, sep="\n")
    return 1 if wrong or not reached else 0


if __name__ == "__main__":
    sys.exit(main())
