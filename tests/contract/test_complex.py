"""Complex parameters: beside torch's optimizers, and as the real views that they are updated as."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import torchclip
from builders import NAMESAKES, each_namesake
from complex_pairs import CPU, DTYPES, TAKING, ComplexPair, gradients, optimizer_of, starts
from memory_guard import AWKWARD, FEW, same_bits
from recorded_plans import Read, Reader, settled
from records import ALL_EXTENSIONS, POLICIES, STEP_SIZES, dtype_name

each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)

SHAPES: dict[str, Callable[[torch.dtype], Tensor]] = {
    "three": lambda dtype: torch.randn(3, dtype=dtype),
    "sixty_four": lambda dtype: torch.randn(64, dtype=dtype),
    "thousand": lambda dtype: torch.randn(1000, dtype=dtype),
    "matrix": lambda dtype: torch.randn(5, 7, dtype=dtype),
    "transposed": lambda dtype: torch.randn(7, 5, dtype=dtype).t(),
    "every_second": lambda dtype: torch.randn(18, dtype=dtype)[1::2],
    "columns": lambda dtype: torch.randn(6, 9, dtype=dtype)[:, 2:7],
    "no_dimensions": lambda dtype: torch.randn((), dtype=dtype),
    "empty": lambda dtype: torch.randn(0, 3, dtype=dtype),
}


def strided_copy(tensor: Tensor) -> Tensor:
    """A copy of the same strides."""
    copy = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
    return copy.copy_(tensor)


# --- beside torch -------------------------------------------------------------------------------------------------


@each_dtype
@each_namesake
def test_agrees_with_torch(name: str, dtype: torch.dtype, backend: str) -> None:
    cls, torch_cls, options = NAMESAKES[name]
    options = {**options, "lr": 0.5}
    values = {shape: make(dtype) for shape, make in SHAPES.items()}
    params, copies = ([torch.nn.Parameter(strided_copy(value)) for value in values.values()] for _ in range(2))
    ours, theirs = cls(params, **options, backend=backend), torch_cls(copies, **options, foreach=False)
    for _ in range(5):
        for p, q in zip(params, copies):
            p.grad = torch.randn_like(q)
            q.grad = p.grad.clone()
        ours.step()
        theirs.step()
    # NAdam's mu_product is float32 beside complex128 too, here as there.
    close = {"rtol": 1e-5, "atol": 1e-5} if dtype is torch.complex64 else {"rtol": 1e-7, "atol": 1e-7}
    for shape, p, q in zip(values, params, copies):
        torch.testing.assert_close(p, q, **close, msg=lambda text, shape=shape: f"{shape}: {text}")
        mine = {key: value for key, value in ours.state[p].items() if value is not None}
        torchs = {key: value for key, value in theirs.state[q].items() if value is not None}
        assert mine.keys() == torchs.keys()
        for key, value in torchs.items():
            assert mine[key].dtype == value.dtype, key
            torch.testing.assert_close(mine[key], value, **close)


# --- as the real view ---------------------------------------------------------------------------------------------


def modified(backend: str) -> dict[str, Any]:
    """Options of an optimizer with a clip policy and all extensions."""
    return {"clip": 2.0, "extensions": ALL_EXTENSIONS.extensions, "seed": 7, "backend": backend}


@pytest.mark.parametrize("name", TAKING)
def test_step_is_that_of_the_real_view(name: str, backend: str) -> None:
    pair = ComplexPair(FEW, torch.complex64, lambda groups: optimizer_of(name, groups, **modified(backend)))
    pair.steps(range(1, 5))  # Lookahead ends its round


@each_dtype
def test_every_layout_is_that_of_the_real_view(dtype: torch.dtype, backend: str) -> None:
    pair = ComplexPair(AWKWARD, dtype, lambda groups: optimizer_of("adam", groups, **modified(backend)))
    pair.steps((1, 2, 3, 4, 5))  # the fifth with a gradient that is late


NOT_BY_ROWS = [clip for clip in POLICIES if not isinstance(clip.policy, torchclip.AdaptiveGradientClip)]


@pytest.mark.parametrize("clip", NOT_BY_ROWS, ids=lambda clip: clip.name)
def test_clip_policy_is_that_of_the_real_view(clip: Any, backend: str) -> None:
    pair = ComplexPair(
        FEW, torch.complex64, lambda groups: optimizer_of("adamw", groups, clip=clip.policy, backend=backend)
    )
    pair.steps((1, 2, 3))


@pytest.mark.parametrize("pace", STEP_SIZES, ids=lambda pace: pace.name)
def test_step_size_is_that_of_the_real_view(pace: Any, backend: str) -> None:
    pair = ComplexPair(
        FEW, torch.complex64, lambda groups: optimizer_of("sgd", groups, step_size=pace.step_size, backend=backend)
    )
    pair.steps((1, 2))


@pytest.mark.parametrize("scope", ("group", "tensor"))
def test_own_norms_are_those_of_the_real_view(scope: str, backend: str) -> None:
    pair = ComplexPair(
        FEW, torch.complex64, lambda groups: optimizer_of("mix_clip", groups, scope=scope, backend=backend)
    )
    pair.steps((1, 2, 3))


# The kernels are those of real parameters: what differs is the host's part.
@pytest.mark.parametrize("backend", ["triton"], indirect=True)
def test_triton_step_is_that_of_the_real_view(backend: str) -> None:
    for dtype in DTYPES:
        ComplexPair(FEW, dtype, lambda groups: optimizer_of("adamw", groups, **modified(backend))).steps((1, 2))


@each_dtype
def test_grad_scale_and_overflow(dtype: torch.dtype, backend: str) -> None:
    pair = ComplexPair(FEW, dtype, lambda groups: optimizer_of("adam", groups, clip=1.0, backend=backend))
    pair.steps((1, 2), grad_scale=torch.tensor(64.0), found_inf=torch.tensor(0.0))
    before = {key: value.clone() for key, value in pair.sides[0].numbers().items()}
    pair.steps((3,), grad_scale=torch.tensor(64.0), found_inf=torch.tensor(1.0))
    after = pair.sides[0].numbers()
    assert all(same_bits(after[key], value) for key, value in before.items())


@each_dtype
@pytest.mark.parametrize("name", ("sgd", "adamw", "rmsprop"))
def test_plans_read_the_real_view(name: str, dtype: torch.dtype) -> None:
    """For a complex parameter a plan hands over what it does for the real view of the same memory."""
    reads = []
    guards = [layout.guard_parameter(value, CPU) for layout, value in zip(AWKWARD, starts(AWKWARD, dtype))]
    given = [layout.guard_gradient(g, CPU) for layout, g in zip(AWKWARD, gradients(AWKWARD, dtype, 1))]
    options: dict[str, Any] = {"extensions": (torchclip.Lookahead(k=2),), "backend": "reference"}
    held: dict[int, dict[str, Tensor]] = {}
    for view in (lambda tensor: tensor, torch.view_as_real):
        params = [torch.nn.Parameter(view(guard.view)) for guard in guards]
        for param, gradient in zip(params, given):
            param.grad = view(gradient.view)
        optimizer = optimizer_of(name, params, **options)
        for position, param in enumerate(params):
            for key, value in held.get(position, {}).items():
                optimizer.state[param][key] = view(value) if value.is_complex() else value
        reads.append(settled(Reader(optimizer), optimizer))
        held = {position: optimizer.state[param] for position, param in enumerate(params)}
    ours, theirs = reads
    ours.assert_equal(theirs)
    assert isinstance(ours, Read) and bool(ours.tensors[:, 2].any())


# --- norms --------------------------------------------------------------------------------------------------------


def test_one_norm_over_real_and_complex_parameters(backend: str) -> None:
    params = [torch.nn.Parameter(torch.zeros(5, 3, dtype=dtype)) for dtype in (torch.complex64, torch.float32)]
    optimizer = torchclip.SGD(params, lr=0.5, clip=1.0, backend=backend)
    params[0].grad, params[1].grad = torch.randn(5, 3, dtype=torch.complex64), torch.randn(5, 3)
    optimizer.step()
    norm = math.hypot(*(float(torch.linalg.vector_norm(p.grad)) for p in params))
    assert optimizer.grad_norm.dtype is torch.float32
    assert float(optimizer.grad_norm) == pytest.approx(norm, rel=1e-6)
    for p in params:
        torch.testing.assert_close(p.detach(), -0.5 / (norm + 1e-6) * p.grad)


@each_dtype
def test_adaptive_clip_goes_by_rows_of_the_parameter(dtype: torch.dtype, backend: str) -> None:
    """A parameter of one dimension is one unit, and the parts of a number lie in one row."""
    shapes = [make(dtype) for make in SHAPES.values()] + [torch.randn(4, 3, 2, dtype=dtype).transpose(0, 2)]
    params = [torch.nn.Parameter(strided_copy(value)) for value in shapes]
    policy = torchclip.AdaptiveGradientClip(0.5)
    optimizer = torchclip.SGD(params, lr=0.5, clip=policy, backend=backend)
    for p in params:
        p.grad = torch.randn_like(p)
    expected = []
    for p in params:
        inner = tuple(range(1, p.ndim)) or None
        weight, gradient = (
            torch.linalg.vector_norm(tensor.detach(), dim=inner, keepdim=inner is not None) for tensor in (p, p.grad)
        )
        factor = (policy.clipping * weight.clamp(min=policy.eps) / gradient.clamp(min=1e-6)).clamp(max=1)
        expected.append(p.detach() - 0.5 * factor * p.grad)
    optimizer.step()
    for p, value in zip(params, expected):
        torch.testing.assert_close(p.detach(), value)
    assert float(optimizer.clip_factor) < 1


def test_sparsity_counts_complex_numbers(backend: str) -> None:
    p = torch.nn.Parameter(torch.tensor([0j, 1j, 1 + 0j, 1 + 1j]))
    optimizer = torchclip.SGD([p, torch.nn.Parameter(torch.ones(4))], lr=0.5, backend=backend)
    assert float(optimizer.metrics()["sparsity"]) == 1 / 8


def test_differentiable_step() -> None:
    """The gradient of a loss after the step with respect to the parameter before it."""
    start = torch.randn(3, 2, dtype=torch.complex128, requires_grad=True)
    given = torch.randn(3, 2, dtype=torch.complex128)

    def after(start: Tensor) -> Tensor:
        p = start.clone()
        p.retain_grad()  # without which .grad of what is no leaf warns
        p.grad = given * start.abs()
        torchclip.AdamW([p], lr=0.5, differentiable=True, clip=1.0).step()
        return p

    assert torch.autograd.gradcheck(after, (start,))
