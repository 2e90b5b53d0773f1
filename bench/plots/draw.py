"""The figures of a run, whatever its command."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from bench.plots.kernels import draw_kernels
from bench.plots.scaling import draw_scaling
from bench.plots.steps import draw_steps
from bench.plots.style import Entry
from bench.plots.train import draw_train

_DRAW: Mapping[str, Callable[[Entry, Path, str], list[Path]]] = MappingProxyType(
    {"step": draw_steps, "kernels": draw_kernels, "scaling": draw_scaling, "train": draw_train}
)


def draw(document: Entry, folder: Path, stem: str) -> list[Path]:
    """Draws what the document has into the folder, and says what it wrote.

    Raises:
        ValueError: when there is nothing in it to draw.
    """
    if document["command"] not in _DRAW or not document["rows"]:
        raise ValueError(f"{stem} has nothing to draw")
    return _DRAW[document["command"]](document, folder, stem)
