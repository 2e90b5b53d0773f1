"""Drop-in ``torch.optim`` optimizers whose whole step, gradient clipping included, is one fused pass pair."""

from torchclip import optim
from torchclip.clip import ClipByGlobalNorm, ClipByTensorNorm, ClipByValue
from torchclip.clip_grad import clip_grad_norm_, get_total_norm
from torchclip.optimizers import (
    GRDA,
    SGD,
    SGDW,
    Adagrad,
    Adam,
    AdamW,
    MixClip,
    MomClip,
    NAdam,
    NormalizedSGD,
    RAdam,
    RAdamW,
    RMSprop,
    SGDClip,
    gRDA,
)
from torchclip.param_groups import param_groups_per_layer, param_groups_weight_decay

__version__ = "0.1.0"

__all__ = [
    "GRDA",
    "SGD",
    "SGDW",
    "Adagrad",
    "Adam",
    "AdamW",
    "ClipByGlobalNorm",
    "ClipByTensorNorm",
    "ClipByValue",
    "MixClip",
    "MomClip",
    "NAdam",
    "NormalizedSGD",
    "RAdam",
    "RAdamW",
    "RMSprop",
    "SGDClip",
    "clip_grad_norm_",
    "gRDA",
    "get_total_norm",
    "optim",
    "param_groups_per_layer",
    "param_groups_weight_decay",
]
