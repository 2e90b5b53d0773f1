"""Hugging Face's Trainer: a run with torchclip beside the same one with torch.optim and the Trainer's own clipping."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

import torchclip
from framework_runs import MAX_NORM, OPTIONS, Net, assert_alike, assert_alike_numbers, rows, values
from torchclip.integrations.transformers import FusedTrainerMixin

transformers = pytest.importorskip(
    "transformers", reason="transformers is of the extra 'test-frameworks'", exc_type=ImportError
)


class FusedTrainer(FusedTrainerMixin, transformers.Trainer):
    """As the page on it writes it."""


def trainer(cls: Any, folder: Path, optimizer: Any, more: dict[str, Any] | None = None, **arguments: Any) -> Any:
    given = {
        "max_steps": 6,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "max_grad_norm": MAX_NORM,
        "learning_rate": OPTIONS["lr"],
        "weight_decay": OPTIONS["weight_decay"],
        "lr_scheduler_type": "linear",
        "logging_steps": 1,
        "save_steps": 3,
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": 5,
        **arguments,
    }
    args = transformers.TrainingArguments(str(folder), **given)
    return cls(Net(), args, train_dataset=rows(), optimizer_cls_and_kwargs=(optimizer, more or {}))


def logged(run: Any, key: str) -> list[float]:
    return [entry[key] for entry in run.state.log_history if key in entry]


@pytest.fixture
def of_torch(tmp_path: Path) -> Any:
    run = trainer(transformers.Trainer, tmp_path / "torch", torch.optim.AdamW, {"lr": OPTIONS["lr"]})
    run.train()
    return run


def test_losses_norms_and_parameters_are_those_of_torch(of_torch: Any, tmp_path: Path) -> None:
    run = trainer(FusedTrainer, tmp_path, torchclip.AdamW)
    run.train()
    for key in ("loss", "grad_norm", "learning_rate"):
        assert_alike_numbers(logged(run, key), logged(of_torch, key))
    assert_alike(values(run.model), values(of_torch.model))


def test_the_trainers_own_pass_over_the_gradients_is_not_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run = trainer(FusedTrainer, tmp_path, torchclip.AdamW)
    monkeypatch.setattr(run.accelerator, "clip_grad_norm_", lambda *_: pytest.fail("the gradients were walked"))
    run.train()
    inner = run.optimizer.optimizer
    assert inner.clip == torchclip.ClipByGlobalNorm(MAX_NORM)
    assert float(inner.clip_factor) < 1


def test_a_run_is_resumed_in_the_middle(of_torch: Any, tmp_path: Path) -> None:
    trainer(FusedTrainer, tmp_path, torchclip.AdamW).train()
    resumed = trainer(FusedTrainer, tmp_path, torchclip.AdamW)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert_alike(values(resumed.model), values(of_torch.model))
    assert_alike_numbers(logged(resumed, "loss"), logged(of_torch, "loss"))


def test_a_checkpoint_of_torchs_optimizer_goes_on_here(of_torch: Any, tmp_path: Path) -> None:
    resumed = trainer(FusedTrainer, tmp_path, torchclip.AdamW)
    resumed.train(resume_from_checkpoint=str(tmp_path / "torch" / "checkpoint-3"))
    assert_alike(values(resumed.model), values(of_torch.model))


def test_the_optimizers_own_policy_stays(tmp_path: Path) -> None:
    run = trainer(FusedTrainer, tmp_path, torchclip.AdamW, {"clip": torchclip.ClipByTensorNorm(0.5), "lr": 0.5})
    run.train()
    inner = run.optimizer.optimizer
    assert inner.clip == torchclip.ClipByTensorNorm(0.5) and inner.defaults["lr"] == 0.5
    norms = inner.grad_norm
    assert norms.shape == (4,)
    assert logged(run, "grad_norm")[-1] == pytest.approx(math.sqrt(float(norms.square().sum())), rel=1e-6)


def test_without_a_policy_nothing_is_clipped_or_measured(tmp_path: Path) -> None:
    run = trainer(FusedTrainer, tmp_path, torchclip.SGD, max_grad_norm=0.0)
    run.train()
    assert run.optimizer.optimizer.clip is None and logged(run, "grad_norm") == []


def test_adaloss_takes_the_loss_of_all_parts_of_a_step(tmp_path: Path) -> None:
    """Of an optimizer that the user has made."""
    model = Net()
    optimizer = torchclip.AdaLoss(model.parameters(), lr=0.1, b0=1.0)
    args = trainer(transformers.Trainer, tmp_path, torch.optim.SGD, max_grad_norm=0.0, logging_steps=1).args
    run = FusedTrainer(model, args, train_dataset=rows(), optimizers=(optimizer, None))
    run.train()
    total = 1.0
    for entry in logged(run, "loss"):
        total += entry
    assert float(optimizer.metrics()["lr_scale"]) == pytest.approx(1 / math.sqrt(total), rel=1e-5)


def test_bfloat16_autocast_runs(tmp_path: Path) -> None:
    run = trainer(FusedTrainer, tmp_path, torchclip.AdamW, bf16=True)
    plain = trainer(transformers.Trainer, tmp_path / "torch", torch.optim.AdamW, {"lr": OPTIONS["lr"]}, bf16=True)
    run.train(), plain.train()
    assert logged(run, "loss") == pytest.approx(logged(plain, "loss"), rel=1e-3)


def test_with_an_optimizer_of_torch_the_trainer_is_itself(of_torch: Any, tmp_path: Path) -> None:
    run = trainer(FusedTrainer, tmp_path, torch.optim.AdamW, {"lr": OPTIONS["lr"]})
    run.train()
    assert logged(run, "grad_norm") == logged(of_torch, "grad_norm")


def test_bases_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(TypeError, match="name it before transformers.Trainer among the bases"):
        type("Wrong", (transformers.Trainer, FusedTrainerMixin), {})
