"""What the recipes train on: images and running text, from files or by torchvision."""

from __future__ import annotations


class RecipeDataError(RuntimeError):
    """A data set is missing, damaged, or in a form that the recipes do not read; the message says what to do."""
