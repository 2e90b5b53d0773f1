"""`python -m bench kernels`: the norm pass, and the update pass of each rule, type and extension."""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial

from bench.bandwidth import BandwidthProbe
from bench.commands.options import add_device, add_json, add_threads, chosen_device, positive_seconds
from bench.environment import describe_environment
from bench.kernels.rows import DTYPES, NORM, kernel_algorithm, kernel_shapes, measure_norm
from bench.kernels.rules import AMPLITUDE, MODIFIERS, RULES, combine
from bench.kernels.text import LEGEND, format_kernel
from bench.measure import Settings
from bench.memory import free_cached_memory
from bench.revision import describe_commit
from bench.row_json import KEYS, row_as_json
from bench.rows import Hear, Planned, measure_rows
from bench.shapes import Shapes
from bench.step import Row, Tensors, measure_row
from bench.store import Entry, Header, Results
from bench.text import format_environment

_SECONDS = 0.3
_ROUNDS = {"min_rounds": 10, "max_rounds": 200}
_CPU_DTYPES = ("float32", "bfloat16")


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
            norm = partial(measure_norm, dtype_name, probe, settings, shapes=shapes)
            yield Planned((dtype_name, NORM), partial(_entry, norm))
        for rule in RULES:
            for modifier in MODIFIERS:
                chosen = rule.name in options.rules and modifier.name in options.modifiers
                if chosen and combine(rule, modifier, dtype):
                    algorithm = kernel_algorithm(rule, modifier, dtype, probe.device)
                    tensors = Tensors(shapes, dtype, AMPLITUDE)
                    update = partial(measure_row, dtype_name, algorithm, probe, settings, tensors=tensors)
                    yield Planned((dtype_name, algorithm.name), partial(_entry, update))


def _entry(measure: Callable[[Hear], Row], hear: Hear) -> tuple[Entry, Sequence[str]]:
    row = measure(hear)
    free_cached_memory()
    entry = {
        **row_as_json(row),
        "bytes_per_element": row.algorithm.bytes_per_element,
        "seconds_per_element": asdict(row.seconds("ours").scaled(1 / row.elements)),
    }
    return entry, row.failures


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
    return 1 if measure_rows(planned, results, format_kernel) else 0
