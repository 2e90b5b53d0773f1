"""The one training loop of all recipes: mixed precision, checkpoints that go on bit for bit, a save on interruption."""

from __future__ import annotations

import math
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

import torchclip
from recipes.run_folder import RunFolder
from recipes.schedules import Schedule
from recipes.sparsity import layer_sparsity
from recipes.world import World
from torchclip.optimizer import FusedOptimizer

# What the line of an epoch tells, of all that the log has.
_TOLD = ("train", "valid", "test")

# Processes of a distributed run ask each other only so often whether one of them was interrupted.
_STEPS_BETWEEN_QUESTIONS = 10


class Loss(NamedTuple):
    """What a batch comes to."""

    backward: Tensor  # 0-dim: whose gradients are taken, and what AdaLoss sees
    reported: Tensor  # 0-dim: the same without regularisation
    items: int  # how much it weighs in the epoch's mean


class Task(ABC):
    """What a recipe gives to the loop: a model, its batches, its loss, its evaluation."""

    model: nn.Module

    @abstractmethod
    def steps(self, epoch: int) -> int:
        """About how many batches the epoch has, for the progress bar."""

    @abstractmethod
    def batches(self, epoch: int, start: int) -> Iterator[Any]:
        """The batches of the epoch from ``start`` on; the same ones whether or not the run was stopped before."""

    @abstractmethod
    def loss(self, batch: Any) -> Loss:
        """Of the model in training mode."""

    @abstractmethod
    def evaluate(self) -> dict[str, float]:
        """The metrics after an epoch, by name."""

    def scale(self, batch: Any) -> float:
        """A factor of lr and gamma in the step of this batch."""
        return 1.0

    def end_epoch(self, metrics: Mapping[str, float]) -> None:
        """Hears the metrics of the epoch. Most tasks need not."""
        return

    def finish(self, folder: Path) -> None:
        """Called after the last epoch; in a distributed run, in the first process alone."""
        return

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold besides the model."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a :meth:`state_dict`."""
        return


@dataclass
class Progress:
    """How far a run is: the epoch, the step in it, and its losses so far."""

    loss_sum: Tensor  # 0-dim float64, on the device
    epoch: int = 0
    step: int = 0
    items: int = 0

    def add(self, loss: Loss) -> None:
        self.loss_sum += loss.reported.detach().double() * loss.items
        self.items += loss.items
        self.step += 1

    def next_epoch(self) -> None:
        self.loss_sum.zero_()
        self.epoch, self.step, self.items = self.epoch + 1, 0, 0


def _random_state(device: torch.device) -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


@dataclass
class Training:
    """A run of ``task`` with ``optimizer``, which writes to ``folder``.

    Args:
        precision: torch.float32, or the type of autocast; torch.float16 scales the loss.
        arguments: of the command line. A checkpoint of other ones is refused.
    """

    task: Task
    optimizer: FusedOptimizer
    schedule: Schedule
    folder: RunFolder
    device: torch.device
    precision: torch.dtype
    arguments: dict[str, Any]
    world: World = field(default_factory=World)
    quiet: bool = False

    def __post_init__(self) -> None:
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == torch.float16)
        self.progress = Progress(torch.zeros((), dtype=torch.float64, device=self.device))
        self._interrupted = False

    def run(self) -> bool:
        """Trains to the end. False if it was interrupted, and saved, before."""
        previous = signal.signal(signal.SIGINT, self._interrupt)
        try:
            while self.progress.epoch < self.schedule.epochs:
                finite = self._epoch()
                if self._interrupted:
                    self.save()
                    return False
                if not finite:
                    break
        finally:
            signal.signal(signal.SIGINT, previous)
        self.folder.append({"kind": "end", "epochs": self.progress.epoch})
        if self.world.rank == 0:
            self.task.finish(self.folder.path)
        return True

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._interrupted:  # twice: at once
            raise KeyboardInterrupt
        self._interrupted = True

    def _epoch(self) -> bool:
        """One epoch, from the step the run is at. False when its losses were not all finite."""
        progress, start = self.progress, time.perf_counter()
        self.schedule.start_epoch(progress.epoch)
        self.task.model.train()
        with tqdm(
            total=self.task.steps(progress.epoch),
            initial=progress.step,
            desc=f"epoch {progress.epoch + 1}/{self.schedule.epochs}",
            unit="step",
            leave=False,
            disable=self.quiet or self.world.rank > 0,
            dynamic_ncols=True,
            mininterval=0.5,
        ) as bar:
            for batch in self.task.batches(progress.epoch, progress.step):
                progress.add(self._step(batch))
                bar.update()
                if self._stopped():
                    return True
        return self._end_epoch(time.perf_counter() - start)

    def _stopped(self) -> bool:
        if self.world.size > 1:
            if self.progress.step % _STEPS_BETWEEN_QUESTIONS:
                return False
            self._interrupted = self.world.any(self._interrupted, self.device)
        return self._interrupted

    def _step(self, batch: Any) -> Loss:
        self.schedule.start_epoch(self.progress.epoch, self.task.scale(batch))
        with torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32):
            loss = self.task.loss(batch)
        self.optimizer.zero_grad()
        self.scaler.scale(loss.backward).backward()
        self.scaler.step(self.optimizer, loss=loss.backward.detach())
        self.scaler.update()
        return loss

    def _end_epoch(self, seconds: float) -> bool:
        progress = self.progress
        self.schedule.start_epoch(progress.epoch)  # as the log should show them, without the last batch's factor
        train_loss = float(self.world.mean(progress.loss_sum / max(progress.items, 1)))
        metrics = self.task.evaluate()
        group = self.optimizer.param_groups[0]
        row: dict[str, Any] = {"kind": "epoch", "epoch": progress.epoch + 1, "train_loss": train_loss, **metrics}
        row |= {key: float(group[key]) for key in ("lr", "gamma") if key in group}
        row |= {key: float(value) for key, value in self.optimizer.metrics().items() if value.dim() == 0}
        row["seconds"] = round(seconds, 3)
        if isinstance(self.optimizer, torchclip.GRDA):
            row["layers"] = layer_sparsity(self.task.model)
        self.schedule.end_epoch(train_loss)
        self.task.end_epoch(metrics)
        progress.next_epoch()
        self.folder.append(row)
        self.save()
        self._tell(row)
        return math.isfinite(train_loss)

    def _tell(self, row: Mapping[str, Any]) -> None:
        if self.quiet or self.world.rank > 0:
            return
        told = [key for key in row if key in ("lr", "gamma", "seconds") or key.partition("_")[0] in _TOLD]
        if row["sparsity"] > 0:
            told.append("sparsity")
        numbers = [f"{key} {row[key]:.4g}" for key in told]
        tqdm.write(f"epoch {row['epoch']}/{self.schedule.epochs}  " + "  ".join(numbers))
        if not math.isfinite(row["train_loss"]):
            tqdm.write("the loss is not finite: the run has diverged and ends here")

    def save(self) -> None:
        """The checkpoint of everything the rest of the run depends on."""
        progress = self.progress
        self.folder.save({
            "model": self.task.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "task": self.task.state_dict(),
            "random": self.world.gather(_random_state(self.device)),
            "loss_sum": progress.loss_sum,
            "progress": {"epoch": progress.epoch, "step": progress.step, "items": progress.items},
            "rows": self.folder.rows,
            "arguments": self.arguments,
        })  # fmt: skip

    def resume(self) -> bool:
        """Goes on from the folder's checkpoint. False where there is none.

        Raises:
            ValueError: when the checkpoint is of a run with other arguments.
        """
        state = self.folder.load(self.device)
        if state is None:
            return False
        before = state["arguments"]
        changed = [key for key in self.arguments if self.arguments[key] != before.get(key)]
        if changed:
            told = "; ".join(f"{key} was {before.get(key)!r}, and is {self.arguments[key]!r}" for key in changed)
            raise ValueError(f"{self.folder.path} is a run with other arguments: {told}. Give those, or another folder")
        self.task.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])
        self.task.load_state_dict(state["task"])
        random = state["random"][self.world.rank]
        torch.set_rng_state(random["cpu"].cpu())
        if "cuda" in random:
            torch.cuda.set_rng_state(random["cuda"].cpu(), self.device)
        self.progress = Progress(state["loss_sum"], **state["progress"])
        self.folder.cut(state["rows"])
        return True
