"""``python -m recipes finetune``: a pretrained model on another data set, AdaLoss beside its baselines.

Wu, Xie, Du, Ward (AAAI 2022, arXiv 2109.08282), fine-tuning on CIFAR-100; ``python -m recipes compare adaloss`` runs
it over a grid of b0::

    python -m recipes finetune --model vit_small_patch16_224 --algo adaloss --b0 1
    python -m recipes finetune --model resnet50.fb_swsl_ig1b_ft_in1k --algo adagrad_norm --b0 1

Without timm, a model of ``python -m recipes image`` from that recipe's checkpoint::

    python -m recipes image --dataset fashion_mnist --model lenet --epochs 5 --result-dir results/before
    python -m recipes finetune --dataset mnist --model lenet --weights results/before/checkpoint.pt
"""

import argparse
import pickle
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from recipes.algorithms import options_of
from recipes.command import lower, make_parser, run_recipe
from recipes.data import TIMM, RecipeDataError, package
from recipes.data.images import load_images
from recipes.image import ClassificationTask, add_image_options
from recipes.models.images import MODELS, check_model, is_model, make_model


def timm_with(name: str) -> ModuleType:
    """timm. Raises ValueError where it has no such model, RecipeDataError where it does not import."""
    timm = package("timm", f'{TIMM}; a model of `python -m recipes image`, as "resnet(8,1)", needs nothing but torch')
    if not timm.is_model(name):
        raise ValueError(f"--model {name}: timm has no such model, nor is it one of {MODELS}")
    return timm


def timm_model(options: argparse.Namespace, classes: int) -> nn.Module:
    """A model of timm with a new last layer of ``classes``, its weights from the hub or at random.

    Raises RecipeDataError where its weights cannot be had.
    """
    name, timm = options.model, timm_with(options.model)
    pretrained = options.pretrained and options.weights is None
    try:
        model: nn.Module = timm.create_model(name, pretrained=pretrained, num_classes=classes)
    except Exception as error:  # the download's errors have no base in common
        if not pretrained:
            raise
        raise RecipeDataError(
            f"the pretrained weights of {name} could not be had ({type(error).__name__}: {error}): put them into "
            "Hugging Face's cache (HF_HOME), give their file by --weights, or start at random by --no-pretrained"
        ) from error
    return model


def load_weights(model: nn.Module, path: Path) -> None:
    """Loads a recipe's checkpoint or a bare ``state_dict``; a last layer of other classes stays as it is, at random."""
    try:
        if path.suffix == ".safetensors":
            state = package("safetensors.torch", "pip install safetensors").load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
        state = state.get("model", state)
        last = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)][-1:]
        own = {key: value for key, value in model.state_dict().items() if key.rpartition(".")[0] in last}
        other = {key: value for key, value in own.items() if key in state and len(state[key]) != len(value)}
        model.load_state_dict({**state, **other})
    except (OSError, EOFError, RuntimeError, AttributeError, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split())
        raise RecipeDataError(f"--weights {path} are not those of this model, or cannot be read: {reason}") from error


def make_task(options: argparse.Namespace, device: torch.device) -> ClassificationTask:
    check_model(options.model) if is_model(options.model) else timm_with(options.model)
    images = load_images(options.dataset, options.data_dir)
    kept = len(images.train_images) - options.validation
    if options.validation < 0 or kept < 1:
        raise ValueError(f"--validation {options.validation} of {len(images.train_images)} training images: too many")
    moments = size = None
    if is_model(options.model):
        model = make_model(options.model, images.shape, images.classes)
        if options.weights is None and not options.quiet:
            print(f"{options.model} starts from random weights: --weights FILE starts from a checkpoint")
    else:
        model = timm_model(options, images.classes)
        wanted: dict[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
        moments = torch.tensor(wanted["mean"]), torch.tensor(wanted["std"])
        size = wanted["input_size"][-1]
    if options.weights is not None:
        load_weights(model, options.weights)
    task = ClassificationTask(options, model, images.first(kept, None), device, moments, options.batch_size, size)
    if options.validation:
        most = 100 if options.quick else None
        valid = images.train_images[kept:][:most], images.train_labels[kept:][:most]
        task.held_out = {"valid": valid, **task.held_out}
    return task


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = make_parser("finetune", "A pretrained model on another data set.", epochs="10", algo="adaloss")
    add = add_image_options(parser, "cifar100").add_argument
    add("--validation", type=int, default=5000, metavar="N", help="training images held out (default the last 5000)")
    add = parser.add_argument_group("model").add_argument
    add("--model", default="vit_small_patch16_224", help="of timm, or of `python -m recipes image`")
    add("--pretrained", action=argparse.BooleanOptionalAction, default=True, help="timm's weights; default yes")
    add("--weights", type=Path, metavar="FILE", help="start from a recipe's checkpoint, or a state_dict")
    options = parser.parse_args(arguments)
    if options.lr is None and "b0" in options_of(options.algo):
        options.lr = 0.1
    if options.weight_decay is None and "weight_decay" in options_of(options.algo):
        options.weight_decay = 1e-4
    if options.quick:
        options.epochs = [1]
        lower(options, train_images=256, test_images=100)
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    name = f"{options.dataset}-{options.model}-{options.algo}-b0={options.b0 or 1}-seed{options.seed}"
    return run_recipe("finetune", options, name, make_task)


if __name__ == "__main__":
    sys.exit(main())
