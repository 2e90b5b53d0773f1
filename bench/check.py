"""A benchmark of wrong results is worth nothing: after every row the competitors' parameters are compared.

The yardstick is the reference's own rounding error. The reference is run again in float64 for as many steps, on a
sample of the tensors with the same gradients (what the rest of the set contributes is its norm, and
bench/workload.py keeps that in proportion). The float32 reference's distance from it is E. Both sides of a comparison
may carry an error of that size; with a factor of two in hand that makes a tolerance of 4 E, plus one rounding of the
largest parameter for the case that the reference happens to be exact.

Where all contenders compute the same, the reference is one of them and has been run on everything in float32. Where
nobody else computes what ours does, the reference is the reference path, which needs a second to draw for a set's
millions of elements: there the sample is the beginnings of a few tensors, the float32 run is on the sample too, and
both stop after the first steps. Two kinds of row have ours run on the sample alone too: those whose norms are of what
draws have changed, which is in no proportion to the whole; and float64, in which the 1e-6 beside a norm shows.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import Parameter

from bench.algorithm import OURS, Algorithm, Build
from bench.shapes import Shapes
from bench.workload import SCALES, Workload, norm_of

_SAMPLE_TENSORS = 64
_SAMPLE_ELEMENTS = 1 << 20
_YARDSTICK_TENSORS = 8
_YARDSTICK_LENGTH = 1 << 14  # elements of each tensor
_YARDSTICK_STEPS = 25  # several cycles of Lookahead
# Parameters must have moved this many tolerances, or a step that writes nothing would pass as well.
_MIN_TRAVEL = 100.0
_MIN_TRAVEL_16_BITS = 3.0  # where a parameter that goes further has lost what it started from to rounding
_REFERENCE_PATH = "reference path"


@dataclass(frozen=True)
class Check:
    """How far the parameters ended from one another, all as the largest absolute difference of an element."""

    steps: int
    errors: Mapping[str, float]  # by contender, from the float64 run, over the sample
    differences: Mapping[str, float]  # by contender, from the float32 reference, over every parameter
    tolerance: float
    travel: float  # of the float64 run from the starting point
    min_travel: float = _MIN_TRAVEL  # in tolerances

    def failures(self) -> list[str]:
        """What is wrong, one sentence each; empty when everything agrees."""
        found = []
        for what, distances in (("the float64 run", self.errors), ("the reference", self.differences)):
            for name, distance in distances.items():
                if not distance <= self.tolerance:  # NaN fails too
                    found.append(f"{name} is {distance:.3g} away from {what}, more than {self.tolerance:.3g}")
        if not self.travel >= self.min_travel * self.tolerance:
            found.append(f"parameters moved only {self.travel:.3g}: agreement to {self.tolerance:.3g} proves nothing")
        return found


def _largest_difference(left: Sequence[Tensor], right: Sequence[Tensor]) -> float:
    differences = [float((a - b).abs().max()) for a, b in zip(left, right, strict=True)]
    # max() of Python floats would lose a NaN that is not in front.
    return float(torch.tensor(differences, dtype=torch.float64).max())


def sample_indices(shapes: Shapes) -> list[int]:
    """Indices of tensors, spread evenly over the set, that together stay within both limits of a sample."""
    chosen: list[int] = []
    left = _SAMPLE_ELEMENTS
    for index in range(0, len(shapes), max(1, len(shapes) // _SAMPLE_TENSORS)):
        if len(chosen) < _SAMPLE_TENSORS and (size := math.prod(shapes[index])) <= left:
            chosen.append(index)
            left -= size
    assert chosen, "every tensor is larger than a sample may be"
    return chosen


def _beginning(tensor: Tensor) -> Tensor:
    return tensor.detach().flatten()[:_YARDSTICK_LENGTH].clone()


class Checker:
    """Compares the contenders of a row on a sample on which the reference can be run by itself.

    Contenders that have a yardstick are looked at in passing, after `_YARDSTICK_STEPS` steps or else at the end; the
    others are compared at the end.
    """

    def __init__(self, algorithm: Algorithm, workload: Workload, parameters: Mapping[str, Sequence[Parameter]]) -> None:
        self._algorithm, self._parameters = algorithm, parameters
        self._seen: dict[str, tuple[int, list[Tensor]]] = {}
        self._positions = count = len(workload.shapes)
        if algorithm.yardsticks:
            # The first elements of some tensors: an elementwise rule does to them what it does to all. One at a time,
            # because the largest tensors take a hundred megabytes.
            self._indices: Sequence[int] = range(0, count, max(1, count // _YARDSTICK_TENSORS))[:_YARDSTICK_TENSORS]
            self._start = [_beginning(workload.starting_values([index])[0]) for index in self._indices]
            self._source = [_beginning(workload.source[index]) for index in self._indices]
        else:  # whole tensors, spread evenly over the set; the optimizer does not know of the others
            self._indices = sample_indices(workload.shapes)
            self._start = workload.starting_values(self._indices)
            self._source = [workload.source[index] for index in self._indices]
            self._positions = len(self._indices)
        self._dtype = self._start[0].dtype

    def look(self, name: str, steps: int, last: bool = False) -> None:
        """To be called between the steps of a contender, with the number of those taken."""
        if name in self._algorithm.yardsticks and name not in self._seen and (last or steps == _YARDSTICK_STEPS):
            self._seen[name] = steps, [_beginning(self._parameters[name][index]) for index in self._indices]

    @torch.no_grad()
    def checks(self, steps: int) -> Mapping[str, Check]:
        """What came out, ours first, when each has taken so many steps, the warm-up included."""
        algorithm = self._algorithm
        if algorithm.yardsticks:
            return {name: self._beside_yardstick(name, steps) for name in algorithm.yardsticks}
        assert algorithm.reference is not None
        same = {name: values for name, values in self._parameters.items() if name not in algorithm.different}
        exact = self._run(algorithm.contenders[algorithm.reference], steps, torch.float64)
        errors = {
            name: _largest_difference([values[index] for index in self._indices], exact)
            for name, values in same.items()
        }
        reference = same.pop(algorithm.reference)
        differences = {name: _largest_difference(values, reference) for name, values in same.items()}
        return {OURS: self._check(steps, exact, errors, differences, algorithm.reference)}

    def _beside_yardstick(self, name: str, steps: int) -> Check:
        """One contender beside the reference path's run of the same."""
        self.look(name, steps, last=True)
        steps, values = self._seen[name]
        build = self._algorithm.yardsticks[name]
        single, exact = self._run(build, steps, self._dtype), self._run(build, steps, torch.float64)
        if self._algorithm.checked_alone:
            values = self._run(self._algorithm.contenders[name], steps, self._dtype)
        errors = {name: _largest_difference(values, exact), _REFERENCE_PATH: _largest_difference(single, exact)}
        return self._check(steps, exact, errors, {name: _largest_difference(values, single)}, _REFERENCE_PATH)

    def _run(self, build: Build, steps: int, dtype: torch.dtype) -> list[Tensor]:
        """The sample's parameters after `steps` steps, computed in `dtype`.

        Among more positions the tensors of the sample stand at their own, the others being empty, since random draws
        depend on the position.
        """
        source = [tensor.to(dtype) for tensor in self._source]
        sample = [Parameter(tensor.to(dtype, copy=True)) for tensor in self._start]
        parameters = sample
        if self._positions > len(sample):
            placed = dict(zip(self._indices, sample, strict=True))
            parameters = [placed.get(index, Parameter(source[0].new_empty(0))) for index in range(self._positions)]
        step = build(parameters, norm_of(source))
        for index in range(steps):
            for parameter, gradient in zip(sample, source, strict=True):
                parameter.grad = gradient * SCALES[index % len(SCALES)]
            step()
        return [parameter.detach() for parameter in sample]

    def _check(
        self,
        steps: int,
        exact: Sequence[Tensor],
        errors: Mapping[str, float],
        differences: Mapping[str, float],
        reference: str,
    ) -> Check:
        rounding = torch.finfo(self._dtype).eps * max(float(value.abs().max()) for value in exact)
        if self._dtype is torch.float64:  # there is no wider type to measure its error by
            rounding *= steps
        travel = _largest_difference(exact, [value.double() for value in self._start])
        min_travel = _MIN_TRAVEL_16_BITS if self._dtype.itemsize == 2 else _MIN_TRAVEL
        return Check(steps, errors, differences, 4 * errors[reference] + rounding, travel, min_travel)
