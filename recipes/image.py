"""``python -m recipes image``: image classification with any algorithm of the four papers.

The clipping paper's CIFAR-10 run, the collection's, and gRDA's::

    python -m recipes image --dataset cifar10 --augment --model "resnet(32,1)" --epochs 80,120,150 --wd 5e-4 \\
        --algo mix_clip --lr 1.0 --gamma 1.0 --momentum 0.999
    python -m recipes image --dataset cifar10 --model cnn --epochs 30 --schedule plateau --algo adam --lr-dropout 0.5
    python -m recipes image --dataset cifar10 --augment --model vgg16 --epochs 600 --algo grda --c 0.0005 --mu 0.51
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch

from recipes.classification import ClassificationTask, add_image_options
from recipes.command import lower, make_parser, run_recipe
from recipes.data.images import load_images
from recipes.models import MODELS, make_model
from recipes.world import World


def make_task(options: argparse.Namespace, device: torch.device, world: World) -> ClassificationTask:
    world.refuse_others()
    images = load_images(options.dataset, options.data_dir)
    return ClassificationTask(options, make_model(options.model, images.shape, images.classes), images, device)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = make_parser("image", "Image classification with any algorithm of the four papers.", epochs="80,120,150")
    add = add_image_options(parser, "mnist").add_argument
    add("--model", default="lenet", metavar="MODEL", help=MODELS)
    options = parser.parse_args(arguments)
    if options.quick:
        if options.epochs == parser.get_default("epochs"):
            options.epochs = [2]
        lower(options, train_images=4000)
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    name = f"{options.dataset}-{options.model}-{options.algo}-seed{options.seed}"
    return run_recipe("image", options, name, make_task)
