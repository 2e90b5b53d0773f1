"""``python -m recipes imagenet``: a network on a folder of images, in one process or in as many as there are GPUs.

ResNet-50 on ImageNet, as in the clipping paper (arXiv 2010.02519) and in gRDA's (arXiv 2006.09358); lr and gamma
of the first line are those of the clipping code's readme, and its batch is 256 whatever the number of GPUs::

    torchrun --nproc-per-node 4 -m recipes imagenet --data /data/imagenet --algo mix_clip --lr 1.0 --gamma 1.0
    torchrun --nproc-per-node 4 -m recipes imagenet --data /data/imagenet --algo grda --lr 0.1 --c 0.005 --mu 0.51

A trial on any folder with train/CLASS/*.jpg and val/CLASS/*.jpg::

    python -m recipes imagenet --data pictures --arch lenet --image-size 32 -b 32 --epochs 5
"""

import argparse
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from recipes.algorithms import options_of
from recipes.command import lower, make_parser, positive, run_recipe
from recipes.data import TORCHVISION, RecipeDataError, package
from recipes.data.image_folder import MEAN, STD, Crops, Draw, evaluation_draws, find_images, read, training_draws
from recipes.data.images import normalised
from recipes.image import Batch, classification_metrics
from recipes.models.images import MODELS, is_model, make_model
from recipes.training import Loss, Task
from recipes.world import World


def check_architecture(name: str, side: int) -> None:
    """Raises for a model that :func:`architecture` cannot make."""
    if not is_model(name):
        _torchvision_models().get_model_builder(name)  # some of its models cannot be built without memory
        return
    with torch.device("meta"):
        architecture(name, side, 2)


def architecture(name: str, side: int, classes: int) -> nn.Module:
    """A model of recipes.models or of torchvision, with random weights."""
    if is_model(name):
        return make_model(name, (3, side, side), classes)
    model: nn.Module = _torchvision_models().get_model(name, num_classes=classes)
    return model


def _torchvision_models() -> ModuleType:
    return package("torchvision.models", f"{TORCHVISION}, or give --arch one of {MODELS}")


class ImageNetTask(Task):
    """Cross-entropy on random crops; the batch is shared by the processes, whose gradients are averaged."""

    def __init__(self, options: argparse.Namespace, device: torch.device) -> None:
        self._world = world = World.join(device)
        batch, side = options.batch_size, options.image_size
        if batch % world.size:
            raise ValueError(f"a batch of {batch} for {world.size} processes: wanted a multiple of their number")
        check_architecture(options.arch, side)  # before the images are read
        (classes, train), (others, val) = (
            find_images(options.data / part, count)
            for part, count in (("train", options.train_images), ("val", options.test_images))
        )
        if classes != others:
            apart = ", ".join(sorted(set(classes) ^ set(others))[:5])
            raise RecipeDataError(f"{options.data}/train and val have not the same classes: {apart} are in one only")
        if len(train) < batch:
            raise ValueError(f"{len(train)} training images are less than one batch of {batch}: lower -b")
        self.model = architecture(options.arch, side, len(classes)).to(device)
        self._training, self._evaluation = Crops(train, side, options.seed), Crops(val, side)
        self._options, self._device = options, device
        self._parallel = self.model if world.size == 1 else self._distributed()
        if world.size > 1:  # the weights were the same everywhere; dropout should not be
            torch.manual_seed(int(np.random.SeedSequence((options.seed, world.rank)).generate_state(1)[0]))

    def _distributed(self) -> nn.Module:
        """The model with averaged gradients, after a backward pass of black images that changes nothing of it.

        By the first one DistributedDataParallel decides in which order gradients lie in memory, and so in which order
        they are summed over three or more processes: were it a step, a resumed run would differ in the last bits.
        """
        parallel = DistributedDataParallel(self.model)
        buffers = [buffer.clone() for buffer in self.model.buffers()]
        parallel(torch.zeros(2, 3, self._training.side, self._training.side, device=self._device)).sum().backward()
        self.model.zero_grad()
        for buffer, before in zip(self.model.buffers(), buffers, strict=True):
            buffer.copy_(before)
        return parallel

    def steps(self, epoch: int) -> int:
        return len(self._training.files) // int(self._options.batch_size)

    def _read(self, crops: Crops, draws: Iterable[Sequence[Draw]]) -> Iterator[Batch]:
        for pixels, classes in read(crops, draws, self._options.workers, pin=self._device.type == "cuda"):
            images, labels = (part.to(self._device, non_blocking=True) for part in (pixels, classes))
            yield normalised(images, MEAN, STD), labels

    def batches(self, epoch: int, start: int) -> Iterator[Batch]:
        count = len(self._training.files)
        batch, seed = self._options.batch_size, self._options.seed
        draws = training_draws(count, batch, self._world, seed, epoch, start)
        return self._read(self._training, draws)

    def loss(self, batch: tuple[Tensor, Tensor]) -> Loss:
        images, labels = batch
        loss = cross_entropy(self._parallel(images), labels)
        return Loss(loss, loss, len(labels))

    def evaluate(self) -> dict[str, float]:
        self._world.share(self.model.buffers())  # batch norm's averages, as the checkpoint will have them
        mine = evaluation_draws(len(self._evaluation.files), self._options.batch_size // self._world.size, self._world)
        batches = self._read(self._evaluation, mine)
        return classification_metrics(self.model, batches, top=(1, 5), world=self._world)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = make_parser("imagenet", "A network on a folder of images.", epochs="30,60,80,90", algo="mix_clip")
    add = parser.add_argument_group("images").add_argument
    add("--data", type=Path, metavar="DIR", required=True, help="with train/CLASS/*.jpg and val/CLASS/*.jpg")
    add("--arch", default="resnet50", metavar="MODEL", help=f"of torchvision, or {MODELS}")
    add("-b", "--batch-size", type=positive, default=256, help="of all processes together (default 256)")
    add("--image-size", type=positive, default=224, metavar="SIDE", help="of the crops (default 224)")
    add("--workers", type=int, default=min(8, os.cpu_count() or 1), help="that read images, for every process")
    add("--train-images", type=positive, metavar="N", help="only N, evenly over the classes")
    add("--test-images", type=positive, metavar="N", help="only N, evenly over the classes")
    options = parser.parse_args(arguments)
    if options.weight_decay is None and "weight_decay" in options_of(options.algo):
        options.weight_decay = 1e-4
    if options.quick:
        options.epochs = [1]
        lower(options, train_images=2000, test_images=500)
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    name = f"{options.arch}-{options.algo}-seed{options.seed}"
    return run_recipe("imagenet", options, name, ImageNetTask, distributed=True)


if __name__ == "__main__":
    sys.exit(main())
