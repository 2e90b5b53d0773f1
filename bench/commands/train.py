"""`python -m bench train`: steps per second of real models, and the curves of gRDA and AdaLoss on digits."""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import torch

from bench.algorithm import OURS
from bench.commands.options import (
    add_device,
    add_json,
    add_threads,
    chosen_device,
    positive_count,
    positive_seconds,
)
from bench.environment import describe_environment
from bench.measure import Percentiles, Settings
from bench.revision import describe_commit
from bench.row_json import KEYS
from bench.rows import Hear, Planned, measure_rows
from bench.store import Entry, Header, Results
from bench.text import format_environment
from bench.train.curves import ADALOSS, GRDA, measure_point, points
from bench.train.models import TASKS
from bench.train.speed import OPTIMIZERS, TORCH, measure_speed
from recipes.digits import Digits

SPEED = "speed"
PARTS = (SPEED, GRDA, ADALOSS)
_SECONDS = 2.0
_MIN_ROUNDS = 10

LEGEND = """\
steps/s      whole training steps, forward and backward pass included, median; each on a model of its own, in turns
ours is      how many times as fast as torch's ours is: median (p20 to p80) of the ratios within each round
accuracy     on the test images of scikit-learn's digits, percentiles over the seeds"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> argparse.ArgumentParser:
    parser = commands.add_parser("train", help="steps per second of real models; the curves of gRDA and AdaLoss")
    add_device(parser)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, metavar="PART",
                        help=f"of {', '.join(PARTS)} (default: all)")  # fmt: skip
    parser.add_argument("--models", nargs="+", choices=list(TASKS), default=list(TASKS), metavar="MODEL",
                        help=f"of {', '.join(TASKS)} (default: all)")  # fmt: skip
    parser.add_argument("--optimizers", nargs="+", choices=list(OPTIMIZERS), default=list(OPTIMIZERS), metavar="NAME",
                        help=f"of {', '.join(OPTIMIZERS)} (default: all)")  # fmt: skip
    parser.add_argument("--seconds", type=positive_seconds, default=_SECONDS,
                        help="time for one optimizer on one model (default: %(default)s); "
                        f"{_MIN_ROUNDS} rounds at least")  # fmt: skip
    parser.add_argument("--epochs", type=positive_count, default=20, help="of the curves (default: %(default)s)")
    parser.add_argument("--seeds", type=positive_count, default=5, help="of the curves (default: %(default)s)")
    add_threads(parser)
    add_json(parser)
    return parser


def _plan(options: argparse.Namespace, device: torch.device, settings: Settings) -> Iterator[Planned]:
    if SPEED in options.parts:
        for model in options.models:
            for name in options.optimizers:
                measure = partial(measure_speed, TASKS[model], OPTIMIZERS[name], device, settings)
                yield Planned((model, name), measure)
    found = points(options.parts)
    digits = Digits.load() if found else None
    for point in found:
        assert digits is not None
        yield Planned((point.curve, point.name), partial(_point, digits, point, options))


def _point(digits: Digits, point: Any, options: argparse.Namespace, hear: Hear) -> tuple[Entry, Sequence[str]]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # enough for so small a model, and the same result whatever the number of cores
    try:
        return measure_point(digits, point, options.epochs, options.seeds, hear)
    finally:
        torch.set_num_threads(before)


def _format(entry: Entry) -> str:
    head = f"{entry['set']:<13}{entry['algorithm']:<34}"
    if "runs" in entry:
        accuracy = Percentiles.of([100 * run["accuracy"] for run in entry["runs"]])
        sparsity = Percentiles.of([100 * run["sparsity"] for run in entry["runs"]])
        line = f"{head}accuracy {accuracy.p50:5.1f} % ({accuracy.p20:.1f} to {accuracy.p80:.1f})"
        return f"{line}, exact zeros {sparsity.p50:5.1f} %"
    ours, torchs = entry["contenders"][OURS], entry["contenders"][TORCH]
    ratio = torchs["speedup_of_ours"]
    return (
        f"{head}{ours['steps_per_second']:8.1f} steps/s, torch {torchs['steps_per_second']:8.1f}   ours is "
        f"{ratio['p50']:.2f} x ({ratio['p20']:.2f} to {ratio['p80']:.2f})   beside {entry['beside']}"
    )


def run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    settings = Settings(seconds=options.seconds, min_rounds=_MIN_ROUNDS)
    try:
        if options.seeds < 2:
            raise ValueError("--seeds 1 has no spread: give two or more")
        device = chosen_device(options)
        own = {"epochs": options.epochs, "seeds": options.seeds}
        header = Header("train", describe_environment(device), describe_commit(), {**asdict(settings), **own})
        results = Results.open(header, options.json, KEYS, options.fresh)
    except ValueError as error:
        parser.error(str(error))
    print(format_environment(header.environment), LEGEND, "", sep="\n\n", flush=True)
    planned = list(_plan(options, device, settings))
    return 1 if measure_rows(planned, results, _format) else 0
