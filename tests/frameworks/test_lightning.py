"""Lightning and Fabric: runs with torchclip beside the same ones with torch.optim and the framework's own clipping."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

import torchclip
from framework_runs import MAX_NORM, OPTIONS, Net, assert_alike, assert_alike_numbers, batches, rows, values

lightning = pytest.importorskip("lightning", reason="lightning is of the extra 'test-frameworks'")

pytestmark = pytest.mark.filterwarnings("ignore")  # of the few workers and the short runs


class Module(lightning.LightningModule):
    """As the page on it writes it, in automatic or manual optimization."""

    def __init__(self, cls: Any, *, manual: bool = False, **options: Any) -> None:
        super().__init__()
        self.net, self.cls, self.options = Net(), cls, options
        self.automatic_optimization = not manual
        self.losses: list[float] = []
        self.norms: list[float] = []

    def training_step(self, batch: dict[str, torch.Tensor], index: int) -> torch.Tensor:
        loss = self.net(**batch)["loss"]
        self.losses.append(float(loss.detach()))
        if not self.automatic_optimization:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
        return loss

    def optimizer_step(self, *arguments: Any, **options: Any) -> None:
        super().optimizer_step(*arguments, **options)
        if issubclass(self.cls, torchclip.FusedOptimizer):
            norm = self.optimizers().grad_norm
            self.log("grad_norm", norm)
            self.norms.append(float(norm))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.cls(self.net.parameters(), **self.options)


def fit(module: Module, folder: Path, checkpoint: Path | None = None, epochs: int = 2, **options: Any) -> Any:
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=folder,
        **options,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module, DataLoader(rows(), batch_size=4), ckpt_path=checkpoint, weights_only=False)
    return trainer


OURS = {**OPTIONS, "clip": MAX_NORM}


@pytest.mark.parametrize("parts", [1, 2])
def test_automatic_optimization_is_that_of_torch(parts: int, tmp_path: Path) -> None:
    run, plain = Module(torchclip.AdamW, **OURS), Module(torch.optim.AdamW, **OPTIONS)
    trainer = fit(run, tmp_path, accumulate_grad_batches=parts)
    fit(plain, tmp_path, accumulate_grad_batches=parts, gradient_clip_val=MAX_NORM)
    assert_alike_numbers(run.losses, plain.losses)
    assert_alike(values(run.net), values(plain.net))
    assert float(trainer.callback_metrics["grad_norm"]) == run.norms[-1] > MAX_NORM


def test_manual_optimization_is_that_of_torch(tmp_path: Path) -> None:
    run, plain = Module(torchclip.AdamW, manual=True, **OURS), Module(torch.optim.AdamW, **OPTIONS)
    fit(run, tmp_path)
    fit(plain, tmp_path, gradient_clip_val=MAX_NORM)
    assert_alike_numbers(run.losses, plain.losses)
    assert_alike(values(run.net), values(plain.net))


def test_a_run_is_resumed_in_the_middle(tmp_path: Path) -> None:
    whole = Module(torchclip.AdamW, **OURS)
    fit(whole, tmp_path)
    fit(Module(torchclip.AdamW, **OURS), tmp_path, epochs=1).save_checkpoint(tmp_path / "first.ckpt")
    resumed = Module(torchclip.AdamW, **OURS)
    fit(resumed, tmp_path, tmp_path / "first.ckpt")
    assert resumed.losses == whole.losses[8:]
    assert_alike(values(resumed.net), values(whole.net))


def test_adaloss_takes_the_loss_of_lightnings_closure(tmp_path: Path) -> None:
    run = Module(torchclip.AdaLoss, lr=0.1, b0=1.0, clip=1e9)
    trainer = fit(run, tmp_path, epochs=1)
    expected = (1.0 + sum(run.losses)) ** -0.5
    assert float(trainer.optimizers[0].metrics()["lr_scale"]) == pytest.approx(expected, rel=1e-5)


def fabric_run(cls: Any, max_norm: float | None = None, state: dict[str, Any] | None = None, **options: Any) -> Any:
    """Losses, norms, the model, and what a checkpoint in the middle holds."""
    fabric = lightning.Fabric(accelerator="cpu", devices=1)
    model = Net()
    model, optimizer = fabric.setup(model, cls(model.parameters(), **options))
    if state is not None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    losses, norms, middle = [], [], {}
    data = batches()
    for number, (x, labels) in enumerate(data if state is None else data[4:]):
        with fabric.no_backward_sync(model, enabled=number % 2 == 0):
            loss = model(x, labels)["loss"]
            fabric.backward(loss)
        losses.append(float(loss.detach()))
        if number % 2 == 0:
            continue
        if max_norm is not None:
            norms.append(float(fabric.clip_gradients(model, optimizer, max_norm=max_norm)))
        optimizer.loss = loss
        optimizer.step()
        if max_norm is None:
            norms.append(float(optimizer.grad_norm))
        optimizer.zero_grad()
        if number == 3 and state is None:
            middle = {"model": values(model), "optimizer": copy.deepcopy(optimizer.state_dict())}
    return losses, norms, values(model), middle


def test_fabric_is_torch_and_resumes_in_the_middle(tmp_path: Path) -> None:
    losses, norms, model, middle = fabric_run(torchclip.AdamW, **OURS)
    expected_losses, expected_norms, expected, _ = fabric_run(torch.optim.AdamW, MAX_NORM, **OPTIONS)
    assert_alike_numbers(losses, expected_losses)
    assert_alike_numbers(norms, expected_norms)
    assert_alike(model, expected)
    torch.save(middle, tmp_path / "middle.pt")
    resumed = fabric_run(torchclip.AdamW, state=torch.load(tmp_path / "middle.pt", weights_only=True), **OURS)
    assert_alike(resumed[2], model)


def test_a_loss_handed_to_fabrics_optimizer_reaches_ours() -> None:
    losses, *_ = fabric_run(torchclip.AdaLoss, lr=0.1, clip=1e9)
    assert len(losses) == 8
