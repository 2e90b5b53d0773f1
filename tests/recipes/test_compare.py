"""`python -m recipes compare`: what it runs, what it does not run again, what it says of failures, and its options."""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from recipe_runs import epochs, interrupted_after, rows
from recipes import compare
from recipes.__main__ import main
from recipes.comparison import runs as runs_module
from recipes.run_folder import LOG, read_log

LINES = ("SGD=--algo sgd --lr 0.1", "Mix Clip=--algo mix_clip --lr 0.5 --momentum 0.5")
FOLDERS = ("SGD/seed0", "Mix_Clip/seed0", "SGD/seed1", "Mix_Clip/seed1")
COMMON = ("--dataset", "made", "--model", "mlp(8)", "--epochs", "2", "-b", "16", "--device", "cpu")


def study(data: Path, folder: Path, *options: str, common: Sequence[str] = COMMON, lines: Sequence[str] = LINES) -> int:
    own = [word for line in lines for word in ("--run", line)]
    places = ["--data-dir", str(data), "--result-dir", str(folder)]
    return compare.main(["--recipe", "image", *own, "--seeds", "0", "1", *places, *options, "--", *common])


class InProcess:
    """A subprocess.Popen that runs the recipe in this process, to its end, before it is returned."""

    started: list[list[str]]
    before: Any = staticmethod(lambda command: contextlib.nullcontext())

    def __init__(self, command: list[str], stdout: Any, env: dict[str, str], **_: Any) -> None:
        self.started.append(command)
        assert command[1:3] == ["-m", "recipes"]
        with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stdout), type(self).before(command):
            try:
                self.returncode = main(command[3:])
            except SystemExit as error:
                self.returncode = int(error.code or 0)

    def poll(self) -> int:
        return self.returncode

    wait = poll

    def send_signal(self, number: int) -> None:
        return


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[InProcess]:
    class Fresh(InProcess):
        pass

    Fresh.started = []
    monkeypatch.setattr(subprocess, "Popen", Fresh)
    monkeypatch.setattr(runs_module, "_POLL_SECONDS", 0)
    return Fresh


def logs(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob(LOG)}


def cells(folder: Path) -> list[list[str]]:
    lines = (folder / "table.md").read_text().splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_runs_draws_and_does_not_run_again(
    data: Path, tmp_path: Path, fake: type[InProcess], capsys: pytest.CaptureFixture[str]
) -> None:
    assert study(data, tmp_path, "--jobs", "2") == 0
    assert {str(path.parent.relative_to(tmp_path)) for path in tmp_path.rglob(LOG)} == set(FOLDERS)
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    header, _, *body = cells(tmp_path)
    assert header == ["", "test accuracy, %: ours", "training loss", "seeds"]
    for (label, accuracy, loss, seeds), name in zip(body, ("SGD", "Mix_Clip"), strict=True):
        last = [epochs(tmp_path / name / f"seed{seed}")[-1] for seed in (0, 1)]
        assert label == name.replace("_", " ") and seeds == "2"
        for told, key, scale, digits in ((accuracy, "test_accuracy", 100, 2), (loss, "train_loss", 1, 3)):
            values = [scale * row[key] for row in last]
            assert told == f"{statistics.mean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"
        assert last[0]["train_loss"] != last[1]["train_loss"], "the seeds are two"
    assert (tmp_path / "table.md").read_text() in capsys.readouterr().out
    before = logs(tmp_path)
    (tmp_path / "figure.png").unlink()
    fake.started.clear()
    assert study(data, tmp_path) == 0
    assert not fake.started
    assert logs(tmp_path) == before and (tmp_path / "figure.png").exists()


def test_an_interruption_reaches_the_runs_which_save(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """SIGTERM, which does not reach processes of other sessions by itself."""
    deadline, original = time.monotonic() + 60, time.sleep

    def sleep(seconds: float) -> None:
        original(seconds)
        if all(epochs(tmp_path / name) for name in FOLDERS[:2]) or time.monotonic() > deadline:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(runs_module.time, "sleep", sleep)
    before = signal.getsignal(signal.SIGTERM)
    assert study(data, tmp_path, "--jobs", "2", common=(*COMMON[:5], "100000", *COMMON[6:])) == 130
    assert signal.getsignal(signal.SIGTERM) is before
    assert "interrupted; the same command goes on with" in capsys.readouterr().err
    for name in FOLDERS[:2]:
        assert read_log(tmp_path / name)[-1]["kind"] == "epoch"
        assert "interrupted and saved; --resume goes on with" in (tmp_path / name / "said.txt").read_text()
    assert len(logs(tmp_path)) == 2


def test_goes_on_where_it_was_interrupted(data: Path, tmp_path: Path, fake: type[InProcess]) -> None:
    """The second run is stopped in mid-epoch; the first is not run again, and the others are as if nothing happened."""

    @contextlib.contextmanager
    def before(command: list[str]) -> Any:
        if len(fake.started) != 2:
            yield
            return
        with interrupted_after(6):
            yield
        raise KeyboardInterrupt

    fake.before = staticmethod(before)
    stopped, whole = tmp_path / "stopped", tmp_path / "whole"
    assert study(data, stopped) == 130
    kept = logs(stopped)
    assert len(kept) == 2 and not (stopped / "figure.png").exists()
    fake.before = InProcess.before
    assert study(data, stopped) == 0 and study(data, whole) == 0
    first = str(stopped / FOLDERS[0] / LOG)
    assert logs(stopped)[first] == kept[first]
    for name in FOLDERS:
        assert rows(stopped / name) == rows(whole / name)
    assert cells(stopped) == cells(whole)


def test_options_that_changed_are_not_taken_for_what_ran(
    data: Path, tmp_path: Path, fake: type[InProcess], capsys: pytest.CaptureFixture[str]
) -> None:
    assert study(data, tmp_path) == 0
    before = logs(tmp_path)
    assert study(data, tmp_path, lines=(LINES[0].replace("0.1", "0.2"), LINES[1])) == 1
    failed = [line for line in capsys.readouterr().err.splitlines() if line.startswith("FAILED")]
    assert len(failed) == 2 and all("lr was 0.1, and is 0.2" in line for line in failed)
    assert failed[0].startswith("FAILED: SGD, seed 0: python -m recipes image: ")
    assert logs(tmp_path) == before


def test_a_run_that_fails_is_named_and_the_others_run(
    data: Path, tmp_path: Path, fake: type[InProcess], capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ("Wrong=--algo sgd --nu 1", "Unknown=--unknown 1", LINES[0])
    assert study(data, tmp_path, lines=lines) == 1
    said = capsys.readouterr()
    failed = [line for line in said.err.splitlines() if line.startswith("FAILED")]
    assert len(failed) == 4
    assert "Wrong, seed 0: python -m recipes image: --nu is no option of --algo sgd" in failed[0]
    assert "Unknown, seed 0: python -m recipes image: error: unrecognized arguments: --unknown 1" in failed[1]
    assert [row[0] for row in cells(tmp_path)[2:]] == ["SGD"]


def test_a_diverged_run_is_drawn_and_counted(data: Path, tmp_path: Path, fake: type[InProcess]) -> None:
    lines = ("Diverges=--algo sgd --lr 1e30", LINES[0])
    assert study(data, tmp_path, lines=lines) == 0
    assert (tmp_path / "figure.png").exists()
    assert cells(tmp_path)[2][2:] == ["", "2, 2 diverged"]


def test_the_cores_are_shared_out(
    data: Path, tmp_path: Path, fake: type[InProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []
    original = fake.__init__

    def watched(self: InProcess, *arguments: Any, **options: Any) -> None:
        threads.append(options["env"]["OMP_NUM_THREADS"])
        original(self, *arguments, **options)

    monkeypatch.setattr(fake, "__init__", watched)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert study(data, tmp_path / "a", "--jobs", "3", lines=LINES[:1]) == 0
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert study(data, tmp_path / "b", "--jobs", "3", lines=LINES[:1]) == 0
    assert threads == ["2", "2", "5", "5"]


def test_draw_runs_nothing(
    data: Path, tmp_path: Path, fake: type[InProcess], capsys: pytest.CaptureFixture[str]
) -> None:
    assert study(data, tmp_path, "--draw") == 1
    assert f"{tmp_path} has no run with an epoch yet" in capsys.readouterr().err
    assert study(data, tmp_path, lines=LINES[:1]) == 0
    (tmp_path / "table.md").unlink()
    fake.started.clear()
    assert study(data, tmp_path, "--draw") == 0
    assert not fake.started and [row[0] for row in cells(tmp_path)[2:]] == ["SGD"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "name a study, or give --recipe and a --run for every line"),
        (["--recipe", "image"], "name a study, or give --recipe and a --run for every line"),
        (["nothing"], "invalid choice: 'nothing'"),
        (["clipping", "--recipe", "image"], "name a study, or give --recipe and a --run for every line"),
        (["--recipe", "nope", "--run", "SGD=--algo sgd"], "argument --recipe: invalid choice: 'nope'"),
        (["--recipe", "compare", "--run", "SGD=--algo sgd"], "argument --recipe: invalid choice: 'compare'"),
        (["clipping", "--seeds", "-1"], "'-1' is not a whole number of at least 0"),
        (["spikes", "--seeds", "-1"], "'-1' is not a whole number of at least 0"),
        (["clipping", "--jobs", "0"], "'0' is not a whole number of at least 1"),
        (["--recipe", "image", "--run", "SGD"], "'SGD' is not NAME=OPTIONS"),
        (["--recipe", "image", "--run", "=--algo sgd"], "is not NAME=OPTIONS"),
        (["--recipe", "image", "--run", "a b=--lr 1", "--run", "a/b=--lr 2"], "would share a folder"),
    ],
)  # fmt: skip
def test_mistakes(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status = compare.main(arguments)
    except SystemExit as error:
        status = int(error.code or 0)
    assert status == 2 and words in capsys.readouterr().err
