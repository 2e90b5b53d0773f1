"""Drop-in ``torch.optim`` optimizers whose whole step, gradient clipping included, is one fused pass pair."""

from torchclip import optim, optimizers
from torchclip.backends.choice import Backend
from torchclip.clip_grad import clip_grad_norm_, get_total_norm
from torchclip.create import create_optimizer
from torchclip.optimizers import *  # noqa: F403  a new class is listed in one place
from torchclip.param_groups import param_groups_per_layer, param_groups_weight_decay
from torchclip.policies.clip import (
    AdaGC,
    AdaptiveGradientClip,
    AutoClip,
    ClipByGlobalNorm,
    ClipByTensorNorm,
    ClipByValue,
    ClipPolicy,
    NonFinite,
    Scope,
    ZClip,
)
from torchclip.policies.extensions import (
    Extension,
    GradientDropout,
    GradientNoise,
    Lookahead,
    LRDropout,
    WeightEMA,
)
from torchclip.policies.precision import (
    Blockwise8bit,
    MasterWeights,
    Precision,
    SplitMaster,
    StateDtype,
    StochasticRounding,
)
from torchclip.policies.skip import SkipSpikes
from torchclip.policies.step_size import AdaLossStep, PolyakStep, SqrtDecay, SqrtDecayLR, StepSize
from torchclip.step.fused_optimizer import FusedOptimizer

__version__ = "0.1.0"

__all__ = [
    "AdaGC",
    "AdaLossStep",
    "AdaptiveGradientClip",
    "AutoClip",
    "Backend",
    "Blockwise8bit",
    "ClipByGlobalNorm",
    "ClipByTensorNorm",
    "ClipByValue",
    "ClipPolicy",
    "Extension",
    "FusedOptimizer",
    "GradientDropout",
    "GradientNoise",
    "LRDropout",
    "Lookahead",
    "MasterWeights",
    "NonFinite",
    "PolyakStep",
    "Precision",
    "Scope",
    "SkipSpikes",
    "SplitMaster",
    "SqrtDecay",
    "SqrtDecayLR",
    "StateDtype",
    "StepSize",
    "StochasticRounding",
    "WeightEMA",
    "ZClip",
    "clip_grad_norm_",
    "create_optimizer",
    "get_total_norm",
    "optim",
    "param_groups_per_layer",
    "param_groups_weight_decay",
]
__all__ += optimizers.__all__


def __dir__() -> list[str]:
    return sorted(__all__)
