"""The pure-PyTorch path: every piece of maths in the form of its paper, functional, on any device.

Every backend is checked against it, and it is what runs where no kernel does. It shares no text with ``csrc``, so that
a slip there cannot hide here.

``rules`` and ``moment_rules`` hold the update rules, ``policies`` and ``adaptive`` the norms, factors and step sizes,
``pipeline`` the order of the operations on one tensor, ``philox`` and ``draws`` the random numbers. ``step`` walks over
the parameters of a ``run``; ``measure`` does before, and ``report`` tells of it afterwards.
"""

from torchclip.backends.reference.report import StepReport
from torchclip.backends.reference.rule import ReferenceRule
from torchclip.backends.reference.rules import RULES
from torchclip.backends.reference.step import step

__all__ = ["RULES", "ReferenceRule", "StepReport", "step"]
