"""The one error of this package, so that a command line can print it as a sentence instead of a traceback."""

from __future__ import annotations


class RecipeDataError(RuntimeError):
    """A data set is missing, damaged, or in a form that the recipes do not read; the message says what to do."""
