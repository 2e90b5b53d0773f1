"""The one training loop of all recipes: mixed precision, checkpoints that go on bit for bit, a save on interruption."""

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
from torch.nn.functional import cross_entropy
from tqdm import tqdm

import torchclip
from recipes.algorithms import Schedule
from recipes.run_folder import RunFolder
from recipes.world import WholeState, World, whole
from torchclip.step.fused_optimizer import FusedOptimizer

# What the line of an epoch tells, of all that the log has.
_TOLD = ("train", "valid", "test", "mean")

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
    is_sharded: bool = False  # whether several processes share the model's parameters

    @abstractmethod
    def steps(self, epoch: int) -> int:
        """About how many batches the epoch has, for the progress bar."""

    @abstractmethod
    def batches(self, epoch: int, start: int) -> Iterator[Any]:
        """The batches of the epoch from ``start`` on; the same ones whether or not the run was stopped before."""

    def loss(self, batch: Any) -> Loss:
        """Of the model in training mode; where a task says nothing else, the cross-entropy of (inputs, labels)."""
        inputs, labels = batch
        loss = cross_entropy(self.model(inputs), labels)
        return Loss(loss, loss, len(labels))

    @abstractmethod
    def evaluate(self) -> dict[str, float]:
        """The metrics after an epoch, by name; called once after every one."""

    def scale(self, batch: Any) -> float:
        """A factor of lr and gamma in the step of this batch."""
        return 1.0

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
    seconds: float = 0.0
    diverged: bool = False


def refuse_changes(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raises ValueError, and says what changed, unless the folder's run began with the arguments of now."""
    changed = [key for key in now if now[key] != before.get(key)]
    if changed:
        told = "; ".join(f"{key} was {before.get(key)!r}, and is {now[key]!r}" for key in changed)
        raise ValueError(f"{folder} is a run with other arguments: {told}. Give those, or another folder")


@dataclass
class Training:
    """A run of ``task`` with ``optimizer``, which writes to ``folder``.

    Args:
        precision: torch.float32, or the type of autocast; torch.float16 scales the loss.
    """

    task: Task
    optimizer: FusedOptimizer
    schedule: Schedule
    folder: RunFolder
    device: torch.device
    precision: torch.dtype
    world: World = field(default_factory=World)
    quiet: bool = False

    def __post_init__(self) -> None:
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == torch.float16)
        self.progress = Progress(torch.zeros((), dtype=torch.float64, device=self.device))
        self._interrupted = False
        trained: dict[str, Any] = {"model": self.task.model, "optimizer": self.optimizer}
        if self.task.is_sharded:
            trained = {"whole": WholeState(self.task.model, self.optimizer)}
        # Whose state_dict() is in a checkpoint, beside what every process has of its own.
        self._parts: dict[str, Any] = {
            **trained,
            "schedule": self.schedule,
            "scaler": self.scaler,
            "task": self.task,
        }

    def run(self) -> bool:
        """Trains to the end. False if it was interrupted, and saved, before."""
        previous = signal.signal(signal.SIGINT, self._interrupt)
        try:
            while self.progress.epoch < self.schedule.epochs and not self.progress.diverged:
                self._epoch()
                # All together, as a process that alone saved would wait for the others for ever.
                if self.world.any(self._interrupted, self.device):
                    self.save()
                    return False
        finally:
            signal.signal(signal.SIGINT, previous)
        self.folder.append({"kind": "end", "epochs": self.progress.epoch})
        return True

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        # Twice: at once. Not where torchrun passes on what the terminal has sent to every process already.
        if self._interrupted and self.world.size == 1:
            raise KeyboardInterrupt
        self._interrupted = True

    def _epoch(self) -> None:
        """One epoch, from the step the run is at; the rest of it only if nobody interrupts."""
        progress, start = self.progress, time.perf_counter()
        self.task.model.train()
        about = {"desc": f"epoch {progress.epoch + 1}/{self.schedule.epochs}", "total": self.task.steps(progress.epoch)}
        hidden = self.quiet or self.world.rank > 0
        with tqdm(**about, initial=progress.step, leave=False, disable=hidden, mininterval=0.5) as bar:
            for batch in self.task.batches(progress.epoch, progress.step):
                # Before a step, not after it: what the last step of an epoch measured is lost when a run is stopped.
                if self._stopped():
                    progress.seconds += time.perf_counter() - start
                    return
                loss = self._step(batch)
                progress.loss_sum += loss.reported.detach().double() * loss.items
                progress.items += loss.items
                progress.step += 1
                bar.update()
        progress.seconds += time.perf_counter() - start
        self._end_epoch()

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
        # AdaLoss divides by what it sees: were that not the same in every process, the weights would part.
        self.scaler.step(self.optimizer, loss=self.world.mean(loss.backward.detach().clone()))
        self.scaler.update()
        return loss

    def _end_epoch(self) -> None:
        progress = self.progress
        self.schedule.start_epoch(progress.epoch)  # as the log should show them, without the last batch's factor
        items = progress.loss_sum.new_tensor(progress.items)
        loss_sum, items = self.world.mean(torch.stack((progress.loss_sum, items)))
        train_loss = float(loss_sum / items.clamp_min(1))
        metrics = self.task.evaluate()
        group = self.optimizer.param_groups[0]
        row: dict[str, Any] = {"kind": "epoch", "epoch": progress.epoch + 1, "train_loss": train_loss, **metrics}
        row |= {key: float(group[key]) for key in ("lr", "gamma") if key in group}
        row |= {key: float(value) for key, value in self.optimizer.metrics().items() if value.dim() == 0}
        row.pop("clipped_fraction", None)  # an optimizer counts it anew from where it was loaded
        row["seconds"] = round(progress.seconds, 3)
        if isinstance(self.optimizer, torchclip.GRDA):
            named = self.task.model.named_parameters()
            row["layers"] = {name: float((whole(parameter) == 0).double().mean()) for name, parameter in named}
        self.schedule.end_epoch(train_loss)
        nothing, diverged = torch.zeros_like(progress.loss_sum), not math.isfinite(train_loss)
        self.progress = Progress(nothing, progress.epoch + 1, diverged=diverged)
        self.folder.append(row)
        self.save()
        self._tell(row)

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
            **{name: part.state_dict() for name, part in self._parts.items()},
            "processes": self.world.gather({
                "cpu": torch.get_rng_state(),
                "cuda": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
                "progress": {**vars(progress), "loss_sum": progress.loss_sum.cpu()},
            }),
            "rows": self.folder.rows,
        })  # fmt: skip

    def resume(self, arguments: Mapping[str, Any]) -> bool:
        """Goes on from the folder's checkpoint. False where there is none.

        Raises:
            ValueError: when the checkpoint is of a run with other arguments, or of other processes.
        """
        state = self.folder.load(self.device)
        if state is None:
            return False
        refuse_changes(self.folder.path, state["rows"][0]["arguments"], arguments)
        if len(state["processes"]) != self.world.size:
            raise ValueError(
                f"{self.folder.path} is a run of {len(state['processes'])} processes, which are now {self.world.size}: "
                "start as many, or give another folder"
            )
        for name, part in self._parts.items():
            part.load_state_dict(state[name])
        process = state["processes"][self.world.rank]
        torch.set_rng_state(process["cpu"].cpu())
        if process["cuda"] is not None:
            torch.cuda.set_rng_state(process["cuda"].cpu(), self.device)
        self.progress = Progress(**process["progress"])
        self.progress.loss_sum = self.progress.loss_sum.to(self.device)
        self.folder.restart(state["rows"])
        return True
