"""What kernels are compiled for: the launcher hands each a record of constants."""

from __future__ import annotations

from typing import NamedTuple


class Run(NamedTuple):
    """What a pass over elements is compiled for: tensors of one kind."""

    family: str  # the functor of csrc/rules/registry.h
    slots: int  # bits: state tensors in use
    stages: int  # bits
    dtype: int
    state_dtype: int
    access: int
    lookahead: bool  # or WeightEMA
    counts_zeros: bool
    block: int  # elements at a time, a power of two
    piece: int  # elements that a program of the update takes, a multiple of CHUNK_GRAIN; 0 in other passes
    averages: bool = False  # WeightEMA in the place of Lookahead
    group: int = 8  # elements that are read or not together, a block where there are codes
    # Under a precision policy `dtype` is that of the computation; else these are as it and `state_dtype` are.
    gradient_dtype: int = 0
    parameter_dtype: int = 0
    form: int = 0  # of the parameter
    dtype0: int = 0  # of the state tensors
    dtype1: int = 0
    dtype2: int = 0
    form0: int = 0
    form1: int = 0
    form2: int = 0
    in_parts: bool = False  # draws go by an element's number in the tensor that this one is a part of


class Finish(NamedTuple):
    """What the end of a norm pass is compiled for: a rule under one policy, with one step size and extensions."""

    rule: str
    clip: int
    smooth: bool
    skips_nonfinite: bool
    is_single: bool  # one unit
    step_size: int
    counts_steps: bool
    noise: bool
    lookahead: bool  # or WeightEMA
    scalars: int
    fresh: bool  # the first step with a state differs
    counts_clips: bool
    sums_units: bool  # AdaGradNorm's sums, but for those over rows
    by_group: bool  # param groups, which are the units then, have policies of their own
    skip_norm: bool = False  # SkipSpikes looks at the norm
    skip_loss: bool = False  # SkipSpikes looks at the loss
    growth: bool = False  # PolyakStep's step is bound to the one before
    averages: bool = False
    threshold_scales: bool = False  # thresholds have factors
    shares: bool = False  # the sums are those of all processes, behind an exchange
