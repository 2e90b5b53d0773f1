"""What a row of the comparison is made of."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from torch.nn import Parameter

from bench.workload import GRADIENT_AMPLITUDE

Step = Callable[[], object]
Build = Callable[[Sequence[Parameter], float], Step]
"""From the parameters and the L2 norm ‖G‖ of the unscaled gradient over those same parameters: the call to be timed.

Thresholds are multiples of ‖G‖, so that the same build on a sample of the tensors takes exactly the steps that those
tensors take inside the whole set (bench/check.py relies on it).
"""

OURS = "ours"
AUTHORS = "authors"
TORCH_FORMS = ("loop", "foreach", "fused", "scaled", "compiled")  # of torch's own optimizers
PLAIN = "plain"  # ours too, without the feature that the row is about

# Large enough that parameters travel far beyond rounding within a run, small enough that they stay of order one
# to a hundred. All but AdamW's are per unit of gradient.
SGD_ARGUMENTS: Mapping[str, Any] = MappingProxyType({"lr": 1e-3 / GRADIENT_AMPLITUDE, "momentum": 0.9})
ADAMW_ARGUMENTS: Mapping[str, Any] = MappingProxyType({"lr": 1e-3, "betas": (0.9, 0.999), "weight_decay": 1e-2})


@dataclass(frozen=True)
class Algorithm:
    """One row of the comparison, on any set of shapes.

    Its results are checked either against one of the contenders, `reference`, which computes what all others compute,
    or each contender against a run of its own on the reference path, `yardsticks`.
    """

    name: str
    title: str
    words: float  # 4-byte words per parameter that a fused step cannot avoid moving; a mean over `cycle`
    state_words: int  # per parameter, for the memory estimate
    contenders: Mapping[str, Build]  # ours first
    reference: str | None = None
    yardsticks: Mapping[str, Build] = field(default_factory=lambda: MappingProxyType({}))  # by contender, ours first
    different: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Contenders that compute something else than the reference, and what: only their time is of interest."""
    checked_alone: bool = False
    """Ours is run on the sample alone to be checked, since inside the whole set it does something else to it."""
    cycle: int = 1  # steps after which the work repeats: a sample is the mean over so many

    def __post_init__(self) -> None:
        if (self.reference is None) != bool(self.yardsticks):
            raise ValueError(f"{self.name} needs either a contender as reference or yardsticks")
        if self.reference == OURS:
            raise ValueError(f"{self.name}: the reference must be a competitor, not ours")

    @property
    def bytes_per_element(self) -> float:
        return 4 * self.words
