"""``python -m recipes image``: image classification with any algorithm of the four papers.

What other recipes that classify share with it is here too: the task, its options and its metrics.

The clipping paper's CIFAR-10 run, the collection's, and gRDA's::

    python -m recipes image --dataset cifar10 --augment --model "resnet(32,1)" --epochs 80,120,150 --wd 5e-4 \\
        --algo mix_clip --lr 1.0 --gamma 1.0 --momentum 0.999
    python -m recipes image --dataset cifar10 --model cnn --epochs 30 --schedule plateau --algo adam --lr-dropout 0.5
    python -m recipes image --dataset cifar10 --augment --model vgg16 --epochs 600 --algo grda --c 0.0005 --mu 0.51

By several processes that share the parameters, with the results of one but for rounding::

    torchrun --nproc-per-node 2 -m recipes image --fsdp --algo adamw --lr 0.001 --clip 1.0
    torchrun --nproc-per-node 2 -m recipes image --tp --algo adamw --lr 0.001 --clip 1.0
"""

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

from recipes.command import lower, make_parser, positive, run_recipe
from recipes.data.images import IMAGE_DATASETS, ImageBatches, Images, evaluation_batches, load_images
from recipes.models.images import MODELS, check_model, make_model
from recipes.training import Task
from recipes.world import World

Batch = tuple[Tensor, Tensor]  # float32 [batch, channels, height, width], int64 [batch]


@torch.no_grad()
def classification_metrics(
    model: nn.Module,
    batches: Iterable[Batch],
    part: str = "test",
    top: tuple[int, ...] = (1,),
    world: World | None = None,
) -> dict[str, float]:
    """The mean loss and the accuracies over the batches of all processes: test_loss, test_accuracy, test_accuracy5.

    An accuracy counts a label among the k likeliest classes, of each k in ``top``; the first has no number.
    """
    model.eval()
    sums = torch.zeros(2 + len(top), dtype=torch.float64, device=next(model.parameters(), torch.empty(0)).device)
    for images, labels in batches:
        outputs = model(images)
        likeliest = outputs.topk(min(max(top), outputs.shape[1]), dim=1).indices == labels[:, None]
        sums[0] += cross_entropy(outputs, labels, reduction="sum")
        sums[1] += len(labels)
        for index, k in enumerate(top):
            sums[2 + index] += likeliest[:, :k].sum()
    loss, count, *correct = (world or World()).sum(sums).tolist()
    named = {f"{part}_accuracy{'' if k == top[0] else k}": right / count for k, right in zip(top, correct, strict=True)}
    return {f"{part}_loss": loss / count, **named}


class ClassificationTask(Task):
    """Cross-entropy on normalised images, in batches whose order and crops the seed alone decides.

    Pixels in [0, 1] are normalised by ``moments``, mean and standard deviation, [channels] each; by default those of
    the training images. Square images are resized to ``size`` where it is given.
    """

    def __init__(
        self,
        options: argparse.Namespace,
        model: nn.Module,
        images: Images,
        device: torch.device,
        moments: tuple[Tensor, Tensor] | None = None,
        evaluation_batch: int = 500,
        size: int | None = None,
    ) -> None:
        self.model = model.to(device)
        self._size, self._device = size, device
        images = images.first(options.train_images, options.test_images)
        training, moments = (images.train_images, images.train_labels), moments or images.moments()
        self._training = ImageBatches(*training, options.batch_size, options.seed, *moments, options.augment, device)
        self._evaluation = (evaluation_batch, *moments, device)
        self.held_out = {"test": (images.test_images, images.test_labels)}

    def _resized(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        for images, labels in batches:
            if self._size is not None and images.shape[2:] != (self._size, self._size):
                images = interpolate(images, (self._size, self._size), mode="bilinear", antialias=True)
            yield images, labels

    def steps(self, epoch: int) -> int:
        return len(self._training)

    def batches(self, epoch: int, start: int) -> Iterator[Batch]:
        return self._resized(self._training.batch(epoch, step) for step in range(start, len(self._training)))

    def evaluate(self) -> dict[str, float]:
        metrics: dict[str, float] = {}
        for part, (images, labels) in self.held_out.items():
            batches = self._resized(evaluation_batches(images, labels, *self._evaluation))
            metrics |= classification_metrics(self.model, batches, part)
        return metrics


def add_image_options(parser: argparse.ArgumentParser, dataset: str) -> argparse._ArgumentGroup:
    """``--dataset`` with its default, the batches' options and the limits; returns their group, for more of them."""
    group = parser.add_argument_group("images")
    add = group.add_argument
    known = ", ".join(IMAGE_DATASETS)
    add("--dataset", default=dataset, metavar="NAME", help=f"{known}, or the name of an .npz in --data-dir")
    add("-b", "--batch-size", type=positive, default=128, help="default 128")
    add("--augment", action="store_true", help="crop and flip at random")
    add("--train-images", type=positive, metavar="N", help="only the first N")
    add("--test-images", type=positive, metavar="N", help="only the first N")
    return group


def make_task(options: argparse.Namespace, device: torch.device) -> ClassificationTask:
    check_model(options.model)
    if (options.fsdp or options.tp) and World.join(device).size == 1:
        raise ValueError("--fsdp and --tp are for several processes: torchrun --nproc-per-node 2 -m recipes image")
    images = load_images(options.dataset, options.data_dir)
    model = make_model(options.model, images.shape, images.classes)
    if options.fsdp or options.tp:
        from recipes.sharded import ShardedClassification  # which needs torch.distributed

        return ShardedClassification(options, model, images, device)
    return ClassificationTask(options, model, images, device)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = make_parser("image", "Image classification with any algorithm of the four papers.", epochs="80,120,150")
    add = add_image_options(parser, "mnist").add_argument
    add("--model", default="lenet", metavar="MODEL", help=MODELS)
    shared = parser.add_argument_group("several processes, as torchrun starts them").add_mutually_exclusive_group()
    shared.add_argument("--fsdp", action="store_true", help="FSDP2: each has a part of every tensor, and of the batch")
    shared.add_argument("--tp", action="store_true", help="tensor parallelism: each has a part of every linear layer")
    options = parser.parse_args(arguments)
    if options.quick:
        if options.epochs == parser.get_default("epochs"):
            options.epochs = [2]
        lower(options, train_images=4000)
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    name = f"{options.dataset}-{options.model}-{options.algo}-seed{options.seed}"
    return run_recipe("image", options, name, make_task, distributed=options.fsdp or options.tp)


if __name__ == "__main__":
    sys.exit(main())
