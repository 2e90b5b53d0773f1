"""Commands that are run to their end or to a limit, side by side, and what became of them."""

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GRACE = 10  # seconds for pytest to say what has failed until its limit


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
    process = subprocess.Popen(
        stage.command,
        cwd=stage.folder,
        env={**os.environ, **stage.environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # so that the limit ends its children too: compilers, say
    )
    try:
        output, _ = process.communicate(timeout=stage.limit)
        verdict = "pass" if process.returncode == 0 else "FAIL"
    except subprocess.TimeoutExpired:
        output, verdict = stop(process), "TIME OUT"
    return Outcome(stage, verdict, time.monotonic() - started, output)


def stop(process: "subprocess.Popen[str]") -> str:
    """Ends the process and its children, and returns all it printed."""
    os.killpg(process.pid, signal.SIGINT)
    try:
        return process.communicate(timeout=GRACE)[0]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return process.communicate()[0]


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
