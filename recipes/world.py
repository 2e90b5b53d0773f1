"""The processes of a distributed run, as ``torchrun`` starts them; or the one of a run that is not."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as distributed
from torch import Tensor


@dataclass(frozen=True)
class World:
    """This process among the others. With one process nothing here communicates."""

    rank: int = 0
    size: int = 1

    @classmethod
    def join(cls, device: torch.device) -> "World":
        """Joins the process group that ``torchrun`` announces in the environment, if it does."""
        if "RANK" not in os.environ or not distributed.is_available():
            return cls()
        if device.type == "cuda":  # else NCCL would use the first GPU for every process
            torch.cuda.set_device(device)
        if not distributed.is_initialized():
            distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        return cls(distributed.get_rank(), distributed.get_world_size())

    def leave(self) -> None:
        if self.size > 1 and distributed.is_initialized():
            distributed.destroy_process_group()

    def sum(self, value: Tensor) -> Tensor:
        """The sum over all processes; ``value`` is overwritten by it."""
        if self.size > 1:
            distributed.all_reduce(value)
        return value

    def mean(self, value: Tensor) -> Tensor:
        """The mean over all processes; ``value`` is overwritten by it."""
        return self.sum(value).div_(self.size) if self.size > 1 else value

    def share(self, values: Iterable[Tensor]) -> None:
        """Overwrites the values of every process by those of the first one."""
        for value in values if self.size > 1 else ():
            distributed.broadcast(value, 0)

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether the flag is set in any process."""
        return bool(self.sum(torch.tensor(float(flag), device=device)) > 0) if self.size > 1 else flag

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, in the order of their ranks."""
        values: list[Any] = [value] * self.size
        if self.size > 1:
            distributed.all_gather_object(values, value)
        return values
