"""Which thorough tests a change asks for, and the time after which none is started."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

import changed
from places import PYTHONPATH, ROOT, TESTS


@pytest.mark.parametrize(
    "files, folders",
    [
        ([], []),
        (["README.md", "docs/architecture.md", "LICENSE"], []),
        (["torchclip/policies/clip.py"], ["unit", "contract", "checkpoints", "kernels", "distributed", "frameworks"]),
        (["torchclip/integrations/timm.py"], ["frameworks", "packaging"]),
        (["csrc/rules/momentum.h"], ["unit", "contract", "checkpoints", "kernels"]),
        (["csrc/build.py"], ["packaging"]),
        (["recipes/lm.py", "tests/bench/test_plot.py"], ["recipes", "bench"]),
        (["tests/support/records.py"], list(changed.FOLDERS)),
        (["tests/thorough/test_drift.py"], [changed.ALONE]),
        (["tests/gpu/test_streams.py"], []),
    ],
    ids=str,
)
def test_what_a_change_asks_for(files: list[str], folders: list[str]) -> None:
    assert changed.folders_for(files) == folders


def test_every_folder_of_tests_is_known() -> None:
    there = {path.name for path in TESTS.iterdir() if any(path.glob("test_*.py"))}
    assert there - {"gpu", "mutants"} <= {*changed.FOLDERS, changed.ALONE}


def repository(folder: Path, *commands: str) -> None:
    for command in commands:
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *command.split()], cwd=folder, check=True)


def test_what_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A branch with where it left the main one, the main one with the last release, and nothing with nothing."""
    monkeypatch.setattr(changed, "ROOT", tmp_path)
    assert changed.base() is None
    repository(tmp_path, "init -q -b main", "commit -q --allow-empty -m first")
    assert changed.base() is None
    repository(tmp_path, "tag v1", "commit -q --allow-empty -m second")
    assert changed.base() == "v1"
    fork = changed.git("rev-parse", "HEAD")
    repository(tmp_path, "checkout -q -b topic", "commit -q --allow-empty -m third")
    assert changed.base() == fork


@pytest.mark.parametrize("file, status", [("README.md", 1), ("bench/measure.py", 0)])
def test_whether_anything_is_asked_for(
    file: str, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """So that `.ci/run` ends with a line of pytest's."""
    monkeypatch.setattr(changed, "base", lambda: "v1")
    monkeypatch.setattr(changed, "git", lambda *arguments: file)
    assert changed.main(["--asked"]) == status
    printed = capsys.readouterr().out
    assert printed.startswith(f"Thorough tests of {'nothing' if status else 'bench'}: ")
    assert "Left out, since nothing asks for them: unit, " in printed


@pytest.mark.parametrize("left, outcome", [(3600, "2 passed"), (-1, "2 skipped")])
def test_a_deadline(left: int, outcome: str, tmp_path: Path) -> None:
    (tmp_path / "test_two.py").write_text("def test_one(): ...\ndef test_two(): ...\n")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "deadline",
        f"--deadline={time.time() + left}",
        "--rootdir=.",
    ]
    done = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": PYTHONPATH, "PATH": ""}, capture_output=True, text=True, check=True
    )
    assert re.search(outcome, done.stdout.splitlines()[-1])
    assert ("2 tests of test_two.py: left out" in done.stdout) == (left < 0)


def test_ci_runs_both() -> None:
    text = (ROOT / ".ci" / "run").read_text()
    assert text.index("make test ") < text.index("make test-changed")
