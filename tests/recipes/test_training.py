"""recipes.training: a run that was stopped and went on is, bit for bit, the one that was not; and runs that diverge."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from recipe_runs import (
    STEPS,
    assert_same_run,
    assert_valid_json,
    checkpoint,
    epochs,
    interrupted_after,
    rows,
    run,
    tiny,
)
from recipes.run_folder import CHECKPOINT, LOG, read_log
from recipes.training import Training

pytestmark = pytest.mark.usefixtures("tiny_model")

ALGORITHMS = (
    "--algo sgd --momentum 0.9 --lr 0.05",
    "--algo mix_clip --lr 0.5 --momentum 0.9 --layer",
    "--algo adamw --lookahead 3 --gradient-noise 0.01 --lr-dropout 0.5 --clip 1.7",
    "--algo grda --lr 0.05 --c 0.02",
    "--algo adaloss --momentum 0.5",
    "--algo adagrad_norm --wd 1e-3",
)


def compare_stopped(data: Path, folder: Path, text: str, stops: tuple[int, ...]) -> None:
    """Stops after each of these steps in turn, counted from where the run went on, and goes on after all."""
    whole, stopped = folder / "whole", folder / "stopped"
    assert run(data, whole, text) == 0
    for stop in stops:
        with interrupted_after(stop):
            assert run(data, stopped, f"{text} --resume") == 130
    assert run(data, stopped, f"{text} --resume") == 0
    assert_same_run(whole, stopped)
    assert [row["kind"] for row in rows(whole)] == ["run", "epoch", "epoch", "epoch", "end"]
    assert_valid_json(whole)


@pytest.mark.parametrize("text", ALGORITHMS)
def test_goes_on_bit_for_bit(text: str, data: Path, tmp_path: Path) -> None:
    compare_stopped(data, tmp_path, f"{text} --augment --epochs 1,3", (2, 4))


@pytest.mark.parametrize("stop", [1, STEPS - 1, STEPS, STEPS + 1, 3 * STEPS])
def test_at_every_place_of_an_epoch(stop: int, data: Path, tmp_path: Path) -> None:
    compare_stopped(data, tmp_path, "--algo mix_clip --lr 0.3 --clip 1", (stop,))


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("algo", ["--algo adamw", "--algo adaloss"])
def test_in_mixed_precision(precision: str, algo: str, data: Path, tmp_path: Path) -> None:
    compare_stopped(data, tmp_path, f"{algo} --precision {precision}", (6,))
    scale = checkpoint(tmp_path / "whole")["scaler"]
    assert bool(scale) == (precision == "float16")


def test_precision_is_that_of_the_activations(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()

    def watched(*arguments: Any) -> torch.nn.Module:
        model = tiny(*arguments)
        model[0].register_forward_hook(lambda module, _, output: seen.add((module.training, output.dtype)))
        return model

    monkeypatch.setattr("recipes.image.make_model", watched)
    assert run(data, tmp_path, "--precision bfloat16") == 0
    assert seen == {(True, torch.bfloat16), (False, torch.float32)}


@pytest.mark.parametrize("schedule", ["--schedule plateau --epochs 9", "--schedule linear --epochs 4"])
def test_the_schedule_goes_on(schedule: str, data: Path, tmp_path: Path) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    text = f"{schedule} --algo sgd_clip --lr 1e-9 --gamma 1e-9"  # so small that the loss stands still
    assert run(data, whole, text) == 0
    with interrupted_after(2 * STEPS + 1):
        assert run(data, stopped, text) == 130
    assert run(data, stopped, f"{text} --resume") == 0
    assert_same_run(whole, stopped)
    lrs = {row["lr"] for row in epochs(whole)}
    assert len(lrs) > 1 and lrs == {row["gamma"] for row in epochs(whole)}


def test_milestones_are_in_the_log(data: Path, tmp_path: Path) -> None:
    assert run(data, tmp_path, "--algo mom_clip --lr 0.5 --gamma 2 --epochs 1,2,3") == 0
    logged = [(row["lr"], row["gamma"]) for row in epochs(tmp_path)]
    assert logged == [pytest.approx(pair) for pair in [(0.5, 2.0), (0.05, 0.2), (0.005, 0.02)]]


def test_the_scale_of_a_batch_is_of_its_step_alone(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second batch is scaled; those after it, of scale 1, are not."""
    scales, seen = iter([1.0, 0.25, 1.0, 1.0]), []
    original = Training._step

    def watched(self: Training, batch: Any) -> Any:
        loss = original(self, batch)
        seen.append((self.optimizer.param_groups[0]["lr"], self.optimizer.param_groups[0]["gamma"]))
        return loss

    monkeypatch.setattr("recipes.image.ClassificationTask.scale", lambda self, batch: next(scales))
    monkeypatch.setattr(Training, "_step", watched)
    assert run(data, tmp_path, "--algo mix_clip --lr 0.8 --gamma 4 --epochs 1") == 0
    assert seen == [(0.8, 4.0), (0.2, 1.0), (0.8, 4.0), (0.8, 4.0)]
    assert epochs(tmp_path)[0]["lr"] == 0.8


def test_a_second_interruption_ends_at_once(data: Path, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    with interrupted_after(2, 2), pytest.raises(KeyboardInterrupt):
        run(data, tmp_path)
    assert signal.getsignal(signal.SIGINT) is before
    assert checkpoint(tmp_path)["processes"][0]["progress"]["step"] == 0, "what was there before is still there"


@pytest.mark.parametrize(
    "algo", ["sgd --lr 1e30", "adaloss --lr 1e30", "grda --lr 1e30", "mix_clip --lr 1e38 --gamma 1e38"]
)
def test_a_run_that_diverges_ends(
    algo: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f"--algo {algo} --epochs 5"
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert run(data, whole, text) == 0
    assert_valid_json(whole)
    log = rows(whole)
    assert [row["kind"] for row in log] == ["run", "epoch", "end"] and log[-1]["epochs"] == 1
    assert log[1]["train_loss"] is None and 0 <= log[1]["test_accuracy"] <= 1
    # Killed between the checkpoint and the end: no epoch is trained with what has diverged.
    assert run(data, stopped, text) == 0
    kept = (stopped / LOG).read_text().splitlines(keepends=True)[:-1]
    (stopped / LOG).write_text("".join(kept))
    assert run(data, stopped, f"{text} --resume") == 0
    assert_same_run(whole, stopped)
    # Interrupted in the very epoch.
    (stopped / LOG).unlink()
    with interrupted_after(STEPS):
        assert run(data, stopped, f"{text} --overwrite") == 130
    assert run(data, stopped, f"{text} --resume") == 0
    assert_same_run(whole, stopped)


def test_what_an_epoch_tells(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from recipes import image

    options = [
        "--dataset",
        "made",
        "-b",
        "16",
        "--data-dir",
        str(data),
        "--result-dir",
        str(tmp_path),
        "--device",
        "cpu",
    ]
    assert image.main([*options, "--algo", "grda", "--c", "1", "--epochs", "2"]) == 0
    said = capsys.readouterr()
    lines = [line for line in said.out.splitlines() if line.startswith("epoch")]
    assert [line.split()[1] for line in lines] == ["1/2", "2/2"]
    assert all(word in lines[0] for word in ("train_loss", "test_accuracy", "lr 0.1", "sparsity", "seconds"))
    assert said.out.splitlines()[-1] == f"{tmp_path}/{LOG}"
    assert image.main([*options, "--algo", "sgd", "--lr", "1e30", "--epochs", "2", "--overwrite"]) == 0
    assert "the loss is not finite: the run has diverged and ends here" in capsys.readouterr().out


def test_the_checkpoint_holds_plain_data(data: Path, tmp_path: Path) -> None:
    """torch.load with weights_only, which is how it is read, takes it; and it is whole before the first step."""
    with interrupted_after(1):
        assert run(data, tmp_path, "--algo adaloss --precision float16") == 130
    state = checkpoint(tmp_path)
    assert {"model", "optimizer", "schedule", "scaler", "task", "processes", "rows"} == set(state)
    assert state["rows"] == read_log(tmp_path) and len(state["rows"]) == 1
    assert not list(tmp_path.glob("*.part")) and (tmp_path / CHECKPOINT).exists()
