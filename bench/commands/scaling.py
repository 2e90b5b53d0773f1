"""`python -m bench scaling`: time over parameters, tensors and threads; imports and first steps."""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import asdict

import torch

from bench.algorithm import OURS, Algorithm
from bench.bandwidth import BandwidthProbe
from bench.commands.options import add_device, add_json, chosen_device, positive_count, positive_seconds
from bench.environment import available_bytes, describe_environment
from bench.measure import Settings
from bench.memory import free_cached_memory
from bench.revision import describe_commit
from bench.row_json import row_as_json
from bench.rows import Hear, Planned, measure_rows
from bench.scaling.sizes import needed_bytes, scaling_algorithms, scaling_sets
from bench.scaling.startup import FORMS, format_startup, measure_startup
from bench.shapes import Shapes
from bench.step import Tensors, measure_row
from bench.store import Entry, Header, Results
from bench.text import format_environment

KEYS = ("set", "algorithm", "threads")
STARTUP = "startup"

_SECONDS = 1.0
_MIN_ROUNDS, _MAX_ROUNDS = 10, 500
_REPEATS = 5

LEGEND = """\
us           time of one step, clipping included, p50 (p20 to p80); on cuda until step() returns too
GB/s         by the words that a fused step must move; % triad measured in the same rounds
ours is      how many times as fast as each ours is, median of the ratios within rounds"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> argparse.ArgumentParser:
    parser = commands.add_parser("scaling", help="time over parameters, tensors and threads; imports and first steps")
    add_device(parser)
    names = [*scaling_sets(torch.device("cuda")), STARTUP]
    parser.add_argument("--sets", nargs="+", choices=names, metavar="SET",
                        help=f"of {', '.join(names)} (default: all; on the CPU without parameters-1e9)")  # fmt: skip
    parser.add_argument("--threads", nargs="+", type=positive_count, metavar="N",
                        help="numbers of threads (default: 1 and 2; on cuda 1)")  # fmt: skip
    parser.add_argument("--seconds", type=positive_seconds, default=_SECONDS,
                        help="time for one row (default: %(default)s); no row has fewer than "
                        f"{_MIN_ROUNDS} rounds")  # fmt: skip
    parser.add_argument("--repeats", type=positive_count, default=_REPEATS,
                        help="fresh processes for each first step (default: %(default)s)")  # fmt: skip
    add_json(parser)
    return parser


def _plan(
    options: argparse.Namespace, probe: BandwidthProbe, settings: Settings, threads: list[int]
) -> Iterator[Planned]:
    device = probe.device
    sets = scaling_sets(device)
    chosen = options.sets or [*sets, STARTUP]
    for name in chosen:
        for count in threads:
            if name == STARTUP:
                yield from (_startup(form, device, count, max(2, options.repeats)) for form in FORMS)
            elif name in sets:
                yield from (
                    _step(name, sets[name], algorithm, count, probe, settings)
                    for algorithm in scaling_algorithms(device)
                )


def _startup(form: str, device: torch.device, threads: int, repeats: int) -> Planned:
    def measure(hear: Hear) -> tuple[Entry, Sequence[str]]:
        return measure_startup(form, device, threads, repeats, hear), ()

    return Planned((STARTUP, form, threads), measure)


def _step(
    name: str, shapes: Shapes, algorithm: Algorithm, threads: int, probe: BandwidthProbe, settings: Settings
) -> Planned:
    def measure(hear: Hear) -> tuple[Entry, Sequence[str]]:
        free, need = available_bytes(probe.device), needed_bytes(algorithm, shapes)
        if free is not None and need > free:
            raise MemoryError(f"{name} needs {need / 1e9:.1f} GB of memory and {free / 1e9:.1f} GB are available")
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            row = measure_row(name, algorithm, probe, settings, hear, Tensors(shapes))
        finally:
            torch.set_num_threads(before)
            free_cached_memory()
        return {**row_as_json(row), "threads": threads}, row.failures

    return Planned((name, algorithm.name, threads), measure)


def _format(entry: Entry) -> str:
    if entry["set"] == STARTUP:
        return format_startup(entry)
    ours = entry["contenders"][OURS]
    time = {name: 1e6 * value for name, value in ours["seconds"].items()}
    others = ", ".join(
        f"{name} {each['speedup_of_ours']['p50']:.2f}" for name, each in entry["contenders"].items() if name != OURS
    )
    host = f", host {1e6 * ours['host_seconds']['p50']:.1f} us" if "host_seconds" in ours else ""
    return (
        f"{entry['set']:<15}{entry['algorithm']:<12}{entry['threads']} threads{time['p50']:>12,.1f} us "
        f"({time['p20']:,.1f} to {time['p80']:,.1f}){host}{ours['gigabytes_per_second']:>8.2f} GB/s"
        f"{100 * ours['share_of_triad']:>7.1f} % triad   ours is {others} x"
    )


def run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    settings = Settings(seconds=options.seconds, min_rounds=_MIN_ROUNDS, max_rounds=_MAX_ROUNDS)
    try:
        device = chosen_device(argparse.Namespace(device=options.device))
        threads = options.threads or ([1] if device.type == "cuda" else [1, 2])
        header = Header(
            "scaling", describe_environment(device), describe_commit(), {**asdict(settings), "repeats": options.repeats}
        )
        results = Results.open(header, options.json, KEYS, options.fresh)
    except ValueError as error:
        parser.error(str(error))
    planned = list(_plan(options, BandwidthProbe(device), settings, threads))
    print(format_environment(header.environment), LEGEND, "", sep="\n\n", flush=True)
    return 1 if measure_rows(planned, results, _format) else 0
