"""`python -m bench kernels`: the norm pass, and the update pass of each rule, type and extension."""

import argparse
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from bench.bandwidth import BandwidthProbe
from bench.commands.options import add_device, add_json, add_threads, chosen_device, positive_seconds
from bench.environment import describe_environment
from bench.kernels.rows import DTYPES, NORM, kernel_algorithm, kernel_shapes, measure_norm
from bench.kernels.rules import AMPLITUDE, MODIFIERS, RULES, combine
from bench.kernels.text import LEGEND, format_kernel
from bench.measure import Settings
from bench.memory import free_cached_memory
from bench.progress import Progress
from bench.revision import describe_commit
from bench.row_json import KEYS, row_as_json, wrong_as_json
from bench.shapes import Shapes
from bench.step import Row, Tensors, measure_row
from bench.store import Header, Results
from bench.text import format_environment

_SECONDS = 0.3
_ROUNDS = {"min_rounds": 10, "max_rounds": 200}
_CPU_DTYPES = ("float32", "bfloat16")

Measure = Callable[[Callable[[float], None]], Row]


@dataclass(frozen=True)
class Planned:
    """A row to come."""

    dtype: str
    name: str
    measure: Measure


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> argparse.ArgumentParser:
    parser = commands.add_parser("kernels", help="the norm pass, and the update pass of each rule, type and extension")
    add_device(parser)
    rules, modifiers = [NORM, *(rule.name for rule in RULES)], [modifier.name for modifier in MODIFIERS]
    parser.add_argument("--rules", nargs="+", choices=rules, default=rules, metavar="RULE",
                        help=f"of {', '.join(rules)} (default: all)")  # fmt: skip
    parser.add_argument("--modifiers", nargs="+", choices=modifiers, default=modifiers, metavar="NAME",
                        help=f"what is added to a rule, of {', '.join(modifiers)} (default: each)")  # fmt: skip
    parser.add_argument("--dtypes", nargs="+", choices=list(DTYPES), metavar="TYPE",
                        help=f"of {', '.join(DTYPES)} (default: {' '.join(_CPU_DTYPES)}, on cuda all)")  # fmt: skip
    parser.add_argument("--seconds", type=positive_seconds, default=_SECONDS,
                        help="time for one row (default: %(default)s); no row has fewer than "
                        f"{_ROUNDS['min_rounds']} rounds")  # fmt: skip
    add_threads(parser)
    add_json(parser)
    return parser


def _plan(options: argparse.Namespace, probe: BandwidthProbe, settings: Settings, shapes: Shapes) -> Iterator[Planned]:
    for dtype_name in options.dtypes or (DTYPES if options.device == "cuda" else _CPU_DTYPES):
        dtype = DTYPES[dtype_name]
        if NORM in options.rules:
            yield Planned(dtype_name, NORM, partial(_norm, dtype_name, probe, settings, shapes))
        for rule in RULES:
            for modifier in MODIFIERS:
                chosen = rule.name in options.rules and modifier.name in options.modifiers
                if chosen and combine(rule, modifier, dtype):
                    algorithm = kernel_algorithm(rule, modifier, dtype, probe.device)
                    tensors = Tensors(shapes, dtype, AMPLITUDE)
                    measure = partial(measure_row, dtype_name, algorithm, probe, settings, tensors=tensors)
                    yield Planned(dtype_name, algorithm.name, measure)


def _norm(
    dtype_name: str, probe: BandwidthProbe, settings: Settings, shapes: Shapes, on_round: Callable[[float], None]
) -> Row:
    return measure_norm(dtype_name, probe, settings, on_round, shapes)


def _measure(planned: Planned, results: Results, progress: Progress, done: int) -> Mapping[str, Any] | None:
    """The row's entry, from the file where it is there already; None when its results were wrong."""
    before = results.find(planned.dtype, planned.name)
    if before is not None:
        return before
    progress.describe(f"{planned.dtype}: {planned.name}")
    row = planned.measure(lambda fraction: progress.reach(done + fraction))
    free_cached_memory()
    if row.failures:
        for failure in row.failures:
            progress.write(f"{planned.dtype} {planned.name}  WRONG RESULT: {failure}")
        results.add_wrong(wrong_as_json(row))
        return None
    entry = {
        **row_as_json(row),
        "bytes_per_element": row.algorithm.bytes_per_element,
        "seconds_per_element": asdict(row.seconds("ours").scaled(1 / row.elements)),
    }
    results.add(entry)
    return entry


def run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    settings = Settings(seconds=options.seconds, cold=True, **_ROUNDS)
    try:
        device = chosen_device(options)
        shapes = kernel_shapes(device)
        header = Header(
            "kernels", describe_environment(device), describe_commit(), {**asdict(settings), "shapes": shapes}
        )
        results = Results.open(header, options.json, KEYS, options.fresh)
    except ValueError as error:
        parser.error(str(error))
    planned = list(_plan(options, BandwidthProbe(device), settings, shapes))
    print(format_environment(header.environment), LEGEND, sep="\n\n", flush=True)
    failed = 0
    with Progress(len(planned)) as progress:
        for done, each in enumerate(planned):
            try:
                entry = _measure(each, results, progress, done)
            except RuntimeError:  # what comes after is worth having all the same
                progress.write(f"{each.dtype} {each.name} FAILED\n{traceback.format_exc()}")
                failed += 1
                continue
            if entry is not None:
                progress.write(format_kernel(entry))
    if results.wrong:
        print(f"\n{len(results.wrong)} of {len(planned)} rows ended with wrong results: see above.")
    return 1 if results.wrong or failed else 0
