"""The optimizers: a signature, a docstring with the equation, and the update rule behind it."""

from torchclip.optimizers.adaloss import AdaGradNorm, AdaLoss
from torchclip.optimizers.adam import Adam, AdamW
from torchclip.optimizers.adam_variants import NAdam, RAdam, RAdamW
from torchclip.optimizers.bregman import AdaBreg, LinBreg
from torchclip.optimizers.clipping import MixClip, MomClip, SGDClip
from torchclip.optimizers.grda import GRDA, gRDA
from torchclip.optimizers.lion import Lion
from torchclip.optimizers.normalized_sgd import NormalizedSGD
from torchclip.optimizers.root_mean_square import Adagrad, RMSprop
from torchclip.optimizers.sgd import SGD, SGDW

__all__ = [
    "GRDA",
    "SGD",
    "SGDW",
    "AdaBreg",
    "AdaGradNorm",
    "AdaLoss",
    "Adagrad",
    "Adam",
    "AdamW",
    "LinBreg",
    "Lion",
    "MixClip",
    "MomClip",
    "NAdam",
    "NormalizedSGD",
    "RAdam",
    "RAdamW",
    "RMSprop",
    "SGDClip",
    "gRDA",
]
