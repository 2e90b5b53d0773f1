"""`make gpu`'s stages: what becomes of a command that ends, fails, or runs past its limit."""

from __future__ import annotations

import ast
import signal
import sys
from pathlib import Path

import pytest

from bench import gpu
from bench.gpu import Outcome, Stage, run_all

# pytest does the same with what has failed until then. The command is interrupted, and then its group, which it is in.
TELLS_WHEN_INTERRUPTED = """
import signal, time
told = []
def tell(*given):
    if not told:
        told.append(True)
        print("one test failed")
        raise SystemExit(1)
signal.signal(signal.SIGINT, tell)
print("started", flush=True)
time.sleep(60)
"""
NEVER_ENDS = """
import signal, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
print("deaf", flush=True)
time.sleep(60)
"""


def stage(code: str, limit: float = 30) -> Stage:
    return Stage("stage", [sys.executable, "-c", code], limit)


def run(tried: Stage, folder: Path) -> Outcome:
    return run_all([[tried]], folder / "log")[0]


def test_a_stage_passes_or_fails_by_its_exit_status(tmp_path: Path) -> None:
    passed, failed = (run(stage(code), tmp_path) for code in ("print('fine')", "print('bad'); raise SystemExit(3)"))
    assert (passed.verdict, passed.failed, passed.output) == ("pass", False, "fine\n")
    assert (failed.verdict, failed.failed, failed.output) == ("FAIL", True, "bad\n")
    assert failed.line().split() == ["FAIL", "stage", f"{failed.seconds:.1f}", "s", "bad"]


def test_a_stage_past_its_limit_says_what_it_knows(tmp_path: Path) -> None:
    """Where interruptions are ignored too, as nohup and a shell's & leave it."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        late = run(stage(TELLS_WHEN_INTERRUPTED, limit=2), tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)
    assert (late.verdict, late.output) == ("TIME OUT", "started\none test failed\n")


def test_a_stage_that_cannot_be_interrupted_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "GRACE", 0.5)
    late = run(stage(NEVER_ENDS, limit=2), tmp_path)
    assert (late.verdict, late.output) == ("TIME OUT", "deaf\n")
    assert late.seconds < 20


def test_stages_go_on_after_failures_and_are_summed_up(tmp_path: Path) -> None:
    build = Stage("build", [sys.executable, "-c", "print('compiling'); raise SystemExit(1)"], 30)
    absent = Stage("absent", ["nothing"], 30, reason="no compute-sanitizer")
    benchmark = Stage("benchmark", [sys.executable, "-c", "print('rows\\n\\nFloors\\npass  one\\nMISS  two')"], 30)
    outcomes = run_all([[build], [absent], [benchmark]], tmp_path / "log")
    assert [outcome.verdict for outcome in outcomes] == ["FAIL", "not run", "pass"]
    assert [outcome.failed for outcome in outcomes] == [True, False, False]
    machine = {"gpu": "GPU", "torch": "2.13", "cuda": "13.0"}
    text = gpu.summarise(outcomes, machine, tmp_path / "log", tmp_path / "rows.json")
    assert "MISS  two" in text and "rows\n" not in text
    assert "----- build\ncompiling\n" in text and text.endswith("results: none")
    assert "compiling" in (tmp_path / "log").read_text()


def test_the_time_limits_add_up_to_less_than_ten_minutes() -> None:
    machine = {"capability": "90", "setuptools": 80}
    limits = [stage.limit for stage in gpu.build_stages(machine)]
    limits += [max(stage.limit for stage in gpu.check_stages()), gpu.benchmark_stage(Path("results")).limit]
    assert sum(limits) < 600


def test_the_benchmark_imports_what_such_a_machine_has() -> None:
    """Neither scikit-learn nor the recipes that need it, and matplotlib for figures alone."""
    there = {*sys.stdlib_module_names, "bench", "tabulate", "torch", "torchclip", "tqdm", "recipes.models.images"}
    for path in sorted((gpu.ROOT / "bench").glob("*.py")):
        there_too = {"plots": {"matplotlib"}, "shard": {"pytest"}}.get(path.stem, set())
        for node in ast.parse(path.read_text()).body:
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert {name, name.partition(".")[0]} & (there | there_too), f"{path.name} imports {name}"
