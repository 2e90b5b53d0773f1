"""A classifier whose parameters several processes share: FSDP2 and tensor parallelism, as ``torchrun`` starts them."""

import argparse

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, parallelize_module
from torch.nn.functional import cross_entropy

from recipes.data.images import Images
from recipes.image import Batch, ClassificationTask
from recipes.training import Loss
from recipes.world import World


class ShardedClassification(ClassificationTask):
    """The run of one process, by several: the batch is divided under FSDP2, and the layers under tensor parallelism.

    Under FSDP2 every module with parameters is sharded by itself, and every process takes its share of each batch.
    Under tensor parallelism every linear layer's output features are divided, what is no linear layer is a copy in
    every process, and so is the batch.
    """

    is_sharded = True

    def __init__(self, options: argparse.Namespace, model: nn.Module, images: Images, device: torch.device) -> None:
        super().__init__(options, model, images, device)
        self._world, self._divides_batch = World.join(device), options.fsdp
        world = self._world
        mesh = init_device_mesh(device.type, (world.size,))
        if options.fsdp:
            for module in self.model.modules():
                if module is not self.model and next(module.parameters(recurse=False), None) is not None:
                    fully_shard(module, mesh=mesh)
            fully_shard(self.model, mesh=mesh)
            torch.manual_seed(options.seed * world.size + world.rank)  # dropout differs from share to share
        else:
            linear = [name for name, module in self.model.named_modules() if isinstance(module, nn.Linear)]
            if not linear:
                raise ValueError(f"--tp divides linear layers, and {options.model} has none: take --fsdp")
            plan: dict[str, ParallelStyle] = {name: ColwiseParallel(output_layouts=Replicate()) for name in linear}
            parallelize_module(self.model, mesh, plan)

    def loss(self, batch: Batch) -> Loss:
        if not self._divides_batch:
            return super().loss(batch)
        images, labels = (part.tensor_split(self._world.size)[self._world.rank] for part in batch)
        # FSDP2 averages the gradients of shares, of which the last batch's may be of different sizes.
        loss = cross_entropy(self.model(images), labels, reduction="sum") * self._world.size / len(batch[1])
        return Loss(loss, loss, len(batch[1]))

    def evaluate(self) -> dict[str, float]:
        self._world.share(self.model.buffers())  # batch norm's averages
        return super().evaluate()
