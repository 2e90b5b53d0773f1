"""The processes of a distributed run, as ``torchrun`` starts them; or the one of a run that is not."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as distributed
from torch import Tensor, nn
from torch.optim import Optimizer


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


class WholeState:
    """The state of a sharded model and of its optimizer as one process would have it: whole tensors, by name."""

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:
        self._of = model, optimizer

    def state_dict(self) -> dict[str, Any]:
        """For all processes to call; the first one's is whole, the others' are empty."""
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, get_state_dict

        (model, optimizer), options = self._of, StateDictOptions(full_state_dict=True, cpu_offload=True)
        if not optimizer.state:  # torch would take a step to make it one, which counts
            return {"model": get_model_state_dict(model, options=options), "optimizer": None}
        return dict(zip(("model", "optimizer"), get_state_dict(model, optimizer, options=options), strict=True))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """For all processes to call, with what the first one had."""
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict, set_state_dict

        (model, optimizer), options = self._of, StateDictOptions(full_state_dict=True)
        if state["optimizer"] is None:
            set_model_state_dict(model, state["model"], options=options)
        else:
            found = {"model_state_dict": state["model"], "optim_state_dict": state["optimizer"]}
            set_state_dict(model, optimizer, **found, options=options)


def whole(tensor: Tensor) -> Tensor:
    """The tensor that this may be a part of; for all processes to call."""
    gather = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()
