"""What the sessions of ``test_fuzz`` are drawn from."""

from __future__ import annotations

import math
from typing import Any

import torch
from hypothesis import strategies as st
from torch.nn import Parameter

from memory_watch import Leaf, Place
from records import DTYPES, EXTENSIONS, NO_CLIP, NO_STEP_SIZE, POLICIES, STEP_SIZES, Case, Clip, Extras, Pace
from rule_records import Rule
from torchclip import (
    AdaLoss,
    AdaptiveGradientClip,
    AutoClip,
    ClipByGlobalNorm,
    ClipByTensorNorm,
    ClipByValue,
    PolyakStep,
    ZClip,
)
from torchclip.policies.modifiers import Modifiers

MOST = 8
"""Parameters of a session."""

SHAPES = ((4, 5), (17,), (2, 3, 3), (), (0,), (5, 1), (300,), (2, 3, 4, 3), (1, 6, 1), (3, 0))
CLIPS = (
    NO_CLIP,
    *POLICIES,
    Clip("tensor_norm_skip", ClipByTensorNorm(1.0, nonfinite="skip")),
    Clip("adaptive_skip", AdaptiveGradientClip(0.3, nonfinite="skip")),
    Clip("auto_skip", AutoClip(40.0, window=3, nonfinite="skip")),
    Clip("z_error", ZClip(alpha=0.7, z_threshold=1.0, warmup_steps=2, nonfinite="error")),
    Clip("group_norm_skip", ClipByGlobalNorm(3.0, scope="group", nonfinite="skip")),
)

WRITES: tuple[tuple[str, Any], ...] = (
    *(("lr", value) for value in (0.3, 0.0, 0.05)),
    *(("momentum", value) for value in (0.0, 0.5, 0.9)),
    *(("betas", value) for value in ((0.5, 0.8), (0.0, 0.9), (0.9, 0.999))),
    *(("weight_decay", value) for value in (0.0, 0.2)),
    *((flag, value) for flag in ("maximize", "decoupled_weight_decay", "amsgrad", "smooth") for value in (True, False)),
    *(("nesterov", True), ("dampening", 0.3), ("eps", 0.1), ("alpha", 0.5), ("lr_decay", 0.2), ("centered", True)),
    *(("gamma", 2.0), ("nu", 0.2), ("c", 1.0), ("mu", 0.6), ("momentum_decay", 0.1), ("b0", 2.0)),
)
"""What schedulers and users write into a param group that has such a key."""

NONSENSE: tuple[tuple[str, Any], ...] = (
    *(("lr", value) for value in ((0.1, 0.2), [0.1], (), "1e-3", -0.1, math.nan, math.inf, None)),
    *(("betas", value) for value in ((0.9,), (0.9, 0.99, 0.999), (), 0.9, (1.0, 0.99), ("0.9", "0.99"), None)),
    *((key, value) for key in ("momentum", "weight_decay", "eps", "alpha") for value in ((0.9, 0.5), "0.1", -1.0)),
    *((flag, "False") for flag in ("maximize", "nesterov", "amsgrad", "centered", "smooth")),
    *((key, (0.5, 0.5)) for key in ("dampening", "gamma", "nu", "c", "mu", "momentum_decay", "lr_decay")),
)
"""What no step takes from such a key: other numbers of values, other types, out of range."""

FOREIGN = ("exp_avg", "prev")
"""State that is never the whole of a parameter's here: a part of Adam's, and Rprop's."""

LEAVES = st.builds(
    Leaf,
    shape=st.sampled_from(SHAPES),
    dtype=st.sampled_from(DTYPES),
    place=st.sampled_from([place for place in Place if place is not Place.EXPANDED]),
)
POSITIONS = st.integers(0, MOST - 1)
PLACES = st.sampled_from([place for place in Place if place is not Place.EXPANDED])


@st.composite
def cases(draw: st.DrawFn, choices: list[Rule]) -> Case:
    """An optimizer with parts that its constructor takes together."""
    chosen: Rule = draw(st.sampled_from(choices))
    pace = NO_STEP_SIZE if chosen.cls is AdaLoss else draw(st.sampled_from((NO_STEP_SIZE, *STEP_SIZES)))
    taken = [
        extras
        for extras in EXTENSIONS
        if Modifiers.of(None, None, extras.extensions).reason_against(chosen.cls.spec) is None
    ]
    drawn = draw(st.lists(st.sampled_from(taken), unique=True))
    if {"lookahead", "ema"} <= {one.name for one in drawn}:
        drawn = [one for one in drawn if one.name != "ema"]
    extras = Extras("+".join(one.name for one in drawn), tuple(one.extensions[0] for one in drawn))
    clip = draw(st.sampled_from([clip for clip in CLIPS if can_stand(clip, pace)]))
    return Case(chosen, clip, pace, extras)


def can_stand(clip: Clip, pace: Pace) -> bool:
    """Whether an optimizer takes the two together."""
    return not (isinstance(clip.policy, ClipByValue) and isinstance(pace.step_size, PolyakStep))


def frozen(kind: str) -> Parameter:
    """A parameter that no step moves, of a kind that no optimizer updates."""
    values = torch.zeros(3)
    odd = {
        "uint8": values.to(torch.uint8),
        "float8": values.to(torch.float8_e4m3fn),
        "expanded": values[:1].to(torch.int8).expand(3),
        "meta": values.to("meta"),
    }
    return Parameter(odd[kind], requires_grad=False)


FROZEN = ("uint8", "float8", "expanded", "meta")


def inferred() -> Parameter:
    """A parameter made in inference mode, which cannot be written to outside of it, with a gradient."""
    with torch.inference_mode():
        parameter = Parameter(torch.ones(3))
        parameter.grad = torch.ones(3)
    return parameter
