"""The thorough tests that the changed files ask for: ``changed.py [--deadline EPOCH] [PYTEST'S ARGUMENT...]``.

What has changed is what differs from where this branch left the main one; on the main one, from the last release; where
neither can be told, everything has. What is left out is said first, the last line is pytest's. ``--asked`` runs
nothing: it fails where nothing is asked for.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterable

from places import ROOT

FOLDERS = ("unit", "contract", "checkpoints", "kernels", "distributed", "frameworks", "recipes", "bench", "packaging")
STEPS = ("unit", "contract", "checkpoints", "kernels")
"""Where steps are taken."""

ALONE = "thorough"
"""Drift, leaks, storms of interrupts, 2^31 elements: only `make test-all`, or a change of theirs, asks for them."""

ASKED: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("tests/support/", FOLDERS),
    ("tests/conftest.py", FOLDERS),
    *((f"tests/{folder}/", (folder,)) for folder in (*FOLDERS, ALONE)),
    ("tests/", ()),
    ("torchclip/integrations/", ("frameworks", "packaging")),
    ("torchclip/keras/", ("frameworks", "packaging")),
    ("torchclip/", (*STEPS, "distributed", "frameworks")),
    ("kernels/", STEPS),
    ("csrc/build.py", ("packaging",)),
    ("csrc/object_cache.py", ("packaging",)),
    ("csrc/", STEPS),
    ("recipes/", ("recipes",)),
    ("bench/", ("bench",)),
    ("setup.py", ("packaging",)),
    ("pyproject.toml", FOLDERS),
    ("Makefile", ("packaging",)),
    ("", ()),
)
"""The folders of tests that a file asks for, by how its name begins; the first that fits."""


def git(*arguments: str) -> str | None:
    """What git prints; None where it fails, or is not there."""
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def base() -> str | None:
    """The commit to compare with; None where there is none."""
    head = git("rev-parse", "HEAD")
    for main in ("origin/main", "main"):
        found = git("merge-base", "HEAD", main)
        if found is not None and found != head:
            return found
    tag = git("describe", "--tags", "--abbrev=0", "HEAD^")
    return tag or None


def folders_for(files: Iterable[str]) -> list[str]:
    """The folders of tests that changed files ask for, in their own order."""
    asked: set[str] = set()
    for file in files:
        asked |= set(next(folders for start, folders in ASKED if file.startswith(start)))
    return [folder for folder in (*FOLDERS, ALONE) if folder in asked]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--deadline", type=float, help="no test is started after this time, in seconds of the epoch")
    parser.add_argument("--asked", action="store_true", help="say what is asked for, and fail where nothing is")
    options, others = parser.parse_known_args(arguments)
    since = base()
    changed = None if since is None else git("diff", "--name-only", since)
    folders = list(FOLDERS) if changed is None else folders_for(changed.splitlines())
    there = [folder for folder in folders if (ROOT / "tests" / folder).is_dir()]
    left_out = [folder for folder in (*FOLDERS, ALONE) if folder not in folders]
    print(f"Thorough tests of {', '.join(there) or 'nothing'}: what has changed since {since or 'ever'} asks for them.")
    if left_out:
        print(f"Left out, since nothing asks for them: {', '.join(left_out)}.")
    if options.asked or not there:
        return 1 if options.asked and not there else 0
    command = [sys.executable, "-m", "pytest", "-m", "thorough", "-p", "deadline", *others]
    if options.deadline is not None:
        command.append(f"--deadline={options.deadline}")
    sys.stdout.flush()
    status = subprocess.run([*command, *(f"tests/{folder}" for folder in there)], cwd=ROOT).returncode
    return 0 if status == 5 else status  # 5: a folder has no thorough test


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
