"""What the host writes and the kernels read: the structs of ``csrc/step/device_tables.h``, field by field.

The host's part is in C++, and is that of the CUDA backend too.
"""

from __future__ import annotations

import triton.language as tl

# Types of elements: the numbering of csrc/step/tables.h.
FLOAT32 = tl.constexpr(0)
FLOAT64 = tl.constexpr(1)
BFLOAT16 = tl.constexpr(2)
FLOAT16 = tl.constexpr(3)
BYTE = tl.constexpr(4)  # of codes, here alone

# How a precision policy holds an operand: Form of csrc/codecs.h.
NEAREST = tl.constexpr(0)
STOCHASTIC = tl.constexpr(1)
SPLIT = tl.constexpr(2)
MASTER = tl.constexpr(3)
BLOCKS = tl.constexpr(4)  # of both kinds the first
UNSIGNED_BLOCKS = tl.constexpr(5)
BLOCK = tl.constexpr(256)  # elements that share an absmax

# Operands of a tensor, by number.
PARAMETER = tl.constexpr(0)
GRADIENT = tl.constexpr(1)
STATE = tl.constexpr(2)  # the first of three
SLOW = tl.constexpr(5)
OPERANDS = tl.constexpr(6)

# The fields of the structs of csrc/step/device_tables.h, each by its place in its struct. The places of pointers, int64
# and float64 numbers are counted in words of eight bytes, those of int32 numbers, which ``operands.int32_at`` reads, in
# words of four; WORDS is a struct's size in eight bytes.

# DeviceTensor. Its operands' addresses come first, at their numbers; gradients move, and have a table of their own.
TENSOR_NUMEL = tl.constexpr(6)
TENSOR_COEFFICIENTS = tl.constexpr(14)  # int32: which set of coefficients it has
TENSOR_NUMBER = tl.constexpr(28)  # int32: of the parameter in draws
TENSOR_PLACE_OFFSET = tl.constexpr(15)  # of its first element in the tensor that it is a part of, for draws
TENSOR_PLACE_INNER = tl.constexpr(16)  # elements of a piece there; 0: it is one
TENSOR_PLACE_OUTER = tl.constexpr(17)  # from one piece to the next
TENSOR_DIMENSIONS = tl.constexpr(16)  # int32: of its layout; 0 where all operands lie alike, without gaps
TENSOR_SUM_IS_DOUBLE = tl.constexpr(17)  # int32
TENSOR_LAYOUT = tl.constexpr(9)  # address of its layout, [1 + OPERANDS, dimensions]: sizes and then strides
TENSOR_ROWS = tl.constexpr(10)  # of its leading dimension; 0 where it has none
TENSOR_INNER = tl.constexpr(11)  # elements of such a row that follow one another
TENSOR_FIRST_ROW = tl.constexpr(12)  # among the rows of all tensors
TENSOR_SUMS = tl.constexpr(13)  # address of AdaGradNorm's sums over rows; 0 where there are none
TENSOR_WORDS = tl.constexpr(18)

# DeviceBeside: what a precision policy keeps beside a tensor's operands, by address.
BESIDE_PARAMETER = tl.constexpr(0)
BESIDE_ABSMAX = tl.constexpr(1)  # the first of three
BESIDE_WORDS = tl.constexpr(4)

# DeviceChunk: a run of elements of one tensor, for one program or, in the update, for some. `begin` is a multiple of
# CHUNK_GRAIN.
CHUNK_TENSOR = tl.constexpr(0)  # int32
CHUNK_COUNT = tl.constexpr(1)  # int32
CHUNK_PARTIAL = tl.constexpr(2)  # int32: where its partial sums go
CHUNK_BEGIN = tl.constexpr(2)
CHUNK_WORDS = tl.constexpr(3)
CHUNK_GRAIN = tl.constexpr(1024)

# DeviceRowChunk: the same of a pass that keeps rows apart: whole rows, or, where ROWS is 0, elements of one row or of a
# tensor without rows.
ROW_CHUNK_TENSOR = tl.constexpr(0)  # int32
ROW_CHUNK_ROWS = tl.constexpr(1)  # int32
ROW_CHUNK_PARTIAL = tl.constexpr(2)  # int32
ROW_CHUNK_LONG_ROW = tl.constexpr(3)  # int32: of which it is a part; -1: it is not
ROW_CHUNK_ROW = tl.constexpr(2)  # the first, within the tensor
ROW_CHUNK_BEGIN = tl.constexpr(3)  # within the row
ROW_CHUNK_COUNT = tl.constexpr(4)
ROW_CHUNK_WORDS = tl.constexpr(5)

# DeviceLongRow: a row that several chunks share.
LONG_ROW_TENSOR = tl.constexpr(0)  # int32
LONG_ROW_FIRST_PARTIAL = tl.constexpr(1)  # int32
LONG_ROW_PARTIALS = tl.constexpr(2)  # int32
LONG_ROW_ROW = tl.constexpr(2)  # within the tensor
LONG_ROW_WORDS = tl.constexpr(3)

# Coefficients: what the update multiplies a set of tensors with. The pipeline's coefficients, then the rule's.
COEFFICIENTS_GRADIENT_SCALE = tl.constexpr(0)
COEFFICIENTS_VALUE_LIMIT = tl.constexpr(1)
COEFFICIENTS_NOISE_SCALE = tl.constexpr(2)
COEFFICIENTS_WEIGHT_DECAY = tl.constexpr(3)
COEFFICIENTS_SHRINK = tl.constexpr(4)
COEFFICIENTS_RULE = tl.constexpr(5)  # the first of eight
COEFFICIENTS_WORDS = tl.constexpr(13)

# CoefficientSource: what coefficients are made from.
SOURCE_SCALAR = tl.constexpr(0)  # address of a number of state of their tensor; twice, 0 where there is none
SOURCE_IS_DOUBLE = tl.constexpr(4)  # int32: of each; float32 otherwise
SOURCE_GROUP = tl.constexpr(6)  # int32
SOURCE_CLIP_UNIT = tl.constexpr(7)  # int32: of the policy's scope; -1: it measures nothing, or keeps rows apart
SOURCE_RULE_UNIT = tl.constexpr(8)  # int32
SOURCE_FRESH = tl.constexpr(9)  # int32: position of its flag; -1 where it does not matter
SOURCE_WORDS = tl.constexpr(5)

# GroupNumbers: what a param group says. lr, the rule's other hyperparameters, and what the pipeline reads.
GROUP_WEIGHT_DECAY = tl.constexpr(8)
GROUP_DECOUPLED = tl.constexpr(9)
GROUP_MAXIMIZE = tl.constexpr(10)
GROUP_LR = tl.constexpr(11)  # address of a learning rate that is a tensor; 0 where it is a number
GROUP_LR_IS_DOUBLE = tl.constexpr(24)  # int32
GROUP_THRESHOLD_SCALE = tl.constexpr(13)  # address of the factor on its threshold; 0 where that is 1
GROUP_TARGET = tl.constexpr(14)  # of target_sparsity, which steers the factor
GROUP_ELEMENTS = tl.constexpr(15)  # among which zeros are counted; 0 where the factor stays
GROUP_WORDS = tl.constexpr(16)

# ZeroRange: counts of zeros that follow one another and are those of one param group.
ZERO_RANGE_FIRST = tl.constexpr(0)
ZERO_RANGE_COUNT = tl.constexpr(1)
ZERO_RANGE_WORDS = tl.constexpr(2)

# StepNumbers: what the first finish of a step decides.
STEP_NUMBER = tl.constexpr(0)  # from 1; 0 where nothing counts steps
STEP_SKIPS = tl.constexpr(2)  # int32
STEP_SYNCHRONISES = tl.constexpr(3)  # int32: Lookahead ends a round, or WeightEMA averages
STEP_AVERAGE_WEIGHT = tl.constexpr(2)  # of the parameters in the slow weights or the average

# The draws' numbers: int64.
DRAW_KEY_LOW = tl.constexpr(0)
DRAW_KEY_HIGH = tl.constexpr(1)
DRAW_GRADIENT_THRESHOLD = tl.constexpr(2)
DRAW_LR_THRESHOLD = tl.constexpr(3)

# Modifiers: a policy's numbers, all of them float64.
POLICY_LIMIT = tl.constexpr(3)  # max_norm, max_value or clipping
POLICY_UNIT_EPS = tl.constexpr(5)
POLICY_PERCENTILE = tl.constexpr(6)
POLICY_WINDOW = tl.constexpr(7)
POLICY_Z_ALPHA = tl.constexpr(8)
POLICY_Z_THRESHOLD = tl.constexpr(9)
POLICY_Z_WARMUP = tl.constexpr(10)
POLICY_Z_EPS = tl.constexpr(11)
POLICY_B0 = tl.constexpr(13)
POLICY_ALPHA = tl.constexpr(14)
POLICY_C = tl.constexpr(15)
POLICY_NOISE_ETA = tl.constexpr(17)
POLICY_NOISE_GAMMA = tl.constexpr(18)
POLICY_LOOKAHEAD_K = tl.constexpr(23)
POLICY_LOOKAHEAD_ALPHA = tl.constexpr(24)
POLICY_RELATIVE_LIMIT = tl.constexpr(25)
POLICY_STEP_EPS = tl.constexpr(26)
POLICY_GROWTH = tl.constexpr(27)
POLICY_SKIP_WINDOW = tl.constexpr(30)
POLICY_SKIP_SIGMA = tl.constexpr(31)
POLICY_EMA_WARMUP = tl.constexpr(33)

# GroupClip: a param group's policy, where groups have their own.
GROUP_CLIP_LIMIT = tl.constexpr(0)  # max_norm
GROUP_CLIP_UNIT = tl.constexpr(2)  # int32: the first of the groups whose gradients are in one norm; -1: none is taken
GROUP_CLIP_SMOOTH = tl.constexpr(3)  # int32: 0 or 1
GROUP_CLIP_NONFINITE = tl.constexpr(4)  # int32: not 0: no step where the norm is not finite
GROUP_CLIP_WORDS = tl.constexpr(3)

# Partial: two sums over a chunk or a row. UnitSum: the same over a unit, of which a device has a part.
SUM_GRADIENT = tl.constexpr(0)
SUM_DIRECTION = tl.constexpr(1)
SUM_WORDS = tl.constexpr(2)
UNIT_SUM_COUNT = tl.constexpr(2)  # of how many tensors or chunks; 0 where the unit has none
UNIT_SUM_WORDS = tl.constexpr(3)

# FinishArguments and FinishRuleArguments: where the end of a norm pass finds what it needs. First what both have, ...
PLACE_PARTIALS = tl.constexpr(0)
PLACE_UNIT_CHUNKS = tl.constexpr(1)  # int32 [units + 1]: the partial sums of each unit follow one another
PLACE_UNITS = tl.constexpr(4)  # int32: how many
PLACE_OF_SETS = tl.constexpr(3)  # UnitSum [sets, units]: of all processes, behind an exchange
PLACE_TENSORS = tl.constexpr(5)
PLACE_LONG_ROWS = tl.constexpr(6)
PLACE_LONG_ROW_COUNT = tl.constexpr(14)  # int32
PLACE_SHARED_ROW_COUNT = tl.constexpr(15)  # int32: of them, to look at behind an exchange
PLACE_ROW_PARTIALS = tl.constexpr(8)  # the pass's own
PLACE_ROW_FACTORS = tl.constexpr(9)
PLACE_SHARED_ROWS = tl.constexpr(10)  # SharedRow [long rows]; 0 where no others have parts of rows
PLACE_PLACE_SUMS = tl.constexpr(11)  # Partial [places]: of the rows of all processes
PLACE_PLACES = tl.constexpr(12)
PLACE_GRAD_NORM = tl.constexpr(13)  # [units], written, as the one below
PLACE_CLIP_FACTOR = tl.constexpr(14)
PLACE_COUNTERS = tl.constexpr(15)  # steps that measured a factor, those with one below 1; steps, those not taken; ...
DISAGREED = tl.constexpr(4)  # ... and at this place not 0 once the processes have disagreed, until the hosts have heard
PLACE_NUMBERS = tl.constexpr(16)  # of the step: written by the first finish
PLACE_BLOCKS_DONE = tl.constexpr(17)  # int32, 0 before and after
PLACE_BLOCKS = tl.constexpr(36)  # int32: of all launches of the pass together
PLACE_COMMON = tl.constexpr(19)  # COMMON_… of all processes; 0 where these were not asked before
PLACE_POLICY = tl.constexpr(20)  # the Modifiers themselves
PLACE_COEFFICIENTS_COUNT = tl.constexpr(109)  # int32: sets of them
PLACE_SOURCES = tl.constexpr(55)
PLACE_COEFFICIENTS = tl.constexpr(56)  # written
PLACE_FRESH = tl.constexpr(58)  # int32 [parameters]: 1 until a step has been taken with the state
PLACE_GROUPS = tl.constexpr(59)
PLACE_ZEROS = tl.constexpr(60)  # that the last step has counted
PLACE_ZERO_RANGES = tl.constexpr(61)
PLACE_ZERO_BEGINS = tl.constexpr(62)  # int32 [param groups + 1]: the ranges of each follow one another
PLACE_SHARED_ZEROS = tl.constexpr(63)  # ZeroCount [sets, param groups]: of all processes
PLACE_ZERO_SETS = tl.constexpr(128)  # int32
PLACE_NEXT_SCALES = tl.constexpr(65)  # [param groups], written: factors on thresholds
PLACE_GROUP_COUNT = tl.constexpr(129)  # int32
# ... then what the end of the pass for a clip policy needs, ...
PLACE_GROUP_CLIPS = tl.constexpr(194)  # where groups have policies of their own
PLACE_NORM_COUNT = tl.constexpr(195)  # of the policies that remember norms, as the three below
PLACE_NORM_MEAN = tl.constexpr(196)
PLACE_NORM_VARIANCE = tl.constexpr(197)
PLACE_NORM_WINDOW = tl.constexpr(198)
PLACE_B_SQUARED = tl.constexpr(201)
PLACE_STEP = tl.constexpr(202)
PLACE_LR_SCALE = tl.constexpr(203)
PLACE_NORM_BOUNDS = tl.constexpr(206)  # AdaGC's: [parameters]
PLACE_POLYAK_STEP = tl.constexpr(207)
PLACE_SKIP_NORMS = tl.constexpr(208)  # SkipSpikes': [window]
PLACE_SKIP_NORM_COUNT = tl.constexpr(209)
PLACE_SKIP_LOSSES = tl.constexpr(210)
PLACE_SKIP_LOSS_COUNT = tl.constexpr(211)
PLACE_SKIPPED = tl.constexpr(212)  # written: 1 where the step is not taken
# ... and what the end of a rule's own needs.
PLACE_DIRECTION_NORM = tl.constexpr(194)  # [units], written
PLACE_RULE_SUMS = tl.constexpr(195)  # [units]: addresses of AdaGradNorm's sums, 0 where a unit has none
PLACE_SUM_IS_DOUBLE = tl.constexpr(196)  # int32 [units]
PLACE_DECIDED = tl.constexpr(197)  # of the step: whether it is skipped is written behind an exchange

# What all processes have behind the cells of an exchange: CommonNumber of csrc/step/exchange_layout.h, float64.
COMMON_OVERFLOWS = tl.constexpr(0)  # of AMP's scale
COMMON_LOST = tl.constexpr(1)  # norms that are not finite
COMMON_GRADIENTS = tl.constexpr(2)  # parameters that have one
COMMON_LOSS = tl.constexpr(3)
COMMON_AGREED = tl.constexpr(4)  # three that they agree by
COMMON_NUMBERS = tl.constexpr(7)

# SharedRow: a long row of which other processes have parts.
SHARED_ROW_PLACE = tl.constexpr(0)  # among all that are sent; -1: no others have a part of it
SHARED_ROW_SHARE = tl.constexpr(1)  # what part of its sums counts
SHARED_ROW_WORDS = tl.constexpr(2)

# SharedRange: partial sums, or counts of zeros, that follow one another and count in one cell.
SHARED_RANGE_FIRST = tl.constexpr(0)
SHARED_RANGE_COUNT = tl.constexpr(1)
SHARED_RANGE_SHARE = tl.constexpr(2)  # what part of their sum counts
SHARED_RANGE_WORDS = tl.constexpr(3)

# ZeroCount: how many zeros there are, and among how many elements.
ZERO_COUNT_ELEMENTS = tl.constexpr(1)
ZERO_COUNT_WORDS = tl.constexpr(2)

# ShareArguments: what an exchange is filled from.
SHARE_NUMBERS = tl.constexpr(0)  # written; where what lies: csrc/step/exchange_layout.h
SHARE_CELLS = tl.constexpr(1)  # how many, as of the next two
SHARE_PLACES = tl.constexpr(2)  # of rows
SHARE_ZERO_CELLS = tl.constexpr(3)
SHARE_RANGES = tl.constexpr(4)  # of partial sums
SHARE_RANGE_BEGINS = tl.constexpr(5)  # int32 [cells + 1]
SHARE_TENSORS = tl.constexpr(6)  # int32 [cells]: how many count in each
SHARE_PARTIALS = tl.constexpr(10)
SHARE_ZEROS = tl.constexpr(16)
SHARE_ZERO_RANGES = tl.constexpr(17)
SHARE_ZERO_BEGINS = tl.constexpr(18)  # int32 [cells of zeros + 1]
SHARE_ZERO_ELEMENTS = tl.constexpr(19)  # [cells of zeros]: among which they are
SHARE_LOSS_SHARE = tl.constexpr(23)
SHARE_GRADIENTS = tl.constexpr(24)
SHARE_NUMBER = tl.constexpr(25)  # what this process goes by

# Stages of the pipeline, as bits: csrc/pipeline.h.
VALUE_CLIP = tl.constexpr(1)
GRADIENT_DROPOUT = tl.constexpr(2)
GRADIENT_NOISE = tl.constexpr(4)
COUPLED_DECAY = tl.constexpr(8)
LR_DROPOUT = tl.constexpr(16)

# Kinds of clip policies, step sizes, and what a norm that is not finite does: csrc/step/modifiers.h.
NO_CLIP = tl.constexpr(0)
NORM_CLIP = tl.constexpr(1)
VALUE_CLIP_POLICY = tl.constexpr(2)
UNIT_CLIP = tl.constexpr(3)
PERCENTILE_CLIP = tl.constexpr(4)
Z_CLIP = tl.constexpr(5)
BOUND_CLIP = tl.constexpr(6)
LOSS_STEP_SIZE = tl.constexpr(1)
SQRT_STEP_SIZE = tl.constexpr(2)
POLYAK_STEP_SIZE = tl.constexpr(3)

# How the elements of a run of tensors are reached: Access of csrc/step/host_tables.h.
ANYHOW = tl.constexpr(0)  # one after the other from any address
ALIGNED = tl.constexpr(1)  # one after the other from a multiple of 16 bytes: 128 bits at a time
STRIDED = tl.constexpr(2)  # by the layout
