"""``python -m recipes imagenet``: a network on a folder of images, in one process or in as many as there are GPUs.

ResNet-50 on ImageNet, as in the clipping paper (arXiv 2010.02519) and in gRDA's (arXiv 2006.09358); lr and gamma
of the first line are those of the clipping code's readme, and its batch is 256 whatever the number of GPUs::

    torchrun --nproc-per-node 4 -m recipes imagenet --data /data/imagenet --algo mix_clip --lr 1.0 --gamma 1.0
    torchrun --nproc-per-node 4 -m recipes imagenet --data /data/imagenet --algo grda --lr 0.1 --c 0.005 --mu 0.51

A trial on any folder with train/CLASS/*.jpg and val/CLASS/*.jpg::

    python -m recipes imagenet --data pictures --arch lenet --image-size 32 -b 32 --epochs 5
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from recipes.algorithms import ALGORITHMS
from recipes.classification import Batch, classification_metrics
from recipes.command import lower, make_parser, positive, run_recipe
from recipes.data.batches import normalised
from recipes.data.errors import RecipeDataError
from recipes.data.image_folder import MEAN, STD, EvaluationImages, ImageFolder, TrainingImages
from recipes.data.shards import ShardedEpochs, read, shard
from recipes.models import MODELS, is_model, make_model
from recipes.packages import TIMM, TORCHVISION, MissingPackageError, package
from recipes.training import Loss, Task
from recipes.world import World


def architecture(name: str, side: int, classes: int) -> nn.Module:
    """A model of recipes.models, torchvision or timm, whichever has it, with random weights.

    Raises:
        MissingPackageError: when neither torchvision nor timm imports.
        ValueError: when those that import have no such model.
    """
    if is_model(name):
        return make_model(name, (3, side, side), classes)
    asked: list[str] = []
    failures: list[str] = []
    for library, remedy, find in (("torchvision", TORCHVISION, _of_torchvision), ("timm", TIMM, _of_timm)):
        try:
            model = find(package(library, remedy), name, classes)
        except MissingPackageError as error:
            failures.append(str(error))
            continue
        if model is not None:
            return model
        asked.append(library)
    own = "; ".join(MODELS.values())
    if not asked:
        told = "; ".join(failures)
        raise MissingPackageError(f"--arch {name} wants torchvision or timm: {told}. Without them there are {own}")
    raise ValueError(f"--arch {name}: no such model in {' or '.join(asked)}, nor is it one of {own}")


def _of_torchvision(torchvision: Any, name: str, classes: int) -> nn.Module | None:
    known = name in torchvision.models.list_models()
    return torchvision.models.get_model(name, num_classes=classes) if known else None


def _of_timm(timm: Any, name: str, classes: int) -> nn.Module | None:
    return timm.create_model(name, pretrained=False, num_classes=classes) if timm.is_model(name) else None


class ImageNetTask(Task):
    """Cross-entropy on random crops; the batch is shared by the processes, whose gradients are averaged."""

    def __init__(
        self, options: argparse.Namespace, train: ImageFolder, val: ImageFolder, device: torch.device, world: World
    ) -> None:
        self.model = architecture(options.arch, options.image_size, len(train.classes)).to(device)
        self._layout = torch.channels_last if options.channels_last else torch.contiguous_format
        self.model.to(memory_format=self._layout)  # type: ignore[call-overload]
        self._training = TrainingImages(train, options.image_size, options.seed)
        self._epochs = ShardedEpochs(len(train), options.batch_size, options.seed, world)
        self._evaluation = EvaluationImages(val, options.image_size)
        self._evaluated, self._batch_size = len(val), options.batch_size // world.size
        self._device, self._world, self._workers = device, world, options.workers
        self._parallel = self.model if world.size == 1 else self._distributed(options.image_size)
        if world.size > 1:  # the weights were the same everywhere; dropout should not be
            torch.manual_seed(int(np.random.SeedSequence((options.seed, world.rank)).generate_state(1)[0]))

    def _distributed(self, side: int) -> nn.Module:
        """The model with averaged gradients, after a backward pass of black images that changes nothing of it.

        By the first one DistributedDataParallel decides in which order gradients lie in memory, and so in which order
        they are summed over three or more processes: were it a step, a resumed run would differ in the last bits.
        """
        parallel = DistributedDataParallel(self.model)
        buffers = [buffer.clone() for buffer in self.model.buffers()]
        images = torch.zeros(2, 3, side, side, device=self._device).contiguous(memory_format=self._layout)
        parallel(images).sum().backward()
        self.model.zero_grad()
        for buffer, before in zip(self.model.buffers(), buffers, strict=True):
            buffer.copy_(before)
        return parallel

    def steps(self, epoch: int) -> int:
        return len(self._epochs)

    def _moved(self, batches: Iterable[tuple[Tensor, Tensor]]) -> Iterator[Batch]:
        for images, labels in batches:
            images, labels = (part.to(self._device, non_blocking=True) for part in (images, labels))
            yield normalised(images, MEAN, STD).contiguous(memory_format=self._layout), labels

    def batches(self, epoch: int, start: int) -> Iterator[Batch]:
        draws = self._epochs.draws(epoch, start)
        return self._moved(read(self._training, draws, self._workers, pin=self._device.type == "cuda"))

    def loss(self, batch: Batch) -> Loss:
        images, labels = batch
        loss = cross_entropy(self._parallel(images), labels)
        return Loss(loss, loss, len(labels))

    def evaluate(self) -> dict[str, float]:
        self._world.share(self.model.buffers())  # batch norm's averages, as the checkpoint will have them
        mine = shard(self._evaluated, self._batch_size, self._world)
        batches = self._moved(read(self._evaluation, mine, self._workers, pin=self._device.type == "cuda"))
        return classification_metrics(self.model, batches, top=(1, 5), world=self._world)


def make_task(options: argparse.Namespace, device: torch.device, world: World) -> ImageNetTask:
    train, val = (ImageFolder.find(options.data / part) for part in ("train", "val"))
    if train.classes != val.classes:
        differing = sorted(set(train.classes) ^ set(val.classes))
        raise RecipeDataError(
            f"{train.path} and {val.path} have not the same classes: {', '.join(differing[:5])} "
            f"{'and others ' if differing[5:] else ''}are in one of them only"
        )
    return ImageNetTask(options, train.spread(options.train_images), val.spread(options.test_images), device, world)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = make_parser("imagenet", "A network on a folder of images.", epochs="30,60,80,90", algo="mix_clip")
    add = parser.add_argument_group("images").add_argument
    add("--data", type=Path, metavar="DIR", required=True, help="with train/CLASS/*.jpg and val/CLASS/*.jpg")
    add("--arch", default="resnet50", metavar="MODEL", help=f"of torchvision or timm, or {', '.join(MODELS)}")
    add("-b", "--batch-size", type=positive, default=256, help="of all processes together (default 256)")
    add("--image-size", type=positive, default=224, metavar="SIDE", help="of the crops (default 224)")
    add("--workers", type=int, default=min(8, os.cpu_count() or 1), help="that read images, for every process")
    add("--channels-last", action="store_true", help="the layout that convolutions on GPUs prefer")
    add("--train-images", type=positive, metavar="N", help="only N, evenly over the classes")
    add("--test-images", type=positive, metavar="N", help="only N, evenly over the classes")
    options = parser.parse_args(arguments)
    if options.weight_decay is None and "weight_decay" in ALGORITHMS[options.algo].options:
        options.weight_decay = 1e-4
    if options.quick:
        options.epochs = [1]
        lower(options, train_images=2000, test_images=500)
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    return run_recipe("imagenet", options, f"{options.arch}-{options.algo}-seed{options.seed}", make_task)
