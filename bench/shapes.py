"""Named sets of parameter shapes.

The three synthetic sets separate what a step's time is made of: `small` is overhead per tensor, `large` is memory
bandwidth, `medium` is both. `host` has next to no elements, so its time is the host's work alone. The two models
have the mix of sizes that real training sees: hundreds of short vectors between a few large matrices.
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
    shapes: list[Shape] = [(64, 3, 7, 7), (64,), (64,)]
    in_channels = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        out_channels = 4 * width
        for block in range(blocks):
            convolutions: list[Shape] = [
                (width, in_channels, 1, 1),
                (width, width, 3, 3),
                (out_channels, width, 1, 1),
            ]
            if block == 0:  # the shortcut changes its width once per stage
                convolutions.append((out_channels, in_channels, 1, 1))
            for convolution in convolutions:
                # Each convolution has no bias; its batch norm has a weight and a bias.
                shapes += [convolution, (convolution[0],), (convolution[0],)]
            in_channels = out_channels
    shapes += [(1000, in_channels), (1000,)]
    return tuple(shapes)


def gpt2(width: int, layers: int) -> Shapes:
    """GPT-2 (Radford et al., 2019; the output embedding tied): small is 12 layers of width 768, XL 48 of 1600."""
    vocabulary, context = 50257, 1024
    shapes: list[Shape] = [(vocabulary, width), (context, width)]
    for _ in range(layers):
        shapes += [(width,), (width,), (width, 3 * width), (3 * width,), (width, width), (width,)]
        shapes += [(width,), (width,), (width, 4 * width), (4 * width,), (4 * width, width), (width,)]
    return (*shapes, (width,), (width,))


def vit_s16() -> Shapes:
    """The 152 parameters of ViT-S/16 (Touvron et al., 2021; 12 layers of width 384, images of 224 × 224)."""
    width = 384
    shapes: list[Shape] = [(1, 1, width), (1, 197, width), (width, 3, 16, 16), (width,)]
    for _ in range(12):
        shapes += [(width,), (width,), (3 * width, width), (3 * width,), (width, width), (width,)]
        shapes += [(width,), (width,), (4 * width, width), (4 * width,), (width, 4 * width), (width,)]
    shapes += [(width,), (width,), (1000, width), (1000,)]
    return tuple(shapes)


def llama_1b() -> Shapes:
    """The 146 parameters of Llama 3.2 1B (Grattafiori et al., 2024; 16 layers of width 2048, embedding tied)."""
    width, hidden, keys = 2048, 8192, 512
    shapes: list[Shape] = [(128_256, width)]
    for _ in range(16):
        shapes += [(width, width), (keys, width), (keys, width), (width, width)]
        shapes += [(hidden, width), (hidden, width), (width, hidden), (width,), (width,)]
    shapes.append((width,))
    return tuple(shapes)


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


def sample_indices(shapes: Shapes, max_tensors: int, max_elements: int) -> tuple[int, ...]:
    """Indices of tensors, spread evenly over the set, that together stay within both settings."""
    stride = max(1, len(shapes) // max_tensors)
    chosen: list[int] = []
    elements = 0
    for index in range(0, len(shapes), stride):
        size = math.prod(shapes[index])
        if len(chosen) < max_tensors and elements + size <= max_elements:
            chosen.append(index)
            elements += size
    assert chosen, f"every tensor is larger than {max_elements=}"
    return tuple(chosen)
