"""``python -m recipes image``: image classification with any algorithm of the four papers.

The clipping paper's CIFAR-10 run, the collection's, and gRDA's::

    python -m recipes image --dataset cifar10 --augment --model "resnet(32,1)" --epochs 80,120,150 --wd 5e-4 \\
        --algo mix_clip --lr 1.0 --gamma 1.0 --momentum 0.999
    python -m recipes image --dataset cifar10 --model cnn --epochs 30 --schedule plateau --algo adam --lr-dropout 0.5
    python -m recipes image --dataset cifar10 --augment --model vgg16 --epochs 600 --algo grda --c 0.0005 --mu 0.51
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from recipes.command import make_parser, positive, run_recipe
from recipes.data.batches import ImageBatches, evaluation_batches
from recipes.data.images import IMAGE_DATASETS, Images, load_images
from recipes.models import MODELS, make_model
from recipes.sparsity import export
from recipes.training import Loss, Task
from recipes.world import World

_EVALUATION_BATCH = 500
_QUICK_IMAGES = 4000


@torch.no_grad()
def classification_metrics(model: torch.nn.Module, batches: Iterator[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """The mean loss and the accuracy over the batches, the model in evaluation mode."""
    model.eval()
    loss_sum, correct, count = 0.0, 0, 0
    for images, labels in batches:
        outputs = model(images)
        loss_sum += float(cross_entropy(outputs, labels, reduction="sum"))
        correct += int((outputs.argmax(1) == labels).sum())
        count += len(labels)
    return {"test_loss": loss_sum / count, "test_accuracy": correct / count}


class ImageTask(Task):
    """Cross-entropy on normalised images, in batches whose order and crops the seed alone decides."""

    def __init__(self, options: argparse.Namespace, images: Images, device: torch.device) -> None:
        self.model = make_model(options.model, images.shape, images.classes).to(device)
        mean, std = images.moments()
        self._training = ImageBatches(
            images.train_images,
            images.train_labels,
            options.batch_size,
            options.seed,
            mean,
            std,
            augment=options.augment,
            device=device,
        )
        self._export = options.export
        self._test = (images.test_images, images.test_labels, _EVALUATION_BATCH, mean, std, device)

    def steps(self, epoch: int) -> int:
        return len(self._training)

    def batches(self, epoch: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        return (self._training.batch(epoch, step) for step in range(start, len(self._training)))

    def loss(self, batch: tuple[Tensor, Tensor]) -> Loss:
        images, labels = batch
        loss = cross_entropy(self.model(images), labels)
        return Loss(loss, loss, len(labels))

    def evaluate(self) -> dict[str, float]:
        return classification_metrics(self.model, evaluation_batches(*self._test))

    def finish(self, folder: Path) -> None:
        if self._export:
            sizes = export(self.model, folder)
            ratio = sizes.dense / sizes.sparse
            print(f"{folder}: dense {sizes.dense:,} bytes, sparse {sizes.sparse:,} bytes, {ratio:.2f} times less")


def limited(images: Images, training: int | None, test: int | None) -> Images:
    """The first ``training`` and ``test`` images; None takes all."""
    return dataclasses.replace(
        images,
        train_images=images.train_images[:training],
        train_labels=images.train_labels[:training],
        test_images=images.test_images[:test],
        test_labels=images.test_labels[:test],
    )


def make_task(options: argparse.Namespace, device: torch.device, world: World) -> ImageTask:
    if world.size > 1:
        raise ValueError(f"this recipe trains in one process, and {world.size} were started: start it without torchrun")
    images = load_images(options.dataset, options.data_dir)
    return ImageTask(options, limited(images, options.train_images, options.test_images), device)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = make_parser("image", "Image classification with any algorithm of the four papers.", epochs="80,120,150")
    add = parser.add_argument_group("images").add_argument
    known = ", ".join(IMAGE_DATASETS)
    add("--dataset", default="mnist", metavar="NAME", help=f"{known}, or the name of an .npz in --data-dir")
    add("--model", default="lenet", metavar="MODEL", help=", ".join(MODELS))
    add("-b", "--batch-size", type=positive, default=128, help="default 128")
    add("--augment", action="store_true", help="crop and flip at random")
    add("--train-images", type=positive, metavar="N", help="only the first N")
    add("--test-images", type=positive, metavar="N", help="only the first N")
    add("--export", action="store_true", help="write the trained model dense and sparse, and say how large they are")
    options = parser.parse_args(arguments)
    if options.quick:
        if options.epochs == parser.get_default("epochs"):
            options.epochs = [2]
        options.train_images = min(options.train_images or _QUICK_IMAGES, _QUICK_IMAGES)
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    name = f"{options.dataset}-{options.model}-{options.algo}-seed{options.seed}"
    return run_recipe("image", options, name, make_task)
