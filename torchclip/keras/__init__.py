"""Optimizers for Keras 3, on TensorFlow, JAX and torch: ``pip install 'torchclip[keras]'`` and one of the backends.

It imports Keras, and nothing else of the package imports it.
"""

from torchclip.keras.grda import GRDA

__all__ = ["GRDA"]
