"""Named sets of parameter shapes.

The three synthetic sets separate what a step's time is made of: `small` is overhead per tensor, `large` is memory
bandwidth, `medium` is both. `host` has next to no elements, so its time is the host's work alone. The models have the
mix of sizes that real training sees: hundreds of short vectors between a few large matrices.
"""

import math
from collections.abc import Callable, Mapping

Shape = tuple[int, ...]
Shapes = tuple[Shape, ...]


def element_count(shapes: Shapes) -> int:
    """Number of elements of all shapes together."""
    return sum(math.prod(shape) for shape in shapes)


def resnet50() -> Shapes:
    """The 161 parameters of ResNet-50 (He et al., 2016, table 1; 1000 classes), in the order of the forward pass."""
    convolutions: list[Shape] = [(64, 3, 7, 7)]
    inputs = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        outputs = 4 * width
        for block in range(blocks):
            convolutions += [(width, inputs, 1, 1), (width, width, 3, 3), (outputs, width, 1, 1)]
            convolutions += [] if block else [(outputs, inputs, 1, 1)]  # the shortcut changes its width once per stage
            inputs = outputs
    # Each convolution has no bias; its batch norm has a weight and a bias.
    normed = [shape for each in convolutions for shape in (each, (each[0],), (each[0],))]
    return (*normed, (1000, inputs), (1000,))


def gpt2(width: int, layers: int) -> Shapes:
    """GPT-2 (Radford et al., 2019; the output embedding tied): small is 12 layers of width 768, XL 48 of 1600."""
    bias = (width,)
    attention = (bias, bias, (width, 3 * width), (3 * width,), (width, width), bias)
    perceptron = (bias, bias, (width, 4 * width), (4 * width,), (4 * width, width), bias)
    return ((50257, width), (1024, width), *layers * (*attention, *perceptron), bias, bias)


def vit_s16() -> Shapes:
    """The 152 parameters of ViT-S/16 (Touvron et al., 2021; 12 layers of width 384, images of 224 × 224)."""
    width, bias = 384, (384,)
    attention = (bias, bias, (3 * width, width), (3 * width,), (width, width), bias)
    perceptron = (bias, bias, (4 * width, width), (4 * width,), (width, 4 * width), bias)
    patches = ((1, 1, width), (1, 197, width), (width, 3, 16, 16), bias)
    return (*patches, *12 * (*attention, *perceptron), bias, bias, (1000, width), (1000,))


def llama_1b() -> Shapes:
    """The 146 parameters of Llama 3.2 1B (Grattafiori et al., 2024; 16 layers of width 2048, embedding tied)."""
    width, hidden, keys = 2048, 8192, 512
    attention = ((width, width), (keys, width), (keys, width), (width, width))
    perceptron = ((hidden, width), (hidden, width), (width, hidden), (width,), (width,))
    return ((128_256, width), *16 * (*attention, *perceptron), (width,))


SHAPE_SETS: Mapping[str, Callable[[], Shapes]] = {
    "host": lambda: ((1,),) * 1000,
    "small": lambda: ((512,),) * 1000,
    "medium": lambda: ((20_000,),) * 300,
    "large": lambda: ((1_000_000,),) * 50,
    "resnet50": resnet50,
    "gpt2": lambda: gpt2(768, 12),
    "thousands": lambda: ((512,),) * 2000,
    "gpt2_xl": lambda: gpt2(1600, 48),
    "vit_s16": vit_s16,
    "llama_1b": llama_1b,
}
CPU_SETS = ("host", "small", "medium", "large", "resnet50", "gpt2")
CUDA_SETS = ("gpt2_xl", "resnet50", "medium", "thousands")

PARAMETERS, TENSORS = "parameters", "tensors"

_TENSORS = 10  # enough to be a model, few enough for a thousand parameters
_LARGEST = 10**6  # parameters of a tensor: whole tensors are what results are checked on
_SIZE = 64  # elements: next to nothing to do for each
_COUNTS = (1, 10, 100, 1000, 10_000)


def scaling_sets(device: str) -> Mapping[str, Shapes]:
    """By name: so many parameters in ten tensors or in more of a million, and so many tensors of a few parameters."""
    sizes = {e: min(10**e // _TENSORS, _LARGEST) for e in range(3, 10 if device == "cuda" else 9)}
    sets = {f"{PARAMETERS}-1e{e}": ((size,),) * (10**e // size) for e, size in sizes.items()}
    return {**sets, **{f"{TENSORS}-{count}": ((_SIZE,),) * count for count in _COUNTS}}
