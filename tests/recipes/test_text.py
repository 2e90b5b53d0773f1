"""A classifier of texts trains with AdaLoss's own step, and a run that was stopped ends as if it had not been."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from recipe_runs import assert_same_run, checkpoint, epochs, interrupted_after
from recipes import text
from recipes.world import World


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two authors who use the same twenty words, one the first of them more often, the other the last."""
    random = np.random.default_rng(0)
    weights = np.linspace(1, 9, 20)
    place = tmp_path / "authors"
    place.mkdir()
    for name, chances in (("one", weights), ("two", weights[::-1])):
        chosen = random.choice(20, size=1000, p=chances / chances.sum())
        (place / f"{name}.txt").write_text(" ".join(f"w{number}" for number in chosen))
    return place


def arguments(folder: Path, *others: str) -> list[str]:
    return ["--dataset", str(folder), "--length", "10", "-b", "16", "--device", "cpu", "--quiet", *others]


def make_task(given: list[str]) -> text.TextTask:
    options = text.parse(given)
    torch.manual_seed(options.seed)
    return text.make_task(options, torch.device("cpu"), World())


@pytest.mark.parametrize("algo", ["adaloss", "adagrad_norm"])
def test_a_run_stopped_in_mid_epoch_ends_as_one_that_was_not(algo: str, folder: Path, tmp_path: Path) -> None:
    given = arguments(folder, "--algo", algo, "--momentum", "0.9", "--epochs", "3")
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert text.main([*given, "--result-dir", str(whole)]) == 0
    given += ["--result-dir", str(stopped)]
    with interrupted_after(3, 14):
        assert text.main(given) == 130
        assert [text.main([*given, "--resume"]) for _ in range(2)] == [130, 0]
    assert_same_run(whole, stopped)


def test_an_epoch_has_every_text_once_and_can_start_anywhere(folder: Path) -> None:
    task = make_task(arguments(folder))

    def texts(epoch: int, start: int = 0) -> list[tuple[Any, ...]]:
        batches = list(task.batches(epoch, start))
        return [(*tokens, label) for batch in batches for tokens, label in zip(batch[0].tolist(), batch[1].tolist())]

    assert len(texts(0)) == 160 and len(list(task.batches(0, 0))) == task.steps(0) == 10
    plain = sorted(map(str, texts(0)))
    assert sorted(map(str, texts(1))) == plain and texts(1) != texts(0)
    assert texts(1, start=4) == texts(1)[4 * 16 :]
    other, _ = next(make_task(arguments(folder, "--seed", "1")).batches(0, 0))
    assert not torch.equal(other, next(task.batches(0, 0))[0])


def test_a_step_is_what_a_hand_writes(folder: Path, tmp_path: Path) -> None:
    """b² = b0² + alpha · loss, p <- p - lr · g / b."""
    given = arguments(folder, "--train-texts", "16", "--epochs", "1", "--lr", "2", "--b0", "0.5", "--alpha", "3")
    task = make_task(given)
    model = copy.deepcopy(task.model).double()
    ((tokens, labels),) = task.batches(0, 0)
    loss = cross_entropy(model(tokens), labels)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    with torch.no_grad():
        for p, gradient in zip(model.parameters(), gradients):
            p -= 2 * gradient / (0.25 + 3 * loss).sqrt()
    assert text.main([*given, "--result-dir", str(tmp_path / "run")]) == 0
    for name, value in checkpoint(tmp_path / "run")["model"].items():
        torch.testing.assert_close(value.double(), model.state_dict()[name], rtol=1e-5, atol=1e-6)


def test_it_learns(folder: Path, tmp_path: Path) -> None:
    """And its accuracy is that of its model on the test texts."""
    given = arguments(folder, "--epochs", "8", "--lr", "1", "--result-dir", str(tmp_path / "run"))
    assert text.main(given) == 0
    rows = epochs(tmp_path / "run")
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    assert rows[-1]["test_accuracy"] > 0.8
    task = make_task(given)
    task.model.load_state_dict(checkpoint(tmp_path / "run")["model"])
    texts = text.load_texts(str(folder), Path("data"), length=10)
    with torch.no_grad():
        right = task.model.eval()(texts.test_tokens).argmax(1) == texts.test_labels
    assert rows[-1]["test_accuracy"] == pytest.approx(float(right.float().mean()))


def test_adaloss_has_the_recipes_learning_rate_and_others_their_own() -> None:
    assert text.parse([]).lr == 1
    assert text.parse(["--lr", "0.3"]).lr == 0.3
    assert text.parse(["--algo", "adam"]).lr is None


def test_quick_is_less_of_everything() -> None:
    options = text.parse(["--quick", "--train-texts", "50"])
    assert (options.dataset, options.algo, options.epochs, options.length) == ("imdb", "adaloss", [2], 64)
    assert (options.train_texts, options.test_texts) == (50, 2000)


ERRORS = {
    "a missing folder": (("--dataset", "nowhere"), "'nowhere' is not 'imdb', and as a folder it does not exist"),
    "no batch": (("-b", "0"), "batch_size=0"),
    "a negative seed": (("--seed", "-1"), "seed=-1"),
    "no length": (("--length", "0"), "length=0"),
    "another algorithm's option": (("--gamma", "1"), "--gamma is no option of --algo adaloss"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_a_mistake_is_one_line(name: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    others, message = ERRORS[name]
    assert text.main(arguments(folder, *others, "--result-dir", str(tmp_path / "run"))) == 2
    said = capsys.readouterr().err
    assert said.startswith("python -m recipes text: ") and said.count("\n") == 1 and message in said
