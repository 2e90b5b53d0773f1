"""``python -m recipes finetune``: a pretrained model on another data set, AdaLoss beside its baselines.

Wu, Xie, Du, Ward (AAAI 2022, arXiv 2109.08282), fine-tuning on CIFAR-100; ``python -m recipes compare adaloss`` runs
it over a grid of b0::

    python -m recipes finetune --model vit_small_patch16_224 --algo adaloss --b0 1
    python -m recipes finetune --model resnet50.fb_swsl_ig1b_ft_in1k --algo adagrad_norm --b0 1

Without timm, a model of ``python -m recipes image`` from that recipe's checkpoint::

    python -m recipes image --dataset fashion_mnist --model lenet --epochs 5 --result-dir results/before
    python -m recipes finetune --dataset mnist --model lenet --weights results/before/checkpoint.pt
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from recipes.algorithms import ALGORITHMS
from recipes.classification import Batch, ClassificationTask, add_image_options, classification_metrics, limited
from recipes.command import lower, make_parser, positive, run_recipe
from recipes.data.batches import ImageBatches, evaluation_batches
from recipes.data.images import Images, load_images
from recipes.models import is_model
from recipes.pretrained import Pretrained, load_weights, own_model, timm_model
from recipes.world import World


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """The training images in two parts."""

    images: Images  # without those held out
    valid_images: Tensor  # uint8 [n, channels, height, width]
    valid_labels: Tensor  # int64 [n]


def hold_out(images: Images, count: int) -> HeldOut:
    """The last ``count`` training images are kept from training. Raises ValueError when that leaves none."""
    kept = len(images.train_images) - count
    if count < 0 or kept < 1:
        raise ValueError(f"--validation {count} of {len(images.train_images)} training images: wanted fewer than all")
    return HeldOut(limited(images, kept, None), images.train_images[kept:], images.train_labels[kept:])


def with_channels(images: Images, channels: int) -> Images:
    """Grey images as colour images, where ``channels`` is 3. Raises ValueError for other ways to differ."""
    has = images.shape[0]
    if has == channels:
        return images
    if has != 1:
        raise ValueError(f"{images.name} has images of {has} channels, and the model wants {channels}")
    train, test = (part.expand(-1, channels, -1, -1) for part in (images.train_images, images.test_images))
    return dataclasses.replace(images, train_images=train, test_images=test)


class FinetuneTask(ClassificationTask):
    """Cross-entropy on images of the size and the moments that the model was trained with."""

    def __init__(self, options: argparse.Namespace, held_out: HeldOut, start: Pretrained, device: torch.device) -> None:
        images = held_out.images
        mean, std = (start.mean, start.std) if start.mean is not None and start.std is not None else images.moments()
        batch = options.batch_size
        training = ImageBatches(
            images.train_images, images.train_labels, batch, options.seed, mean, std, options.augment, device
        )
        super().__init__(start.model.to(device), training)
        self._size = start.size
        self._test = (images.test_images, images.test_labels, batch, mean, std, device)
        self._valid = (held_out.valid_images, held_out.valid_labels, batch, mean, std, device)

    def _resized(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        for images, labels in batches:
            if self._size is not None and images.shape[2:] != (self._size, self._size):
                images = interpolate(images, (self._size, self._size), mode="bilinear", antialias=True)
            yield images, labels

    def batches(self, epoch: int, start: int) -> Iterator[Batch]:
        return self._resized(super().batches(epoch, start))

    def evaluate(self) -> dict[str, float]:
        metrics: dict[str, float] = {}
        if len(self._valid[0]):
            metrics |= classification_metrics(self.model, self._resized(evaluation_batches(*self._valid)), "valid")
        return metrics | classification_metrics(self.model, self._resized(evaluation_batches(*self._test)))


def make_task(options: argparse.Namespace, device: torch.device, world: World) -> FinetuneTask:
    world.refuse_others()
    held_out = hold_out(load_images(options.dataset, options.data_dir), options.validation)
    images = limited(held_out.images, options.train_images, options.test_images)
    if is_model(options.model):
        start = own_model(options.model, images.shape, images.classes, options.image_size)
        if options.weights is None and not options.quiet:
            print(f"{options.model} starts from random weights: --weights FILE starts from a checkpoint")
    else:
        pretrained = options.pretrained and options.weights is None
        start = timm_model(options.model, images.classes, pretrained, options.image_size)
        images = with_channels(images, len(start.mean) if start.mean is not None else images.shape[0])
    if options.weights is not None:
        load_weights(start.model, options.weights, options.model)
    valid = held_out.valid_images.expand(-1, images.shape[0], -1, -1)
    held_out = HeldOut(images, valid[: options.valid_images], held_out.valid_labels[: options.valid_images])
    return FinetuneTask(options, held_out, start, device)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = make_parser("finetune", "A pretrained model on another data set.", epochs="10", algo="adaloss")
    add = add_image_options(parser, "cifar100").add_argument
    add("--validation", type=int, default=5000, metavar="N", help="training images held out (default the last 5000)")
    add("--image-size", type=positive, metavar="SIDE", help="images are resized to it (default: what the model wants)")
    add = parser.add_argument_group("model").add_argument
    add("--model", default="vit_small_patch16_224", help="of timm, or of `python -m recipes image`")
    add("--pretrained", action=argparse.BooleanOptionalAction, default=True, help="timm's weights; default yes")
    add("--weights", type=Path, metavar="FILE", help="start from a recipe's checkpoint, or a state_dict")
    options = parser.parse_args(arguments)
    algorithm = ALGORITHMS[options.algo]
    if options.lr is None and "b0" in algorithm.options:
        options.lr = 0.1
    if options.weight_decay is None and "weight_decay" in algorithm.options:
        options.weight_decay = 1e-4
    options.valid_images = None
    if options.quick:
        options.epochs = [1]
        lower(options, train_images=256, valid_images=100, test_images=100)
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    name = f"{options.dataset}-{options.model}-{options.algo}-b0={options.b0 or 1}-seed{options.seed}"
    return run_recipe("finetune", options, name, make_task)
