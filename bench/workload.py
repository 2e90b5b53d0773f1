"""The tensors of one row: starting parameters and the gradients of every round, the same for all competitors.

All competitors share one set of gradients, written anew outside the timed region before each step, because torch's
clip_grad_norm_ rewrites `.grad`: otherwise it would find gradients that it has clipped already and drift away from
the others by its 1e-6 per step. It is also what training does, where the backward pass has just written them. The
gradients lie in one buffer, as those of DistributedDataParallel do, so that one operation writes them all: a
thousand would leave the processor's caches and branch predictors in a state that shows in a step of 100 us.

The gradient of round k is s_k · G. All rounds being multiples of one G keeps the norms of every direction over a
sample of the tensors in a fixed proportion to the norms over all of them. s_k cycles through sizes on both sides of
the clip threshold ‖G‖: with a constant gradient AdamW, which is invariant to its scale, would look right without
any clipping at all.
"""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import Parameter

from bench.shapes import Shape, Shapes

# Far above the 1e-6 that clip_grad_norm_ adds to a norm, which would otherwise show in the check on a sample.
GRADIENT_AMPLITUDE = 100.0
SCALES = (0.5, 2.0, 4.0)  # of ‖G‖, the clip threshold; powers of two, so that scaling is exact
_ALIGNMENT = 16  # elements: of float32 64 bytes, a cache line and what torch's own allocations are aligned to
_PARAMETER_SEED, _GRADIENT_SEED = 0, 1_000_000  # plus the index of the tensor


def _uniform(shape: Shape, seed: int, amplitude: float, device: torch.device, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator(device).manual_seed(seed)
    return torch.empty(shape, device=device, dtype=dtype).uniform_(-amplitude, amplitude, generator=generator)


def norm_of(tensors: Sequence[Tensor]) -> float:
    """The L2 norm of all tensors together, in float64."""
    return math.sqrt(math.fsum(float(torch.linalg.vector_norm(t, dtype=torch.float64)) ** 2 for t in tensors))


def _padded_size(shape: Shape) -> int:
    return -(-math.prod(shape) // _ALIGNMENT) * _ALIGNMENT


def _carve(buffer: Tensor, shapes: Shapes) -> tuple[Tensor, ...]:
    tensors, offset = [], 0
    for shape in shapes:
        view = buffer[offset : offset + math.prod(shape)].view(shape)
        # set_: gradients are no views elsewhere, and writing to a view in place costs autograd a little more.
        tensor = torch.empty(0, device=buffer.device, dtype=buffer.dtype)
        tensors.append(tensor.set_(buffer.untyped_storage(), offset, view.shape, view.stride()))
        offset += _padded_size(shape)
    return tuple(tensors)


class Workload:
    """Shapes, the unscaled gradient G, uniform around 0, and the gradients that every competitor's parameters share."""

    def __init__(
        self, shapes: Shapes, device: torch.device, dtype: torch.dtype = torch.float32, size: float = GRADIENT_AMPLITUDE
    ) -> None:
        self.shapes = shapes
        # Tensor by tensor, each padded to the alignment.
        self._source = torch.zeros(sum(map(_padded_size, shapes)), device=device, dtype=dtype)
        self._gradients = torch.zeros_like(self._source)
        self.source, self.gradients = _carve(self._source, shapes), _carve(self._gradients, shapes)
        for index, tensor in enumerate(self.source):
            tensor.copy_(_uniform(shapes[index], _GRADIENT_SEED + index, size, device, dtype))
        self.source_norm = norm_of(self.source)

    def starting_values(self, indices: Iterable[int]) -> list[Tensor]:
        """Where the parameters with these indices start, uniform in ±1; new tensors at every call."""
        of = self._source.device, self._source.dtype
        return [_uniform(self.shapes[index], _PARAMETER_SEED + index, 1.0, *of) for index in indices]

    def parameters(self) -> list[Parameter]:
        """Parameters of a competitor's own, on the gradients that all share."""
        parameters = [Parameter(value) for value in self.starting_values(range(len(self.shapes)))]
        for parameter, gradient in zip(parameters, self.gradients, strict=True):
            parameter.grad = gradient
        return parameters

    def refill(self, round_index: int) -> None:
        """Write the gradients of this round."""
        torch.mul(self._source, SCALES[round_index % len(SCALES)], out=self._gradients)
