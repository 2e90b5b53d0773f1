"""A language model trains as its papers say, and a run that was stopped ends as if it had not been."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

import torchclip
from recipe_runs import assert_same_run, checkpoint, differences, epochs, interrupted_after
from recipes import lm
from recipes.data.images import generator

PLAIN = ("--dropout", "0", "--dropouth", "0", "--dropouti", "0", "--dropoute", "0", "--wdrop", "0")
UNREGULARISED = ("--ar", "0", "--tar", "0")
CPU = torch.device("cpu")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """1,400 words of 30, the next one often the last one's successor."""
    random = np.random.default_rng(0)
    steps = np.where(random.random(1200) < 0.7, 1, random.integers(30, size=1200))
    words = [f"w{number % 30}" for number in np.cumsum(steps)]
    path = tmp_path / "text.txt"
    path.write_text("".join(" ".join(words[at : at + 6]) + "\n" for at in range(0, len(words), 6)))
    return path


def arguments(text: Path, *others: str) -> list[str]:
    size = ("--emsize", "8", "--nhid", "10", "--nlayers", "2", "-b", "4", "--bptt", "12", "--backend", "reference")
    return ["--data", str(text), *size, "--device", "cpu", "--quiet", *others]


def make_task(given: list[str]) -> lm.LanguageModelTask:
    options = lm.parse(given)
    torch.manual_seed(options.seed)
    return lm.LanguageModelTask(options, CPU)


# With so large an lr the loss rises, and weights are averaged.
CASES = {
    "sgd_clip": ("--lr", "100"),
    "mix_clip": ("--algo", "mix_clip", "--lr", "100"),
    "mom_clip, by layer, one layer": ("--algo", "mom_clip", "--lr", "100", "--layer", "--nlayers", "1"),
    "adam, in bfloat16": ("--algo", "adam", "--lr", "30", "--precision", "bfloat16"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_run_stopped_in_mid_epoch_ends_as_one_that_was_not(name: str, text: Path, tmp_path: Path) -> None:
    given = arguments(text, "--epochs", "5", "--nonmono", "0", "--train-tokens", "500", *CASES[name])
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert lm.main([*given, "--result-dir", str(whole)]) == 0
    in_epoch = [len(lm.draw_lengths(125, 12, generator(0, epoch))) for epoch in range(5)]
    stops = [2, sum(in_epoch[:2]), sum(in_epoch[:3]) + 1, sum(in_epoch[:4]) + 3]  # the second ends its epoch
    given += ["--result-dir", str(stopped)]
    with interrupted_after(*stops):
        assert lm.main(given) == 130
        assert [lm.main([*given, "--resume"]) for _ in range(4)] == [130, 130, 130, 0]
    assert_same_run(whole, stopped)
    first = checkpoint(whole)
    average = first["task"]["average"]
    assert int(average.pop("n_averaged")) == epochs(whole)[-1]["averaged_epochs"] >= 2
    assert differences(list(average.values()), list(first["model"].values()))


def test_the_state_is_saved_in_mid_epoch(text: Path, tmp_path: Path) -> None:
    """Or the test above would pass with a hidden state that is always 0."""
    with interrupted_after(3):
        assert lm.main(arguments(text, "--epochs", "1", "--result-dir", str(tmp_path / "run"))) == 130
    assert all(bool(state.any()) for layer in checkpoint(tmp_path / "run")["task"]["hidden"] for state in layer)


def test_lengths_vary_about_bptt_and_are_an_epochs_own() -> None:
    rows = 100_000
    lengths = lm.draw_lengths(rows, 70, generator(0, 3))
    assert rows - 2 <= sum(lengths) <= rows - 1
    assert min(lengths) >= 2
    long = [length for length in lengths if length > 52]
    short = [length for length in lengths[:-1] if length <= 52]
    assert 0.02 < len(short) / len(lengths) < 0.08
    assert abs(np.mean(long) - 69.5) < 1 and abs(np.std(long) - 5) < 0.5
    assert abs(np.mean(short) - 34.5) < 2.5
    assert lm.draw_lengths(rows, 70, generator(0, 3)) == lengths
    assert lm.draw_lengths(rows, 70, generator(0, 4)) != lengths
    assert lm.draw_lengths(rows, 70, generator(1, 3)) != lengths
    assert set(lm.draw_lengths(1000, 1, generator(0, 0))[:-1]) <= set(range(5, 40))  # never below 5


@pytest.mark.parametrize("rows", range(3, 30))
def test_no_batch_is_too_short_for_temporal_regularisation(rows: int) -> None:
    lengths = lm.draw_lengths(rows, 6, generator(0, 0))
    assert min(lengths) >= 2 and rows - 2 <= sum(lengths) <= rows - 1


def test_batches_go_on_in_the_text_and_can_start_anywhere(text: Path) -> None:
    task = make_task(arguments(text))
    batches = list(task.batches(1, 0))
    assert len(batches) == task.steps(1) > 10
    tokens = torch.cat([batch.tokens for batch in batches])
    targets = torch.cat([batch.targets for batch in batches])
    assert torch.equal(tokens[1:], targets[:-1])
    assert len({len(batch.tokens) for batch in batches}) > 3
    for batch, again in zip(batches[5:], task.batches(1, 5)):
        assert torch.equal(batch.tokens, again.tokens) and torch.equal(batch.targets, again.targets)


def test_lr_and_gamma_of_a_step_follow_its_length(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a length that is bptt itself follows another one; the log has them as they were given."""
    monkeypatch.setattr(lm, "draw_lengths", lambda *_: [18, 12, 5, 12])
    used: list[tuple[float, float]] = []
    step = torchclip.SGDClip.step

    def spy(self: torchclip.SGDClip, *args: Any, **kwargs: Any) -> Any:
        used.extend((group["lr"], group["gamma"]) for group in self.param_groups)
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torchclip.SGDClip, "step", spy)
    assert lm.main(arguments(text, "--epochs", "1", "--result-dir", str(tmp_path / "run"))) == 0
    assert used == [pytest.approx((30 * length / 12, 7.5 * length / 12)) for length in (18, 12, 5, 12)]
    (row,) = epochs(tmp_path / "run")
    assert (row["lr"], row["gamma"]) == (30, 7.5)


def test_two_steps_are_what_a_hand_writes(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """p <- p - min(lr, gamma / |g|) g, g with its decay, the second step from where the first left the hidden state."""
    monkeypatch.setattr(lm, "draw_lengths", lambda *_: [12, 9])
    given = arguments(text, *PLAIN, *UNREGULARISED, "--epochs", "1", "--lr", "3", "--gamma", "0.7", "--wd", "0.01")
    task = make_task(given)
    model = task.model.double()
    data = lm.columns(lm.Corpus.load(text, "word").train, 4)
    hidden, losses = model.initial_hidden(4), []
    for tokens, targets in ((data[:12], data[1:13]), (data[12:21], data[13:22])):
        scale = len(tokens) / 12
        logits, hidden, _, _ = model(tokens, [(h.detach(), c.detach()) for h, c in hidden])
        losses.append(cross_entropy(logits.flatten(0, 1), targets.flatten()))
        gradients = torch.autograd.grad(losses[-1], list(model.parameters()))
        with torch.no_grad():
            decayed = [gradient + 0.01 * p for gradient, p in zip(gradients, model.parameters())]
            norm = torch.stack([gradient.square().sum() for gradient in decayed]).sum().sqrt()
            factor = scale * min(3.0, 0.7 / float(norm))
            for p, gradient in zip(model.parameters(), decayed):
                p -= factor * gradient
    assert lm.main([*given, "--result-dir", str(tmp_path / "run")]) == 0
    for name, value in checkpoint(tmp_path / "run")["model"].items():
        torch.testing.assert_close(value.double(), model.state_dict()[name], rtol=1e-5, atol=1e-6)
    (row,) = epochs(tmp_path / "run")
    assert row["train_loss"] == pytest.approx((12 * losses[0].item() + 9 * losses[1].item()) / 21, rel=1e-5)
    valid = lm.columns(lm.Corpus.load(text, "word").valid, 10)
    assert row["valid_loss"] == pytest.approx(lm.mean_loss(model, valid, 12), rel=1e-5)


def test_regularisation_is_of_what_was_dropped_and_of_how_the_rest_moves(text: Path) -> None:
    task = make_task(arguments(text, "--ar", "3", "--tar", "5"))
    task.model.train()
    batch = next(task.batches(0, 0))
    torch.manual_seed(1)
    loss = task.loss(batch)
    torch.manual_seed(1)
    logits, _, raw, dropped = task.model(batch.tokens, task.model.initial_hidden(4))
    torch.testing.assert_close(loss.reported, cross_entropy(logits.flatten(0, 1), batch.targets.flatten()))
    expected = 3 * dropped.square().mean() + 5 * (raw[1:] - raw[:-1]).square().mean()
    torch.testing.assert_close(loss.backward - loss.reported, expected)
    assert loss.items == batch.targets.numel()


def test_the_loss_per_token_does_not_depend_on_the_pieces(text: Path) -> None:
    task = make_task(arguments(text, "--wdrop", "0.9"))
    data = lm.columns(lm.Corpus.load(text, "word").train, 5)
    with torch.no_grad():
        logits = task.model.eval()(data[:-1], task.model.initial_hidden(5)).logits
    whole = float(cross_entropy(logits.flatten(0, 1), data[1:].flatten()))
    for bptt in (1, 7, 1000):
        assert lm.mean_loss(task.model.train(), data, bptt) == pytest.approx(whole, rel=1e-5)
    assert lm.losses("a", math.log(50)) == {"a_loss": math.log(50), "a_perplexity": pytest.approx(50)}
    assert lm.losses("a", 1e4)["a_perplexity"] == math.inf


@pytest.mark.parametrize(
    ("nonmono", "values", "started"),
    [
        (0, (3.0, 2.0, 2.5, 9.0), 2),
        (0, (3.0, 2.0, 2.0, 1.0), None),
        (2, (5.0, 3.0, 3.5, 3.6, 3.2, 1.0), 4),  # 3.6 is above 3.0, but that is one of the last two
        (5, (1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 0.5), 6),
    ],
)
def test_the_average_starts_after_a_loss_above_the_earlier_ones(
    nonmono: int, values: tuple[float, ...], started: int | None, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make_task(arguments(text, "--nonmono", str(nonmono)))
    coming = iter(values)
    monkeypatch.setattr(lm, "mean_loss", lambda *_: next(coming))
    counts = [int(task.evaluate()["averaged_epochs"]) for _ in values]
    assert counts == [max(0, epoch - started) if started is not None else 0 for epoch in range(len(values))]


def test_evaluation_is_of_the_average_and_training_is_not(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The average's validation loss is logged, and the weights are those of a run that never averages."""
    after: list[dict[str, torch.Tensor]] = []
    evaluate = lm.LanguageModelTask.evaluate

    def keep(self: lm.LanguageModelTask) -> dict[str, float]:
        after.append({name: value.clone() for name, value in self.model.state_dict().items()})
        return evaluate(self)

    given = arguments(text, "--epochs", "5", "--lr", "100", "--train-tokens", "500")
    with monkeypatch.context() as patch:
        patch.setattr(lm.LanguageModelTask, "evaluate", keep)
        assert lm.main([*given, "--nonmono", "0", "--result-dir", str(tmp_path / "averaged")]) == 0
    assert lm.main([*given, "--nonmono", "9", "--result-dir", str(tmp_path / "plain")]) == 0
    rows = epochs(tmp_path / "averaged")
    count = int(rows[-1]["averaged_epochs"])
    assert 2 <= count < 5
    assert [row["averaged_epochs"] for row in rows] == [0.0] * (5 - count) + [float(n + 1) for n in range(count)]
    task = make_task(given)
    mean = {name: torch.stack([state[name] for state in after[-count:]]).mean(0) for name in after[0]}
    task.model.load_state_dict(mean)
    corpus = lm.Corpus.load(text, "word")
    assert rows[-1]["valid_loss"] == pytest.approx(lm.mean_loss(task.model, lm.columns(corpus.valid, 10), 12), rel=1e-5)
    assert rows[-1]["test_loss"] == pytest.approx(lm.mean_loss(task.model, lm.columns(corpus.test, 2), 12), rel=1e-5)
    assert "test_loss" not in rows[-2]
    assert not differences(checkpoint(tmp_path / "averaged")["model"], checkpoint(tmp_path / "plain")["model"])


@pytest.mark.parametrize("level", ["word", "character"])
def test_it_learns(level: str, tmp_path: Path) -> None:
    """A text that repeats itself is predicted almost always."""
    path = tmp_path / "text.txt"
    path.write_text("a b c d\n" * 400)
    given = arguments(path, *PLAIN, "--ar", "0", "--tar", "0", "--level", level, "--epochs", "3", "--lr", "10")
    assert lm.main([*given, "--gamma", "2", "--result-dir", str(tmp_path / "run")]) == 0
    rows = epochs(tmp_path / "run")
    assert rows[0]["valid_perplexity"] > rows[-1]["valid_perplexity"]
    assert rows[-1]["valid_perplexity"] < 1.2 and rows[-1]["test_perplexity"] < 1.2


def test_the_papers_settings_are_those_of_its_algorithms() -> None:
    chosen = {}
    for algo in ("sgd", "sgd_clip", "mom_clip", "mix_clip", "adam"):
        options = lm.parse(["--algo", algo])
        chosen[algo] = (options.lr, options.gamma, options.weight_decay)
    assert chosen == {
        "sgd": (30, None, 1.2e-6),
        "sgd_clip": (30, 7.5, 1.2e-6),
        "mom_clip": (30, 7.5, 1.2e-6),
        "mix_clip": (30, 5, 1.2e-6),
        "adam": (None, None, None),
    }
    options = lm.parse(["--algo", "mix_clip", "--lr", "1", "--gamma", "0.5", "--wd", "0"])
    assert (options.lr, options.gamma, options.weight_decay) == (1, 0.5, 0)


def test_quick_is_less_of_everything() -> None:
    options = lm.parse(["--quick", "--test-tokens", "100"])
    assert (options.emsize, options.nhid, options.nlayers, options.epochs) == (64, 128, 2, [2])
    assert (options.train_tokens, options.test_tokens) == (20_000, 100)


ERRORS = {
    "a missing folder": (("--data", "nowhere"), "there is no .*nowhere: put it there"),
    "an empty folder": (("--data", "."), "has no train.txt, valid.txt, test.txt"),
    "too few tokens": (("--train-tokens", "11"), "the training text has 11 tokens, expected at least 12"),
    "too few to validate": (("--test-tokens", "20"), "the validation text has 20 tokens, expected at least 30"),
    "a probability": (("--wdrop", "1"), r"weight_dropout=1\.0.*wanted probabilities"),
    "another algorithm's option": (("--algo", "sgd", "--gamma", "1"), "--gamma is no option of --algo sgd"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_a_mistake_is_one_line(
    name: str, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    others, message = ERRORS[name]
    monkeypatch.chdir(tmp_path)
    assert lm.main(arguments(text, *others, "--result-dir", str(tmp_path / "run"))) == 2
    said = capsys.readouterr().err
    assert said.startswith("python -m recipes lm: ") and said.count("\n") == 1
    assert re.search(message, said)
