"""An optimizer of parameters that several processes share, beside one of the same parameters in one process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, wraps
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, distribute_tensor

from builders import LOSS

SHAPES = ((7, 5), (3,), (4, 6, 2), (), (8, 4), (1, 9))
"""Of parameters: uneven ones, some of which leave processes without an element."""

Placements = tuple[DeviceMesh, Sequence[Any]] | None
"""Mesh and placements of one parameter; None for a plain tensor, of which every process has a copy."""

TOLERANCE = 3e-7


@cache
def mesh_of(*shape: int) -> DeviceMesh:
    names = ("outer", "inner")[: len(shape)]
    return init_device_mesh("cpu", shape, mesh_dim_names=names)


@cache
def alone() -> dist.ProcessGroup:
    """A group of this process, in which an optimizer asks nobody."""
    groups = [dist.new_group([rank]) for rank in range(dist.get_world_size())]
    return groups[dist.get_rank()]


def values(shapes: Sequence[tuple[int, ...]], seed: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """The same in every process."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]


def spread(value: Tensor, placements: Placements) -> Tensor:
    """This process's part of a tensor that all have."""
    return value.clone() if placements is None else distribute_tensor(value, *placements, src_data_rank=None)


def part_of(value: Tensor, like: Tensor) -> Tensor:
    """What this process holds of ``value``, laid out as ``like`` is."""
    if not isinstance(like, DTensor):
        return value
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None).to_local()


Case = Callable[[], None]

_chosen: list[str | None] = ["reference"]
"""The last is the backend of the optimizers that are made; None lets them choose a compiled one."""

_compiled: list[str] = ["cpu"]
"""The last is the compiled one that they choose then."""


def compiled() -> str:
    """The compiled backend that serves parameters here."""
    return _compiled[-1]


@contextmanager
def compiled_by(backend: str) -> Iterator[None]:
    """Meanwhile optimizers are of that compiled backend, which is asked for where it is not what they choose."""
    _chosen.append("triton" if backend == "triton" else None)
    _compiled.append(backend)
    try:
        yield
    finally:
        _chosen.pop()
        _compiled.pop()


def on_both(case: Case) -> Case:
    """The case on the reference path, and again on the compiled backend that serves it."""

    @wraps(case)
    def run() -> None:
        for backend in ("reference", None):
            _chosen.append(backend)
            try:
                case()
            finally:
                _chosen.pop()

    return run


class Twins:
    """The two optimizers, of one backend.

    Args:
        build: makes an optimizer of param groups, with the arguments that it is given.
        placements: how the parameters are spread, by position and shape.
        groups: how many param groups there are.
        shapes: of the parameters.
        dtype: theirs.
        memory_format: theirs.
        compiles: whether a compiled backend serves them.
    """

    def __init__(
        self,
        build: Callable[..., Any],
        placements: Callable[[int, tuple[int, ...]], Placements],
        groups: int = 2,
        shapes: Sequence[tuple[int, ...]] = SHAPES,
        dtype: torch.dtype = torch.float32,
        memory_format: torch.memory_format = torch.contiguous_format,
        compiles: bool = True,
    ) -> None:
        whole = [value.contiguous(memory_format=memory_format) for value in values(shapes, 1, dtype)]
        self.shapes, self.dtype = shapes, dtype
        self.single = [torch.nn.Parameter(value.clone()) for value in whole]
        self.shared = [
            torch.nn.Parameter(spread(value, placements(index, tuple(value.shape))))
            for index, value in enumerate(whole)
        ]
        backend = _chosen[-1]
        self._remake = lambda: build(_groups(self.shared, groups), backend=backend)
        self.optimizer = self._remake()
        # Every number of the single one is what one process comes to, on the same path.
        path = self.optimizer.backend
        assert path == (backend or (compiled() if compiles else "reference")), self.optimizer.backend_reason
        self.expected = build(_groups(self.single, groups), norm_group=alone(), backend=path)

    def step(self, number: int, missing: Sequence[int] = (), scale: float = 1.0, **options: Any) -> None:
        """One of both, with the same gradients."""
        self.give(number, missing, scale)
        self.expected.step(**{"loss": LOSS, **options})
        self.optimizer.step(**{"loss": LOSS, **options})

    def reload(self) -> None:
        """The sharded optimizer goes on as one that has loaded its state."""
        saved = self.optimizer.state_dict()
        self.optimizer = self._remake()
        self.optimizer.load_state_dict(saved)

    def give(self, number: int, missing: Sequence[int] = (), scale: float = 1.0) -> None:
        """The same gradients to both."""
        for index, gradient in enumerate(values(self.shapes, 100 + number, self.dtype)):
            single, shared = self.single[index], self.shared[index]
            single.grad = shared.grad = None
            if index not in missing:
                single.grad = gradient * scale
                local = part_of(gradient * scale, shared)
                shared.grad = (
                    DTensor.from_local(
                        local,
                        shared.device_mesh,
                        shared.placements,
                        run_check=False,
                        shape=shared.shape,
                        stride=shared.stride(),
                    )
                    if isinstance(shared, DTensor)
                    else local
                )

    def check(self, tolerance: float = TOLERANCE, *, measured: bool = True) -> None:
        """Parameters, state and measurements are alike; the last not where they are not ``measured``."""
        for index, (single, shared) in enumerate(zip(self.single, self.shared)):
            own = part_of(single.detach(), shared)
            assert_near(local_part(shared), own, tolerance, f"parameter {index}", among=single.detach())
            held = self.optimizer.state.get(shared, {})
            for name, value in self.expected.state.get(single, {}).items():
                own, what = part_of(value, held[name]), f"{name} of parameter {index}"
                assert_near(local_part(held[name]), own, tolerance, what, among=value)
        if not measured:
            return
        assert self.optimizer.metrics().keys() == self.expected.metrics().keys()
        for name, value in self.expected.metrics().items():
            assert_near(self.optimizer.metrics()[name], value, tolerance, name)


def _groups(parameters: Sequence[Tensor], count: int) -> list[dict[str, Any]]:
    size = -(-len(parameters) // count)
    return [{"params": list(parameters[begin : begin + size])} for begin in range(0, len(parameters), size)]


def local_part(tensor: Tensor) -> Tensor:
    """What this process holds of it."""
    return tensor.detach().to_local() if isinstance(tensor, DTensor) else tensor.detach()


def assert_near(left: Tensor, right: Tensor, tolerance: float, what: str, among: Tensor | None = None) -> None:
    """By the largest of the numbers, or of those that ``right`` is a part of; bit for bit for a tolerance of 0."""
    assert left.shape == right.shape and left.dtype == right.dtype, f"{what}: {left} beside {right}"
    if left.numel() == 0:
        return
    wide = torch.promote_types(left.dtype, torch.float64)
    far = (left.to(wide) - right.to(wide)).abs().max()
    bound = tolerance * max(float((right if among is None else among).to(wide).abs().max()), 1e-30)
    assert bool(far <= bound), f"{what} is {float(far)} away, where {bound} is allowed: {left} beside {right}"


@contextmanager
def counted() -> Iterator[list[str]]:
    """The names of the collectives that are called meanwhile."""
    seen: list[str] = []
    kept = {name: getattr(dist, name) for name in ("all_reduce", "all_gather", "broadcast", "all_gather_object")}

    def counting(name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            seen.append(name)
            return kept[name](*arguments, **options)

        return call

    for name in kept:
        setattr(dist, name, counting(name))
    try:
        yield seen
    finally:
        for name, function in kept.items():
            setattr(dist, name, function)
