"""Folders of small pictures whose class is their colour, for the tests of recipes that read images from disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("cat", "dog", "eel")


def write_pictures(root: Path, train: int = 8, val: int = 3) -> Path:
    """``train`` and ``val`` pictures a class, of many sizes; returns ``root``."""
    random = np.random.default_rng(0)
    for part, count in (("train", train), ("val", val)):
        for channel, name in enumerate(CLASSES):
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                height, width = random.integers(20, 60, 2)
                pixels = random.integers(0, 120, (height, width, 3))
                pixels[..., channel] += 130
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    return root
