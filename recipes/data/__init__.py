"""What the recipes train on: images and running text, from files or by libraries that only some recipes need."""

from importlib import import_module
from types import ModuleType

# They import only beside the torch that they were built for, so pip must be told of both.
TIMM = "pip install timm, with a torchvision that fits torch"
TORCHVISION = "pip install a torchvision that fits torch"


class RecipeDataError(RuntimeError):
    """A data set is missing, damaged, or in a form that the recipes do not read; the message says what to do."""


def package(name: str, remedy: str) -> ModuleType:
    """The module. Raises RecipeDataError with the remedy where it is missing, or fails on import."""
    try:
        return import_module(name)
    except Exception as error:  # a torchvision built for another torch raises RuntimeError, and others what they like
        raise RecipeDataError(f"{name} does not import ({error}): {remedy}") from error
