"""The pure-PyTorch path: every piece of maths in the form of its paper, functional, on any device.

Every backend is checked against it, and it is what runs where no kernel does. It shares no text with ``csrc``, so that
a slip there cannot hide here.

The update rules are in ``torchclip.rules``; ``policies`` and ``adaptive`` have the norms and factors, ``pipeline`` the
order of the operations on one tensor, ``philox`` and ``draws`` the random numbers. ``step`` walks over the parameters
of a ``run``; ``measure`` and ``directions`` do before, and ``report`` tells of it afterwards.
"""

from torchclip.backends.reference.report import StepReport
from torchclip.backends.reference.step import step

__all__ = ["StepReport", "step"]
