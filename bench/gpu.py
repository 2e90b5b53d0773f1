"""`make gpu`: everything that only a GPU can show, in one command of eight minutes.

Builds in place for this machine's GPU, runs the tests that need one, compute-sanitizer over small shapes, and the
benchmark. A stage that fails stops none of the others; each has a time limit; a table comes last. Needs Python with
torch for CUDA and setuptools, CUDA's nvcc, and, for the stages that use them, pytest and compute-sanitizer; no network
and no .venv.

    python -m bench.gpu --out FOLDER    # FOLDER/<name of the GPU>.json and .log
    python -m bench.gpu --only tests    # with what was built before
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
GRACE = 10  # seconds for pytest to say what has failed until its limit
TAIL_LINES = 30  # of a failed stage's output, beside the summary; the log has all of it

# Seconds for each part; the stages of one part run side by side. Together under 580.
BUILD_LIMIT, TEST_LIMIT, BENCHMARK_LIMIT = 180, 230, 149
ALONE = ("build", "backend", "benchmark")  # the stages that run one at a time
PARTS = ("build", "tests", "benchmark")
OLDEST_SETUPTOOLS = 77  # as pyproject.toml says
# Processes for the conformance tests and for tests/gpu. Triton's compile every variant of a kernel on the way.
SHARDS: Mapping[str, tuple[int, int]] = {"cuda": (8, 3), "triton": (5, 6)}

PROBE = """
import json, setuptools, torch
if not torch.cuda.is_available():
    raise SystemExit(f"torch {torch.__version__} sees no GPU (built for CUDA {torch.version.cuda})")
print(json.dumps({
    "gpu": torch.cuda.get_device_name(0),
    "capability": "".join(map(str, torch.cuda.get_device_capability(0))),
    "torch": torch.__version__,
    "cuda": torch.version.cuda,
    "setuptools": int(setuptools.__version__.split(".")[0]),
}))
"""

# The tests skip what cannot run, or run it on the emulator: here either would pass for a GPU's result.
BACKEND = """
import torchclip.info
from torchclip.backends import native
from torchclip.backends.choice import unavailable_reason
print(torchclip.info.report())
raise SystemExit(unavailable_reason("cuda") or (native.NATIVE.cuda_device != "cuda" and "built for the emulator") or 0)
"""


@dataclass(frozen=True)
class Stage:
    """One command, its time limit in seconds, and why it is not run where it cannot be."""

    name: str
    command: Sequence[str]
    limit: float
    environment: Mapping[str, str] = field(default_factory=dict)
    reason: str | None = None
    folder: Path = ROOT


@dataclass(frozen=True)
class Outcome:
    """What became of a stage."""

    stage: Stage
    verdict: str  # "pass", "FAIL", "TIME OUT" or "not run"
    seconds: float
    output: str

    @property
    def failed(self) -> bool:
        return self.verdict in ("FAIL", "TIME OUT")

    def line(self) -> str:
        """The row of the summary: the last line printed says most, with pytest and compute-sanitizer alike."""
        lines = [line for line in self.output.splitlines() if line.strip()]
        last = self.stage.reason or (lines[-1].strip()[:90] if lines else "")
        return f"{self.verdict:<9}{self.stage.name:<24}{self.seconds:6.1f} s  {last}"


def run(stage: Stage) -> Outcome:
    """Runs the stage to its end or to its limit."""
    if stage.reason is not None:
        return Outcome(stage, "not run", 0.0, stage.reason)
    started = time.monotonic()
    # In a group of its own, so that the limit ends its children too: compilers, say.
    limited = ["timeout", "--signal=INT", f"--kill-after={GRACE}", str(stage.limit), *stage.command]
    finished = subprocess.run(
        limited,
        cwd=stage.folder,
        env={**os.environ, **stage.environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    verdict = {0: "pass", 124: "TIME OUT", 137: "TIME OUT", -9: "TIME OUT"}.get(finished.returncode, "FAIL")
    return Outcome(stage, verdict, time.monotonic() - started, finished.stdout)


def run_all(groups: Sequence[Sequence[Stage]], log: Path) -> list[Outcome]:
    """Runs group after group, and writes what they print to the log as they end."""
    outcomes: list[Outcome] = []
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in the background, which the stages would inherit
        signal.signal(signal.SIGINT, signal.default_int_handler)
    with log.open("a") as text:
        for group in groups:
            with ThreadPoolExecutor(len(group)) as pool:
                for outcome in pool.map(run, group):
                    outcomes.append(outcome)
                    command = " ".join(outcome.stage.command)
                    text.write(f"===== {outcome.line()}\n$ {command}\n{outcome.output}\n")
                    text.flush()
                    print(outcome.line(), flush=True)
    return outcomes


def probe_machine() -> dict[str, Any]:
    """What the machine has; the end, with the remedy, where it has not what every stage needs."""
    finished = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=False)
    if finished.returncode != 0:
        reason = (finished.stderr.strip().splitlines() or ["it failed"])[-1]
        raise SystemExit(
            f"make gpu needs a Python with torch for CUDA, and a GPU that it can use; {sys.executable}: {reason}. "
            "Name another: make gpu PYTHON=/path/to/python"
        )
    found: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    return found


def find_sanitizer() -> str | None:
    """compute-sanitizer, which toolkits keep beside nvcc without a link in PATH."""
    nvcc = shutil.which("nvcc")
    homes = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)] + ["/usr/local/cuda"]
    folders = [str(Path(nvcc).resolve().parent)] if nvcc else []
    folders += [str(Path(home, part)) for home in homes for part in ("bin", "compute-sanitizer")]
    return shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path=os.pathsep.join(folders))


def build_stages(machine: Mapping[str, Any]) -> list[Stage]:
    """The extension, in place, and whether it runs here."""
    environment = {
        "TORCHCLIP_BUILD": "cuda",
        "TORCHCLIP_CUDA_ARCHS": os.environ.get("TORCHCLIP_CUDA_ARCHS") or machine["capability"],
        "MAX_JOBS": os.environ.get("MAX_JOBS") or str(len(os.sched_getaffinity(0))),
    }
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    folder = ROOT if machine["setuptools"] >= OLDEST_SETUPTOOLS else folder_without_metadata()
    return [
        Stage("build", command, BUILD_LIMIT, environment, folder=folder),
        Stage("backend", [sys.executable, "-c", BACKEND], 20),
    ]


def folder_without_metadata() -> Path:
    """Links to the sources without pyproject.toml, which an older setuptools fails to read; the network may be away."""
    folder = ROOT / "build" / "without_metadata"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("setup.py", "csrc", "torchclip"):
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(ROOT / name)
    return folder


def check_stages() -> list[Stage]:
    """pytest, in parts that take their time side by side, and compute-sanitizer."""
    tools = [("memcheck", "cuda"), ("racecheck", "cuda"), ("initcheck", "cuda"), ("memcheck", "triton")]
    tests = [stage for backend in SHARDS for stage in test_stages(backend)]
    return tests + [sanitizer_stage(*tool) for tool in tools]


def test_stages(backend: str) -> Iterator[Stage]:
    """The tests of a backend, in as many parts as SHARDS says."""
    environment = {"OMP_NUM_THREADS": "1", "TORCHCLIP_EMULATOR": "", "TORCHCLIP_GPU_BACKEND": backend}
    pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short", "-p", "bench.shard"]
    chosen = {
        "conformance": ["tests/kernels/test_conformance.py", "-k", backend],
        "GPU tests": ["tests/gpu", "-k", "not repeat_bitwise_in_every_dtype" if backend == "triton" else ""],
    }
    for (name, arguments), count in zip(chosen.items(), SHARDS[backend], strict=True):
        for index in range(count):
            title = f"{name}{', Triton' if backend == 'triton' else ''} {index + 1}/{count}"
            command = [*pytest, "--shard", f"{index}/{count}", *arguments]
            yield Stage(title, command, TEST_LIMIT, environment)


def sanitizer_stage(tool: str, backend: str) -> Stage:
    """One tool of compute-sanitizer over small shapes."""
    sanitizer = find_sanitizer()
    command = [sanitizer or "", f"--tool={tool}", "--error-exitcode=9", "--print-limit=20"]
    # torch asks the driver questions to which an error is the answer.
    command += ["--report-api-errors=no"]
    # Ours alone, which are in our namespace; Triton's are in none. And initcheck has to see what torch's kernels write,
    # or all of that is uninitialised to it.
    if tool != "initcheck" and backend == "cuda":
        command += ["--kernel-name=kns=torchclip"]
    command += [sys.executable, "tests/gpu/sanitize.py"]
    if tool == "initcheck":  # which takes three times as long as the others
        command += ["float32", "bfloat16"]
    # One allocation for each tensor, so that what lies beyond its end is nobody's.
    environment = {
        "PYTORCH_NO_CUDA_MEMORY_CACHING": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "support")]),
        "OMP_NUM_THREADS": "2",
        "TORCHCLIP_GPU_BACKEND": backend,
    }
    reason = None if sanitizer else "no compute-sanitizer: it comes with the CUDA toolkit"
    return Stage(tool if backend == "cuda" else f"{tool}, Triton", command, TEST_LIMIT, environment, reason)


def benchmark_stage(results: Path) -> Stage:
    """The benchmark, alone on the machine."""
    command = [sys.executable, "-m", "bench", "step", "--device", "cuda", "--seconds", "1.5", "--check-floors"]
    return Stage("benchmark", [*command, "--fresh", "--json", str(results)], BENCHMARK_LIMIT)


def summarise(outcomes: Sequence[Outcome], machine: Mapping[str, Any], log: Path, results: Path) -> str:
    """The ends of what failed, the benchmark's floors, and the table."""
    lines: list[str] = []
    for outcome in outcomes:
        name, tail = outcome.stage.name, outcome.output.splitlines()[-TAIL_LINES:]
        _, floors, reached = outcome.output.rpartition("\nFloors\n")
        if name == "benchmark" and floors:
            lines += ["----- floors", *reached.splitlines(), ""]
        elif name == "benchmark" or outcome.failed:
            lines += [f"----- {name}", *tail, ""]
    seconds = sum(outcome.seconds for outcome in outcomes if outcome.stage.name in ALONE)
    seconds += max((o.seconds for o in outcomes if o.stage.name not in ALONE), default=0)
    lines += [f"===== {machine['gpu']}, torch {machine['torch']} for CUDA {machine['cuda']}: {seconds:.0f} s in all"]
    lines += [outcome.line() for outcome in outcomes]
    lines += [f"log: {log}", f"results: {results if results.is_file() else 'none'}"]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description="What only a GPU can show.")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results", help="folder (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts (default: all)")
    options = parser.parse_args()
    out = options.out.resolve()
    machine = probe_machine()
    out.mkdir(parents=True, exist_ok=True)
    slug = re.sub(r"[^a-z0-9]+", "-", machine["gpu"].lower()).strip("-")
    log, results = out / f"{slug}.log", out / f"{slug}.json"
    build, backend = build_stages(machine)
    log.unlink(missing_ok=True)
    outcomes = run_all([[build], [backend]] if "build" in options.only else [[backend]], log)
    later = [check_stages()] if "tests" in options.only else []
    later += [[benchmark_stage(results)]] if "benchmark" in options.only else []
    if outcomes[-1].failed:
        later = [[replace(stage, reason="backend='cuda' does not run here") for stage in group] for group in later]
    outcomes += run_all(later, log)
    print("\n" + summarise(outcomes, machine, log, results), flush=True)
    return 1 if any(outcome.failed for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
