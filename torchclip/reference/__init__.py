"""The pure-PyTorch path: every piece of maths in the form of its paper, functional, on any device.

Every backend is checked against it, and it is what runs where no kernel does. It shares no text with ``csrc`` and reads
no coefficients from ``torchclip.rule_specs``, so that a slip there cannot hide here.

``rules`` holds the update rules, ``policies`` the norms and step sizes, ``pipeline`` the order of the operations on a
gradient before a rule sees it, ``philox`` the random numbers, and ``step`` walks over the parameters.
"""

from torchclip.reference.rules import RULES, ReferenceRule
from torchclip.reference.step import StepReport, step

__all__ = ["RULES", "ReferenceRule", "StepReport", "step"]
