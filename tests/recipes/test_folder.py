"""A recipe's folder: what --resume, --overwrite and neither do with what is there, and what a crash leaves behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from recipe_runs import (
    assert_same_run,
    assert_valid_json,
    interrupted_after,
    rows,
    run,
)
from recipes.command import MakeTask
from recipes.run_folder import CHECKPOINT, LOG, RunFolder, folder_name, read_log
from recipes.world import World

pytestmark = pytest.mark.usefixtures("tiny_model")


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_where_a_run_is_another_does_not_begin(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(data, tmp_path, "--epochs 1") == 0
    before = content(tmp_path)
    assert run(data, tmp_path, "--epochs 1 --lr 0.2") == 2
    assert (
        f"{tmp_path} holds a run already: --resume goes on with it, --overwrite starts anew" in capsys.readouterr().err
    )
    (tmp_path / LOG).unlink()  # a checkpoint alone is worth keeping too
    assert run(data, tmp_path, "--epochs 1 --lr 0.2") == 2
    assert content(tmp_path)[CHECKPOINT] == before[CHECKPOINT]


def test_overwrite_starts_anew(data: Path, tmp_path: Path) -> None:
    fresh, over = tmp_path / "fresh", tmp_path / "over"
    assert run(data, fresh, "--lr 0.2 --epochs 1") == 0
    assert run(data, over, "--lr 0.3") == 0
    assert run(data, over, "--lr 0.2 --epochs 1 --overwrite") == 0
    assert_same_run(fresh, over)


@pytest.mark.parametrize("wrong", ["--lr -1", "--nu 1", "--schedule plateau --epochs 1,2", "--dataset none"])
def test_a_mistake_overwrites_nothing(wrong: str, data: Path, tmp_path: Path) -> None:
    assert run(data, tmp_path, "--epochs 1") == 0
    before = content(tmp_path)
    assert run(data, tmp_path, f"--epochs 1 --overwrite {wrong}") == 2
    assert content(tmp_path) == before


@pytest.mark.parametrize("ended", [False, True])
def test_other_arguments_are_refused_and_named(
    ended: bool, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with interrupted_after(*(() if ended else (2,))):
        assert run(data, tmp_path, "--lr 0.2 --epochs 1,2") == (0 if ended else 130)
    before = content(tmp_path)
    assert run(data, tmp_path, "--lr 0.3 --epochs 2 --augment --resume") == 2
    said = capsys.readouterr().err
    assert f"{tmp_path} is a run with other arguments: augment was False, and is True; " in said
    assert "epochs was [1, 2], and is [2]; lr was 0.2, and is 0.3. Give those, or another folder" in said
    assert content(tmp_path) == before


def test_what_may_change_on_resuming(data: Path, tmp_path: Path) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert run(data, whole) == 0
    with interrupted_after(6):
        assert run(data, stopped) == 130
    moved = tmp_path / "moved"
    stopped.rename(moved)
    assert run(data, moved, "--resume --backend reference") == 0
    assert [row["kind"] for row in rows(moved)] == [row["kind"] for row in rows(whole)]


def test_a_run_that_has_ended_says_so(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(data, tmp_path, "--epochs 1") == 0
    before = content(tmp_path)
    assert run(data, tmp_path, "--epochs 1 --resume") == 0
    assert f"{tmp_path}: the run has ended; --overwrite starts it anew" in capsys.readouterr().out
    assert content(tmp_path) == before


@pytest.mark.parametrize("left", ["half a row", "a row more", "a row and a half more", "a row less"])
def test_a_log_is_put_back_to_its_checkpoint(left: str, data: Path, tmp_path: Path) -> None:
    """As after a crash between the row of an epoch and its checkpoint, or within the row."""
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert run(data, whole) == 0
    with interrupted_after(6):
        assert run(data, stopped) == 130
    row = json.dumps({"kind": "epoch", "epoch": 2, "train_loss": 0.0})
    with (stopped / LOG).open("a") as file:
        file.write({"half a row": row[:20], "a row more": row + "\n"}.get(left, f"{row}\n{row[:20]}"))
    assert len(read_log(stopped)) == (2 if left == "half a row" else 3)
    if left == "a row less":
        (stopped / LOG).write_text((stopped / LOG).read_text().splitlines(keepends=True)[0])
    assert run(data, stopped, "--resume") == 0
    assert_same_run(whole, stopped)


def test_a_checkpoint_that_is_none_is_an_error(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with interrupted_after(2):
        assert run(data, tmp_path) == 130
    whole = (tmp_path / CHECKPOINT).read_bytes()
    for broken in (b"", b"nothing", whole[: len(whole) // 2]):
        (tmp_path / CHECKPOINT).write_bytes(broken)
        assert run(data, tmp_path, "--resume") == 2
        assert f"{tmp_path / CHECKPOINT} cannot be read (" in capsys.readouterr().err


def test_a_resume_without_a_run_starts_one(data: Path, tmp_path: Path) -> None:
    assert run(data, tmp_path / "new", "--epochs 1 --resume") == 0
    assert run(data, tmp_path / "plain", "--epochs 1") == 0
    assert_same_run(tmp_path / "new", tmp_path / "plain")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("cifar10-resnet(32,1)-sgd", "cifar10-resnet_32_1_-sgd"),
        ("../../etc", "_.._etc"),
        ("hf_hub:a/b", "hf_hub_a_b"),
        ("SGD w/ momentum 0.99", "SGD_w_momentum_0.99"),
        ("…", "_"),
        ("..", "_"),
    ],
)
def test_folder_names(text: str, wanted: str) -> None:
    assert folder_name(text) == wanted


def test_numbers_that_json_lacks_become_null(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.append({"kind": "note", "value": float("nan"), "inner": {"a": float("inf"), "b": 1.5}, "text": "NaN"})
    assert_valid_json(tmp_path)
    assert read_log(tmp_path) == [{"kind": "note", "value": None, "inner": {"a": None, "b": 1.5}, "text": "NaN"}]


def test_processes_look_before_the_first_one_writes(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second of two processes sees, and decides by, what the first one saw before it wrote anything."""
    seen: list[Any] = []

    class Second(World):
        def gather(self, value: Any) -> list[Any]:
            seen.append(value)
            return [([], False), value]

    def stop(*_: Any) -> MakeTask:
        raise ValueError("made a task")

    (tmp_path / LOG).write_text('{"kind": "run"}\n')  # by the first process, meanwhile
    monkeypatch.setattr(World, "join", classmethod(lambda cls, device: Second(1, 2)))
    monkeypatch.setattr("recipes.image.make_task", stop)
    assert run(data, tmp_path) == 2
    assert seen == [([{"kind": "run"}], False)]
