"""`python -m bench step`: optimizer steps of ours beside torch's and the papers' authors', measured in one run."""

import argparse
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from bench.against import compare, names_of
from bench.algorithm import Algorithm
from bench.bandwidth import BandwidthProbe
from bench.beside import KINDS, absent_peers, check_kinds, with_contenders
from bench.cases import ALGORITHMS
from bench.commands.options import add_device, add_json, add_threads, chosen_device, positive_seconds
from bench.cuda_cases import CUDA_ALGORITHMS
from bench.environment import available_bytes, describe_environment
from bench.floors import CUDA_FLOORS, FLOORS, check_floors
from bench.measure import Settings
from bench.memory import free_cached_memory
from bench.progress import Progress
from bench.revision import describe_commit
from bench.row_json import KEYS, row_as_json, row_from_json
from bench.shapes import CPU_SETS, CUDA_SETS, SHAPE_SETS
from bench.step import Row, measure_row, required_bytes
from bench.store import Header, Results, read_document
from bench.text import CUDA_LEGEND, LEGEND, format_environment, format_row
from bench.triton_cases import TRITON_ALGORITHMS

EXAMPLES = """\
examples:
  python -m bench step                                        # every row of every set: half an hour
  python -m bench step --sets large --algorithms clip_sgd mixclip
  python -m bench step --sets host small medium large --check-floors --json results/step.json
  python -m bench step --against bench/results/cpu-baseline.json   # the rows and the seconds of that file
  python -m bench step --device cuda --check-floors           # a minute or two
"""

# Times on a GPU that nobody else uses hardly vary, and the authors' loops take a fifth of a second for 2,000 tensors;
# the check repeats every step of the reference.
_CUDA_ROUNDS = {"min_rounds": 10, "max_rounds": 200}

Plan = Sequence[tuple[str, Algorithm]]


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> argparse.ArgumentParser:
    parser = commands.add_parser(
        "step",
        help="whole optimizer steps over named sets of parameter shapes",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_device(parser)
    parser.add_argument("--sets", nargs="+", choices=list(SHAPE_SETS), metavar="SET",
                        help=f"sets of shapes, of {', '.join(SHAPE_SETS)} (default: {', '.join(CPU_SETS)}; "
                        f"on cuda {', '.join(CUDA_SETS)})")  # fmt: skip
    names = dict.fromkeys([*ALGORITHMS, *CUDA_ALGORITHMS])
    parser.add_argument("--algorithms", nargs="+", choices=list(names), metavar="NAME",
                        help=f"of {', '.join(ALGORITHMS)}; on cuda of {', '.join(CUDA_ALGORITHMS)} "
                        "(default: all)")  # fmt: skip
    parser.add_argument("--seconds", type=positive_seconds,
                        help=f"time for one row (default: {Settings.seconds}); no row has fewer than "
                        f"{Settings.min_rounds} rounds, on cuda {_CUDA_ROUNDS['min_rounds']}")  # fmt: skip
    add_threads(parser)
    parser.add_argument("--cold", action="store_true",
                        help="sets that fit into the cache start each timed step outside it")  # fmt: skip
    parser.add_argument("--beside", nargs="+", choices=KINDS, default=[], metavar="KIND",
                        help=f"more competitors, of {', '.join(KINDS)}: torch's foreach form compiled, steps replayed "
                        "from CUDA graphs, other libraries that are installed")  # fmt: skip
    add_json(parser)
    parser.add_argument("--check-floors", action="store_true",
                        help="exit with 1 when a speed that must be reached is missed")  # fmt: skip
    parser.add_argument("--against", type=Path, metavar="PATH",
                        help="exit with 1 when ours, beside torch's fastest form, fell by more than 10 %% since "
                        "that run; without --sets and --algorithms its rows are measured, for its time")  # fmt: skip
    return parser


def _plan(options: argparse.Namespace, algorithms: Mapping[str, Algorithm], baseline: Mapping[str, Any] | None) -> Plan:
    """The rows asked for; ValueError when there is one that this device does not have."""
    if baseline is not None and not options.sets and not options.algorithms:
        here = [(name, algorithms[other]) for name, other in names_of(baseline["rows"]) if other in algorithms]
        if not here:
            raise ValueError(f"{options.against} has no row that --device {options.device} has")
        return here
    unknown = sorted(set(options.algorithms or ()) - set(algorithms))
    if unknown:
        raise ValueError(
            f"--device {options.device} has no row {', '.join(unknown)}: choose of {', '.join(algorithms)}"
        )
    sets = options.sets or (CUDA_SETS if options.device == "cuda" else CPU_SETS)
    return [
        (name, algorithms[algorithm])
        for name in sets
        for algorithm in options.algorithms or algorithms
        # Where nobody asks for more, backends are compared on the largest set alone.
        if options.algorithms or name == CUDA_SETS[0] or algorithm not in TRITON_ALGORITHMS
    ]


def _fitting(plan: Plan, device: torch.device, may_leave_out: bool) -> Plan:
    """The rows that fit into memory; ValueError when one does not and was asked for by name."""
    free = available_bytes(device)
    fitting = [row for row in plan if free is None or required_bytes(row[1], row[0]) <= free]
    for name, algorithm in plan:
        if (name, algorithm) in fitting:
            continue
        need = required_bytes(algorithm, name)
        shortfall = f"--sets {name} --algorithms {algorithm.name} needs {need / 1e9:.1f} GB of memory and "
        shortfall += f"{(free or 0) / 1e9:.1f} GB are available"
        if not may_leave_out:
            raise ValueError(f"{shortfall}: leave that set out or free some memory")
        print(f"Left out: {shortfall}.")
    return fitting


def _run(plan: Plan, settings: Settings, probe: BandwidthProbe, results: Results) -> list[Row]:
    """The rows of the plan that could be measured, now or before; the others say why."""
    legend = CUDA_LEGEND if probe.device.type == "cuda" else LEGEND
    print(format_environment(results.header.environment), legend, sep="\n\n", flush=True)
    rows: list[Row] = []
    with Progress(len(plan)) as progress:
        for done, (set_name, algorithm) in enumerate(plan):
            progress.describe(f"{set_name}: {algorithm.name}")

            def show(fraction: float, done: int = done) -> None:
                progress.reach(done + fraction)

            before = results.find(set_name, algorithm.name)
            if before is not None:
                rows.append(row_from_json(before, algorithm))
                progress.write("\n" + format_row(rows[-1]) + "\n  measured before")
                continue
            try:
                rows.append(measure_row(set_name, algorithm, probe, settings, show))
            except RuntimeError:
                # What has been measured, and what comes after, is worth having all the same.
                progress.write(f"\n{set_name}: {algorithm.title} FAILED\n{traceback.format_exc()}")
                continue
            finally:
                free_cached_memory()
            progress.write("\n" + format_row(rows[-1]))
            if rows[-1].failures:
                results.add_wrong((set_name, algorithm.name), rows[-1].failures)
            else:
                results.add(row_as_json(rows[-1]))
    return rows


def _settings(options: argparse.Namespace, baseline: Mapping[str, Any] | None) -> Settings:
    seconds = options.seconds or (baseline["settings"]["seconds"] if baseline else Settings.seconds)
    return Settings(seconds=seconds, cold=options.cold, **(_CUDA_ROUNDS if options.device == "cuda" else {}))


def run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    on_cuda = options.device == "cuda"
    try:
        baseline = None if options.against is None else read_document(options.against, "step")
        settings = _settings(options, baseline)
        plan = _plan(options, CUDA_ALGORITHMS if on_cuda else ALGORITHMS, baseline)
        device = chosen_device(options)
        check_kinds(options.beside, device)
        plan = [
            (name, with_contenders(algorithm, options.beside, len(SHAPE_SETS[name]()), device))
            for name, algorithm in plan
        ]
        beside = {"beside": sorted(options.beside)}
        header = Header("step", describe_environment(device), describe_commit(), {**asdict(settings), **beside})
        results = Results.open(header, options.json, KEYS, options.fresh)
        probe = BandwidthProbe(device)
        plan = _fitting(plan, device, may_leave_out=on_cuda and options.sets is None)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    for line in absent_peers(options.beside, device):
        print(line)
    rows = _run(plan, settings, probe, results)
    wrong = [row for row in rows if row.failures]
    if wrong:
        print(f"\n{len(wrong)} of {len(rows)} rows ended with different parameters: see WRONG RESULT above.")
    reached = kept = True
    if options.check_floors:
        lines, reached = check_floors(rows, CUDA_FLOORS if on_cuda else FLOORS)
        print("\nFloors", *lines, sep="\n")
    if baseline is not None:
        lines, kept = compare(baseline["rows"], [row_as_json(row) for row in rows if not row.failures])
        then = baseline["environment"]
        print(f"\nAgainst {options.against}: {then['gpu'] or then['cpu']}, {then['threads']} threads,",
              f"torch {then['torch']}, commit {baseline['commit'][:12]}")  # fmt: skip
        print(*lines, sep="\n")
    return 1 if wrong or len(rows) < len(plan) or not reached or not kept else 0
