"""A copy of the repository in which faults are planted, built and tested, one at a time."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from mutant_patches import Mutant

ROOT = Path(__file__).resolve().parent.parent.parent
BUILT = ("build", "torchclip")
"""Folders in which builds write."""
EMULATED = "import emulated; emulated.built('plain')"
FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+(?: \S+?\])?)", re.MULTILINE)
WIDE = ("tests/kernels", "tests/contract", "tests/unit", "tests/checkpoints")


ENDED = {-signal.SIGHUP, -signal.SIGINT, -signal.SIGKILL, -signal.SIGTERM}
"""Of a process that somebody ended, or the system for want of memory: that says nothing of a fault."""


class BuildError(Exception):
    """The compiler's words."""


class EndedError(Exception):
    """A run of tests did not come to its end."""


@dataclass(frozen=True)
class Outcome:
    """Of one run of tests.

    Args:
        passed: all that ran passed, and some ran.
        first: what failed first, or what else came of it.
    """

    passed: bool
    first: str = ""


@dataclass
class Tree:
    """One copy, in a folder that the next run finds again, so that only what has changed is compiled.

    Args:
        root: the folder.
        jobs: compilers at a time.
        limit: seconds that a run of tests may take.
    """

    root: Path
    jobs: int = 1
    limit: float = 1800
    kept: dict[Path, tuple[int, int]] = field(default_factory=dict)

    def synchronise(self) -> None:
        """Makes it what the working tree is, without touching files that are the same already."""
        names = sources()
        known = self.root / "build" / "sources.txt"
        for name in known.read_text().splitlines() if known.is_file() else ():
            if name not in names:
                (self.root / name).unlink(missing_ok=True)
        for name in names:
            _copy(ROOT / name, self.root / name)
        known.parent.mkdir(parents=True, exist_ok=True)
        known.write_text("\n".join(names) + "\n")

    def prepare(self, builds: set[str]) -> None:
        """Builds what faults are to be compiled into; what is built already is taken over for all others."""
        if "cpu" in builds:
            self.build("cpu")
        for library in () if "cpu" in builds else sorted((ROOT / "torchclip").glob("_*.so")):
            _copy(library, self.root / "torchclip" / library.name)
        if "emulated" in builds:
            self.build("emulated")

    def build(self, kind: str) -> None:
        """Compiles what has changed.

        Raises:
            BuildError: when a compiler fails.
        """
        if kind == "none":
            return
        commands = {"cpu": ["setup.py", "-q", "build_ext", "--inplace"], "emulated": ["-c", EMULATED]}
        finished = self._python(*commands[kind], limit=None)
        if finished.returncode != 0:
            printed = (finished.stdout + finished.stderr).strip()
            raise BuildError(printed[-4000:] or f"the build of {kind} ended with status {finished.returncode}")

    def test(self, arguments: tuple[str, ...]) -> Outcome:
        """Runs pytest until something fails, on what ``make test`` runs of these tests.

        Raises:
            EndedError: when somebody ends it.
        """
        options = ("-m", "pytest", "-x", "-q", "-n", "0", "-m", "not thorough", "-p", "no:cacheprovider", "--no-header")
        try:
            finished = self._python(*options, *arguments, limit=self.limit)
        except subprocess.TimeoutExpired:
            return Outcome(False, f"no end after {self.limit:.0f} s")
        if finished.returncode == 0:
            return Outcome(True)
        if finished.returncode in ENDED:
            raise EndedError(f"pytest was ended by signal {-finished.returncode}: try again")
        failed = FAILED.search(finished.stdout)
        if failed is not None:
            return Outcome(False, failed[1].removesuffix(" -"))
        if finished.returncode == 5:
            return Outcome(True, "no test was selected")
        if finished.returncode < 0:
            return Outcome(False, f"killed by signal {-finished.returncode}")
        last = (finished.stdout + finished.stderr).strip().splitlines()[-1:]
        return Outcome(False, " ".join(["pytest fails:", *last]))

    def keep(self) -> None:
        """Puts aside what is built, for :meth:`planted` to bring back."""
        store = self._store()
        self.kept = {path: _stamp(path) for path in self._built()}
        for path in self.kept:
            target = store / path.relative_to(self.root)
            if not target.is_file() or _stamp(target) != self.kept[path]:
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, target)

    @contextmanager
    def planted(self, mutant: Mutant) -> Iterator[None]:
        """Meanwhile the fault is in the tree. Afterwards sources and builds are as they were, to the time of writing:
        nothing is compiled for the sake of taking it out."""
        texts = mutant.applied(self.root)
        before = {name: ((self.root / name).read_bytes(), _stamp(self.root / name)) for name in texts}
        try:
            for name, text in texts.items():
                (self.root / name).write_text(text, encoding="utf-8")
            yield
        finally:
            for name, (text, (written, _)) in before.items():
                path = self.root / name
                path.write_bytes(text)
                os.utime(path, ns=(written, written))
            if mutant.builds != "none":
                self._restore()

    def _restore(self) -> None:
        for path in self._built():
            if path not in self.kept:
                path.unlink()
        for path, stamp in self.kept.items():
            if not path.is_file() or _stamp(path) != stamp:
                shutil.copy2(self._store() / path.relative_to(self.root), path)

    def _store(self) -> Path:
        return self.root.with_name(self.root.name + ".built")

    def _built(self) -> list[Path]:
        own = [path for path in (self.root / "build").rglob("*") if path.is_file() and path.name != "sources.txt"]
        return own + sorted((self.root / "torchclip").glob("_*.so"))

    def _python(self, *arguments: str, limit: float | None) -> subprocess.CompletedProcess[str]:
        paths = [self.root, self.root / "tests" / "support"]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, paths)),
            "PYTHONDONTWRITEBYTECODE": "1",  # which goes by the time and the size of a file alone
            "OMP_WAIT_POLICY": "passive",
            "TORCHCLIP_BUILD": "cpu",
            "MAX_JOBS": str(self.jobs),
            # Copies of the tree share what was compiled, and a precompiled header is no hindrance.
            "CCACHE_BASEDIR": str(self.root),
            "CCACHE_NOHASHDIR": "1",
            "CCACHE_SLOPPINESS": "pch_defines,time_macros,include_file_mtime,include_file_ctime",
        }
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.root,
            env=environment,
            capture_output=True,
            text=True,
            timeout=limit,
            check=False,
        )


def wide(mutant: Mutant) -> tuple[str, ...]:
    """A wider selection, for a fault that its own does not find."""
    of_triton = any(name.startswith("kernels/") for name in mutant.changes)
    backends = {"cpu": "cpu", "emulated": "cuda", "none": "triton" if of_triton else "not cuda"}
    return (*WIDE, "-k", backends[mutant.builds])


def sources() -> list[str]:
    """The files of the working tree that are the repository's."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    names = sorted(set(filter(None, listed.stdout.split("\0"))))
    return [name for name in names if (ROOT / name).exists() or (ROOT / name).is_symlink()]


def _copy(source: Path, target: Path) -> None:
    """A link stays one; a file that is the same already stays as it is."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_symlink():
        if not target.is_symlink():
            target.symlink_to(os.readlink(source))
        return
    content = source.read_bytes()
    if not target.is_file() or target.read_bytes() != content:
        target.write_bytes(content)
        shutil.copymode(source, target)


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size
