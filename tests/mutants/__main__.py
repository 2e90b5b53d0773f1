"""Plants faults one at a time, and says which of them the tests find.

    python tests/mutants                       all of them, which takes hours
    python tests/mutants NAME ...              those whose names begin so
    python tests/mutants --builds none         those that nothing is compiled for
    python tests/mutants --list                their names and what each does

What the table says is in docs/mutants.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue

from mutant_patches import BUILDS, Mutant, PatchError, all_mutants
from mutant_trees import ROOT, BuildError, EndedError, Outcome, Tree, wide

FOUND, NOT_FOUND, EQUIVALENT, NOT_APPLIED, NOT_COMPILED, UNUSABLE, ENDED = (
    "found",
    "NOT FOUND",
    "equivalent",
    "does not apply",
    "does not compile",
    "its tests fail without it",
    "was ended",
)


@dataclass(frozen=True)
class Result:
    """What came of one fault.

    Args:
        name: the mutant's.
        builds: what was compiled for it.
        verdict: one of those above.
        by: the first test that failed, or why there is none.
        seconds: of building and testing.
    """

    name: str
    builds: str
    verdict: str
    by: str = ""
    seconds: float = 0.0

    def line(self) -> str:
        return f"{self.name:<52} {self.builds:<9} {self.verdict:<10} {self.seconds:7.1f} s  {self.by}"


def main() -> int:
    arguments = _arguments()
    chosen = _chosen(all_mutants(), arguments.names, arguments.builds)
    if arguments.list:
        for mutant in chosen:
            print(f"{mutant.name:<52} {mutant.builds:<9} {mutant.fault}")
        return 0
    results = _unusable(chosen)
    bad = {result.name for result in results}
    for result in results:
        print(result.line(), flush=True)
    usable = [mutant for mutant in chosen if mutant.name not in bad and not mutant.equivalent]
    for mutant in chosen:
        if mutant.name not in bad and mutant.equivalent:
            results.append(Result(mutant.name, mutant.builds, EQUIVALENT, mutant.equivalent))
            print(results[-1].line(), flush=True)
    if usable:
        results += _tried(usable, arguments)
    _summary(results)
    if arguments.out is not None:
        arguments.out.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")
    return 0 if all(result.verdict in (FOUND, EQUIVALENT) for result in results) else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python tests/mutants", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="mutants, by their names or how these begin; all by default")
    parser.add_argument("--list", action="store_true", help="say which there are, and try none")
    parser.add_argument("--builds", choices=BUILDS, help="those alone for which this is compiled")
    parser.add_argument("--jobs", type=int, default=1, help="copies of the tree to work in at a time")
    parser.add_argument("--compilers", type=int, default=os.cpu_count() or 1, help="compilers at a time in each copy")
    parser.add_argument("--wide", action="store_true", help="try what its own tests do not find on many more")
    parser.add_argument("--limit", type=float, default=1800, help="seconds after which tests are taken to hang")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "mutants", help="where the copies are kept")
    parser.add_argument("--out", type=Path, help="a file for the results, as JSON")
    return parser.parse_args()


def _chosen(mutants: Sequence[Mutant], names: Sequence[str], builds: str | None) -> list[Mutant]:
    for name in names:
        if not any(mutant.name.startswith(name) for mutant in mutants):
            raise SystemExit(f"no mutant is called {name}: see --list")
    return [
        mutant
        for mutant in mutants
        if (not names or mutant.name.startswith(tuple(names))) and builds in (None, mutant.builds)
    ]


def _unusable(mutants: Iterable[Mutant]) -> list[Result]:
    """Those that the working tree has left behind."""
    results = []
    for mutant in mutants:
        try:
            mutant.applied(ROOT)
        except PatchError as error:
            results.append(Result(mutant.name, mutant.builds, NOT_APPLIED, str(error)))
    return results


def _tried(mutants: Sequence[Mutant], arguments: argparse.Namespace) -> list[Result]:
    trees: SimpleQueue[Tree] = SimpleQueue()
    needed = {mutant.builds for mutant in mutants}
    for number in range(min(arguments.jobs, len(mutants))):
        tree = Tree(arguments.folder.resolve() / str(number), arguments.compilers, arguments.limit)
        tree.synchronise()
        tree.prepare(needed)
        trees.put(tree)

    def on_a_tree(body: object, argument: object) -> object:
        tree = trees.get()
        try:
            return body(tree, argument)
        finally:
            trees.put(tree)

    with ThreadPoolExecutor(arguments.jobs) as pool:
        selections = list(dict.fromkeys(mutant.tests for mutant in mutants))
        print(f"{len(selections)} selections of tests, without any fault", flush=True)
        passes = dict(zip(selections, pool.map(lambda tests: on_a_tree(_clean, tests), selections)))
        for _ in range(trees.qsize()):
            tree = trees.get()
            tree.keep()
            trees.put(tree)
        print(f"{len(mutants)} faults", flush=True)

        def attempt(mutant: Mutant) -> Result:
            if passes[mutant.tests]:
                return Result(mutant.name, mutant.builds, UNUSABLE, passes[mutant.tests])
            return on_a_tree(lambda tree, fault: _attempt(tree, fault, arguments.wide), mutant)

        results = []
        for result in pool.map(attempt, mutants):
            print(result.line(), flush=True)
            results.append(result)
    return results


def _clean(tree: Tree, tests: tuple[str, ...]) -> str:
    """What is wrong with a selection of tests by itself; empty for nothing."""
    try:
        outcome = tree.test(tests)
    except EndedError as error:
        outcome = Outcome(False, str(error))
    print(f"  {shlex.join(tests)}  {outcome.first}", flush=True)
    return "" if outcome.passed and not outcome.first else f"{shlex.join(tests)}: {outcome.first}"


def _attempt(tree: Tree, mutant: Mutant, widens: bool) -> Result:
    begin = time.monotonic()

    def result(verdict: str, by: str = "") -> Result:
        return Result(mutant.name, mutant.builds, verdict, by, round(time.monotonic() - begin, 1))

    with tree.planted(mutant):
        try:
            tree.build(mutant.builds)
        except BuildError as error:
            return result(NOT_COMPILED, str(error).strip().splitlines()[-1])
        try:
            outcome = tree.test(mutant.tests)
            if outcome.passed and widens:
                outcome = tree.test(wide(mutant))
        except EndedError as error:
            return result(ENDED, str(error))
        return result(NOT_FOUND, mutant.fault) if outcome.passed else result(FOUND, outcome.first)


def _summary(results: Sequence[Result]) -> None:
    print()
    for verdict in (FOUND, NOT_FOUND, EQUIVALENT, NOT_APPLIED, NOT_COMPILED, UNUSABLE, ENDED):
        names = [result.name for result in results if result.verdict == verdict]
        if names or verdict in (FOUND, NOT_FOUND):
            listed = "" if verdict in (FOUND, EQUIVALENT) else ": " + ", ".join(names) if names else ""
            print(f"{len(names):4} {verdict}{listed}")


if __name__ == "__main__":
    sys.exit(main())
