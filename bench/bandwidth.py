"""What the memory can do right now: copy and in-place triad, taking their turns between the competitors.

The triad a ← a + s·b is the yardstick for a step: it reads two words, writes one of the two it has read, and so
knows no write-allocate traffic, like an update that writes only what it has read. The copy a ← b is reported beside
it by its two words, although a processor may read the line of a before it writes it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from bench.measure import Timed

TRIAD = "triad"
COPY = "copy"
WORDS: Mapping[str, int] = {TRIAD: 3, COPY: 2}

_FALLBACK_CACHE_BYTES = 32 << 20
_CACHE_MULTIPLE = 4  # each array, so that the last-level cache holds less than an eighth of what a sweep touches
_MIN_ARRAY_BYTES = 64 << 20
_CUDA_ARRAY_BYTES = 1 << 30  # a copy takes about a millisecond, beside which its launch is nothing


def last_level_cache_bytes(device: torch.device) -> int:
    """Size of a GPU's cache, else of the largest cache of processor 0, or 32 MiB where Linux does not say."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).L2_cache_size)
    sizes = []
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text().strip()
        unit = {"K": 1 << 10, "M": 1 << 20}.get(text[-1:], 0)
        if unit and text[:-1].isdigit():
            sizes.append(int(text[:-1]) * unit)
    return max(sizes, default=_FALLBACK_CACHE_BYTES)


class BandwidthProbe:
    """Two arrays larger than the last-level cache, and the operations over them."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        least = _CUDA_ARRAY_BYTES if device.type == "cuda" else _MIN_ARRAY_BYTES
        self.elements = max(least, _CACHE_MULTIPLE * last_level_cache_bytes(device)) // 4
        self._a = torch.ones(self.elements, device=device)
        self._b = torch.ones(self.elements, device=device)

    def bytes_moved(self, name: str) -> int:
        return 4 * WORDS[name] * self.elements

    def sweep(self) -> None:
        """Leaves none of the caches with what was in them."""
        self._a.add_(1e-6)

    def write(self) -> None:
        """Writes 64 MB, as the forward and backward pass of a small model do before its step."""
        self._a[: _MIN_ARRAY_BYTES // 4].fill_(1.0)

    def entries(self) -> Sequence[Timed]:
        return (
            Timed(TRIAD, lambda index: None, lambda: self._a.add_(self._b, alpha=1e-6)),
            Timed(COPY, lambda index: None, lambda: self._a.copy_(self._b)),
        )
