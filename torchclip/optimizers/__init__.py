"""The optimizers: a signature, a docstring with the equation, and the update rule behind it."""

from torchclip.optimizers.adam import Adam, AdamW
from torchclip.optimizers.clipping import MixClip, MomClip, NormalizedSGD, SGDClip
from torchclip.optimizers.grda import GRDA, gRDA
from torchclip.optimizers.sgd import SGD, SGDW

__all__ = ["GRDA", "SGD", "SGDW", "Adam", "AdamW", "MixClip", "MomClip", "NormalizedSGD", "SGDClip", "gRDA"]
