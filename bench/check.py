"""A benchmark of wrong results is worth nothing: after every row the competitors' parameters are compared.

The yardstick is the reference's own rounding error. The reference is run again in float64 for as many steps, on a
sample of the tensors with the same gradients (what the rest of the set contributes is its norm, and
bench/workload.py keeps that in proportion). The float32 reference's distance from it is E. Both sides of a comparison
may carry an error of that size; with a factor of two in hand that makes a tolerance of 4 E, plus one rounding of the
largest parameter for the case that the reference happens to be exact.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import Parameter

from bench.cases import OURS, Algorithm
from bench.shapes import sample_indices
from bench.workload import SCALES, Workload, norm_of

_SAMPLE_TENSORS = 64
_SAMPLE_ELEMENTS = 1 << 20
# Parameters must have moved this many tolerances, or a step that writes nothing would pass as well.
_MIN_TRAVEL = 100.0


@dataclass(frozen=True)
class Check:
    """How far the parameters ended from one another, all as the largest absolute difference of an element."""

    steps: int
    errors: Mapping[str, float]  # by contender, from the float64 run, over the sample
    differences: Mapping[str, float]  # by contender, from the float32 reference, over every parameter
    tolerance: float
    travel: float  # of the float64 run from the starting point

    def failures(self) -> list[str]:
        """What is wrong, one sentence each; empty when everything agrees."""
        found = []
        for what, distances in (("the float64 run", self.errors), ("the reference", self.differences)):
            for name, distance in distances.items():
                if not distance <= self.tolerance:  # NaN fails too
                    found.append(f"{name} is {distance:.3g} away from {what}, more than {self.tolerance:.3g}")
        if not self.travel >= _MIN_TRAVEL * self.tolerance:
            found.append(f"parameters moved only {self.travel:.3g}: agreement to {self.tolerance:.3g} proves nothing")
        return found


def _largest_difference(left: Sequence[Tensor], right: Sequence[Tensor]) -> float:
    differences = [float((a - b).abs().max()) for a, b in zip(left, right, strict=True)]
    # max() of Python floats would lose a NaN that is not in front.
    return float(torch.tensor(differences, dtype=torch.float64).max())


def _float64_run(
    algorithm: Algorithm, workload: Workload, start: Sequence[Tensor], indices: Sequence[int], steps: int
) -> list[Tensor]:
    source = [workload.source[index].double() for index in indices]
    parameters = [Parameter(value.double()) for value in start]
    step = algorithm.contenders[algorithm.reference](parameters, norm_of(source))
    for index in range(steps):
        for parameter, gradient in zip(parameters, source, strict=True):
            parameter.grad = gradient * SCALES[index % len(SCALES)]
        step()
    return [parameter.detach() for parameter in parameters]


@torch.no_grad()
def check_agreement(
    algorithm: Algorithm, workload: Workload, parameters: Mapping[str, Sequence[Parameter]], steps: int
) -> Check:
    """Compare all contenders' parameters after `steps` steps from the same start with the same gradients.

    Args:
        algorithm: the row.
        workload: its gradients and starting point.
        parameters: by contender, as they are now.
        steps: how many each has taken, the warm-up included.
    """
    indices = sample_indices(workload.shapes, _SAMPLE_TENSORS, _SAMPLE_ELEMENTS)
    start = workload.starting_values(indices)
    exact = _float64_run(algorithm, workload, start, indices, steps)
    reference = parameters[algorithm.reference]
    errors = {
        name: _largest_difference([values[index] for index in indices], exact) for name, values in parameters.items()
    }
    differences = {
        name: _largest_difference(values, reference)
        for name, values in parameters.items()
        if name != algorithm.reference
    }
    assert OURS in differences, "the float32 reference must be a competitor, not ours"
    rounding = torch.finfo(torch.float32).eps * max(float(value.abs().max()) for value in exact)
    tolerance = 4 * errors[algorithm.reference] + rounding
    travel = _largest_difference(exact, [value.double() for value in start])
    return Check(steps, errors, differences, tolerance, travel)
