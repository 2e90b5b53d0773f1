"""The columns of the tables that the host writes and the kernels read. All tables are rows of int64 or float64.

The host side is ``torchclip/backends/triton/tables.py``; the CUDA backend's ``csrc/cuda/device_tables.h`` has the same
tables as structs.
"""

from __future__ import annotations

from typing import NamedTuple

import triton.language as tl

# Types of elements: the numbering of csrc/tables.h.
FLOAT32 = tl.constexpr(0)
FLOAT64 = tl.constexpr(1)
BFLOAT16 = tl.constexpr(2)
FLOAT16 = tl.constexpr(3)

# Operands of a tensor, by number.
PARAMETER = tl.constexpr(0)
GRADIENT = tl.constexpr(1)
STATE = tl.constexpr(2)  # the first of three
SLOW = tl.constexpr(5)
OPERANDS = tl.constexpr(6)

# A tensor: int64. Its operands' addresses come first, at their numbers; gradients move, and have a table of their own.
TENSOR_NUMEL = tl.constexpr(6)
TENSOR_ROW = tl.constexpr(7)  # of the coefficients
TENSOR_MEMBER = tl.constexpr(8)  # position among all parameters
TENSOR_ROWS = tl.constexpr(9)  # of its leading dimension; 0 where it has none
TENSOR_INNER = tl.constexpr(10)  # elements of such a row that follow one another
TENSOR_FIRST_ROW = tl.constexpr(11)  # among the rows of all tensors
TENSOR_SUMS = tl.constexpr(12)  # address of AdaGradNorm's sums over rows; 0 where there are none
TENSOR_SUM_IS_DOUBLE = tl.constexpr(13)
TENSOR_DIMENSIONS = tl.constexpr(14)  # of its layout; 0 where all operands lie alike, without gaps
TENSOR_LAYOUT = tl.constexpr(15)  # where its layout begins: [1 + OPERANDS, dimensions], sizes and then strides
TENSOR_COLUMNS = tl.constexpr(16)

# A run of elements of one tensor, for one program or, in the update, for some: int64. `begin` is a multiple of
# CHUNK_GRAIN.
CHUNK_TENSOR = tl.constexpr(0)
CHUNK_BEGIN = tl.constexpr(1)
CHUNK_COUNT = tl.constexpr(2)
CHUNK_PARTIAL = tl.constexpr(3)  # where its partial sums go
CHUNK_COLUMNS = tl.constexpr(4)
CHUNK_GRAIN = tl.constexpr(1024)

# The same of a pass that keeps rows apart: whole rows, or, where ROWS is 0, elements of one row or of a tensor
# without rows.
ROW_CHUNK_TENSOR = tl.constexpr(0)
ROW_CHUNK_ROWS = tl.constexpr(1)
ROW_CHUNK_PARTIAL = tl.constexpr(2)
ROW_CHUNK_LONG_ROW = tl.constexpr(3)  # of which it is a part; -1: it is not
ROW_CHUNK_ROW = tl.constexpr(4)  # the first, within the tensor
ROW_CHUNK_BEGIN = tl.constexpr(5)  # within the row
ROW_CHUNK_COUNT = tl.constexpr(6)
ROW_CHUNK_COLUMNS = tl.constexpr(8)

# A row that several chunks share: int64.
LONG_ROW_TENSOR = tl.constexpr(0)
LONG_ROW_FIRST_PARTIAL = tl.constexpr(1)
LONG_ROW_PARTIALS = tl.constexpr(2)
LONG_ROW_ROW = tl.constexpr(3)  # within the tensor
LONG_ROW_COLUMNS = tl.constexpr(4)

# What the update multiplies with: float64. The pipeline's coefficients, then the rule's.
ROW_GRADIENT_SCALE = tl.constexpr(0)
ROW_VALUE_LIMIT = tl.constexpr(1)
ROW_NOISE_SCALE = tl.constexpr(2)
ROW_WEIGHT_DECAY = tl.constexpr(3)
ROW_SHRINK = tl.constexpr(4)
ROW_RULE = tl.constexpr(5)  # the first of eight
ROW_COLUMNS = tl.constexpr(16)

# What a row is made from: int64.
SOURCE_SCALAR = tl.constexpr(0)  # address of a number of state of the row's tensor; twice, 0 where there is none
SOURCE_IS_DOUBLE = tl.constexpr(2)  # of each; float32 otherwise
SOURCE_GROUP = tl.constexpr(4)
SOURCE_CLIP_UNIT = tl.constexpr(5)  # of the policy's scope; -1: the policy measures nothing, or keeps rows apart
SOURCE_RULE_UNIT = tl.constexpr(6)
SOURCE_MEMBER = tl.constexpr(7)
SOURCE_COLUMNS = tl.constexpr(8)

# A param group: float64. lr, the rule's other hyperparameters, and what the pipeline reads.
GROUP_WEIGHT_DECAY = tl.constexpr(8)
GROUP_DECOUPLED = tl.constexpr(9)
GROUP_MAXIMIZE = tl.constexpr(10)
GROUP_COLUMNS = tl.constexpr(12)
# A learning rate that is a tensor: int64; address 0 where it is a number.
LR_ADDRESS = tl.constexpr(0)
LR_IS_DOUBLE = tl.constexpr(1)
LR_COLUMNS = tl.constexpr(2)

# What the first finish of a step decides: float64.
STEP_NUMBER = tl.constexpr(0)  # from 1; 0 where nothing counts steps
STEP_SKIPS = tl.constexpr(1)
STEP_SYNCHRONISES = tl.constexpr(2)  # Lookahead ends a round

# The draws' numbers: int64.
DRAW_KEY_LOW = tl.constexpr(0)
DRAW_KEY_HIGH = tl.constexpr(1)
DRAW_GRADIENT_THRESHOLD = tl.constexpr(2)
DRAW_LR_THRESHOLD = tl.constexpr(3)

# A policy's numbers: float64.
POLICY_LIMIT = tl.constexpr(0)  # max_norm, max_value or clipping
POLICY_UNIT_EPS = tl.constexpr(1)
POLICY_PERCENTILE = tl.constexpr(2)
POLICY_WINDOW = tl.constexpr(3)
POLICY_Z_ALPHA = tl.constexpr(4)
POLICY_Z_THRESHOLD = tl.constexpr(5)
POLICY_Z_WARMUP = tl.constexpr(6)
POLICY_Z_EPS = tl.constexpr(7)
POLICY_B0 = tl.constexpr(8)
POLICY_ALPHA = tl.constexpr(9)
POLICY_C = tl.constexpr(10)
POLICY_NOISE_ETA = tl.constexpr(11)
POLICY_NOISE_GAMMA = tl.constexpr(12)
POLICY_LOOKAHEAD_K = tl.constexpr(13)
POLICY_LOOKAHEAD_ALPHA = tl.constexpr(14)
POLICY_COLUMNS = tl.constexpr(16)

# A param group's policy, where groups have their own: float64.
GROUP_CLIP_UNIT = tl.constexpr(0)  # the first of the groups whose gradients are in the same norm; -1: none is taken
GROUP_CLIP_LIMIT = tl.constexpr(1)  # max_norm
GROUP_CLIP_SMOOTH = tl.constexpr(2)  # 0 or 1
GROUP_CLIP_REFUSES = tl.constexpr(3)  # 1: no step where the norm is not finite
GROUP_CLIP_COLUMNS = tl.constexpr(4)

# Two sums over a chunk or a unit: float64.
SUM_GRADIENT = tl.constexpr(0)
SUM_DIRECTION = tl.constexpr(1)
SUM_COLUMNS = tl.constexpr(2)

# Where the end of a norm pass finds what it needs: an int64 table of addresses and counts.
PLACE_UNITS = tl.constexpr(0)  # how many
PLACE_UNIT_CHUNKS = tl.constexpr(1)  # int64 [units + 1]: the partial sums of each unit follow one another
PLACE_PARTIALS = tl.constexpr(2)
PLACE_GRAD_NORM = tl.constexpr(3)  # [units], written, as the two below
PLACE_CLIP_FACTOR = tl.constexpr(4)
PLACE_DIRECTION_NORM = tl.constexpr(5)
PLACE_COUNTERS = tl.constexpr(6)  # [2]: steps that measured a factor, and those of them in which one was below 1
PLACE_NORM_COUNT = tl.constexpr(7)  # of the policies that remember norms, as the three below
PLACE_NORM_MEAN = tl.constexpr(8)
PLACE_NORM_VARIANCE = tl.constexpr(9)
PLACE_NORM_WINDOW = tl.constexpr(10)
PLACE_B_SQUARED = tl.constexpr(11)
PLACE_STEP = tl.constexpr(12)
PLACE_LR_SCALE = tl.constexpr(13)
PLACE_NUMBERS = tl.constexpr(14)  # of the step: written by the first finish
PLACE_ROWS = tl.constexpr(15)  # of coefficients, written
PLACE_ROW_COUNT = tl.constexpr(16)
PLACE_SOURCES = tl.constexpr(17)
PLACE_GROUPS = tl.constexpr(18)
PLACE_LRS = tl.constexpr(19)
PLACE_FRESH = tl.constexpr(20)  # int32 [parameters]: 1 until a step has been taken with the state
PLACE_POLICY = tl.constexpr(21)
PLACE_BLOCKS = tl.constexpr(22)  # of all launches of the pass together
PLACE_BLOCKS_DONE = tl.constexpr(23)  # int32, 0 before and after
PLACE_LONG_ROWS = tl.constexpr(24)
PLACE_LONG_ROW_COUNT = tl.constexpr(25)
PLACE_ROW_FACTORS = tl.constexpr(26)
PLACE_TENSORS = tl.constexpr(27)
PLACE_RULE_SUMS = tl.constexpr(28)  # int64 [units]: addresses of AdaGradNorm's sums, 0 where a unit has none
PLACE_SUM_IS_DOUBLE = tl.constexpr(29)  # int64 [units]
PLACE_GROUP_CLIPS = tl.constexpr(30)  # where groups have policies of their own
PLACE_COLUMNS = tl.constexpr(32)

# Stages of the pipeline, as bits: csrc/pipeline.h.
VALUE_CLIP = tl.constexpr(1)
GRADIENT_DROPOUT = tl.constexpr(2)
GRADIENT_NOISE = tl.constexpr(4)
COUPLED_DECAY = tl.constexpr(8)
LR_DROPOUT = tl.constexpr(16)

# Kinds of clip policies, step sizes, and what a norm that is not finite does: csrc/modifiers.h.
NO_CLIP = tl.constexpr(0)
NORM_CLIP = tl.constexpr(1)
VALUE_CLIP_POLICY = tl.constexpr(2)
UNIT_CLIP = tl.constexpr(3)
PERCENTILE_CLIP = tl.constexpr(4)
Z_CLIP = tl.constexpr(5)
LOSS_STEP_SIZE = tl.constexpr(1)
SQRT_STEP_SIZE = tl.constexpr(2)

# How the elements of a run of tensors are reached.
ANYHOW = tl.constexpr(0)  # one after the other from any address
ALIGNED = tl.constexpr(1)  # one after the other from a multiple of 16 bytes: 128 bits at a time
STRIDED = tl.constexpr(2)  # by the layout


class Run(NamedTuple):
    """What a pass over elements is compiled for: tensors of one kind."""

    family: str  # the functor of csrc/rules/registry.h
    slots: int  # bits: state tensors in use
    stages: int  # bits
    dtype: int
    state_dtype: int
    access: int
    lookahead: bool
    counts_zeros: bool
    block: int  # elements at a time, a power of two
    piece: int  # elements that a program of the update takes, a multiple of CHUNK_GRAIN; 0 in other passes


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
    lookahead: bool
    scalars: int
    fresh: bool  # the first step with a state differs
    counts_clips: bool
    sums_units: bool  # AdaGradNorm's sums, but for those over rows
    by_group: bool  # param groups, which are the units then, have policies of their own
