"""Models to fine-tune: timm's with their weights, or the papers' own with those of an earlier run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from recipes.data.errors import RecipeDataError
from recipes.models import MODELS, make_model
from recipes.packages import TIMM, MissingPackageError, package

_OURS = 'a model of recipes.models, as --model "resnet(8,1)", needs nothing but torch'


@dataclass(frozen=True)
class Pretrained:
    """A model and the images that it wants."""

    model: nn.Module
    size: int | None  # side of its square images; None: as they come
    mean: Tensor | None  # [channels], of pixels in [0, 1]; None: the data set's own
    std: Tensor | None  # [channels]


def timm_model(name: str, classes: int, pretrained: bool, image_size: int | None) -> Pretrained:
    """A model of timm with a new last layer of ``classes``, and its own image size unless one is given.

    Raises:
        MissingPackageError: timm does not import.
        ValueError: timm has no such model.
        RecipeDataError: its weights cannot be had.
    """
    try:
        timm = package("timm", TIMM)
    except MissingPackageError as error:
        raise MissingPackageError(f"--model {name} is of timm, and {error}; {_OURS}") from error
    if not timm.is_model(name):
        raise ValueError(f"--model {name}: timm has no such model, nor is it one of {'; '.join(MODELS.values())}")

    def create(**others: Any) -> nn.Module:
        try:
            model: nn.Module = timm.create_model(name, pretrained=pretrained, num_classes=classes, **others)
        except Exception as error:  # the download's errors have no base in common
            if not pretrained:
                raise
            raise RecipeDataError(
                f"the pretrained weights of {name} could not be had ({type(error).__name__}: {error}): put them into "
                "Hugging Face's cache (HF_HOME), give their file by --weights, or start at random by --no-pretrained"
            ) from error
        return model

    model = create()
    wanted: dict[str, Any] = model.default_cfg  # type: ignore[assignment]
    size = image_size or wanted["input_size"][-1]
    if size != wanted["input_size"][-1] and wanted.get("fixed_input_size"):
        model = create(img_size=size)
    return Pretrained(model, size, torch.tensor(wanted["mean"]), torch.tensor(wanted["std"]))


def own_model(name: str, shape: tuple[int, int, int], classes: int, image_size: int | None) -> Pretrained:
    """A model of recipes.models, with random weights. Raises ValueError for an impossible name or shape."""
    if image_size is not None:
        shape = shape[0], image_size, image_size
    return Pretrained(make_model(name, shape, classes), image_size, None, None)


def load_weights(model: nn.Module, path: Path, name: str) -> None:
    """Loads a recipe's checkpoint or a bare ``state_dict``; a last layer of other classes stays as it is, at random.

    Args:
        path: written by torch.save, or a .safetensors.
        name: of the model.

    Raises:
        RecipeDataError: no such file, one that cannot be read, or one of another model.
    """
    state = _read_weights(path)
    if "model" in state and "arguments" in state:
        written = state["arguments"].get("model", name)
        if written != name:
            raise RecipeDataError(f"{path} has the weights of --model {written!r}, and this is {name!r}: give that one")
        state = state["model"]
    own = model.state_dict()
    last = [layer for layer, module in model.named_modules() if isinstance(module, nn.Linear)][-1:]
    for key in state.keys() & own.keys():
        if key.rpartition(".")[0] in last and _shape(state, key) != _shape(own, key):
            state = {**state, key: own[key]}
    wrong = sorted(key for key in state.keys() | own.keys() if _shape(state, key) != _shape(own, key))
    if wrong:
        told = f"{_shape(state, wrong[0])} in the file and {_shape(own, wrong[0])} in the model"
        raise RecipeDataError(
            f"{path} has not the weights of {name}: the shape of {wrong[0]} is {told}, and {len(wrong)} differ in all"
        )
    model.load_state_dict(state)


def _shape(state: dict[str, Any], key: str) -> list[int] | None:
    value = state.get(key)
    return list(value.shape) if isinstance(value, Tensor) else None


def _read_weights(path: Path) -> dict[str, Any]:
    try:
        if path.suffix == ".safetensors":
            found: dict[str, Any] = package("safetensors.torch", "pip install safetensors").load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except MissingPackageError:
        raise
    except Exception as error:  # of the file system, of zip, of the unpickler
        raise RecipeDataError(f"--weights {path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise RecipeDataError(f"--weights {path} holds a {type(found).__name__}, expected a checkpoint or a state_dict")
    return found
