"""Tensors read by DLPack: the same steps as with torch's own structures, bit by bit, and the same refusals."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import torchclip
from places import ROOT
from portable import portable
from torchclip.backends import native

pytestmark = pytest.mark.skipif(native.NATIVE is None, reason="torchclip._C is not built")

SHAPES = [(), (1,), (7,), (0, 3), (5, 3), (2, 3, 4), (70, 70)]
MANY = [(3,)] * 300  # more than one thread takes

OPTIMIZERS: dict[str, Callable[[list[Tensor]], Any]] = {
    "sgd": lambda p: torchclip.SGD(p, lr=0.1, momentum=0.9, clip=1.0, backend="cpu"),
    "adamw": lambda p: torchclip.AdamW(p, lr=0.1, amsgrad=True, clip=torchclip.ClipByTensorNorm(0.5), backend="cpu"),
    "lookahead": lambda p: torchclip.SGD(p, lr=0.1, extensions=(torchclip.Lookahead(k=2),), backend="cpu"),
    "adagrad_norm": lambda p: torchclip.AdaGradNorm(p, lr=0.1, scope="row", backend="cpu"),
    "grda": lambda p: torchclip.GRDA(p, lr=0.1, c=0.05, mu=0.5, backend="cpu"),
}


def parameters(shapes: list[tuple[int, ...]], dtype: torch.dtype) -> list[Tensor]:
    torch.manual_seed(1)
    made = [torch.randn(shape).to(dtype) for shape in shapes]
    made += [torch.randn(4, 6).to(dtype).t(), torch.randn(9, 4).to(dtype)[:, ::2]]
    return [torch.nn.Parameter(each) for each in made]


def stepped(optimizer: Any, tensors: list[Tensor]) -> list[Any]:
    """Steps with gradients that come, go, lie elsewhere and differently; what is left."""
    torch.manual_seed(2)
    reports = []
    for number in range(5):
        for index, parameter in enumerate(tensors):
            gradient = torch.randn_like(parameter)
            strided = torch.randn(*parameter.shape, 2).to(parameter.dtype)[..., 0]
            parameter.grad = (None, gradient, strided)[(index + number) % 3 if number > 2 else 1]
        if number == 3:
            tensors[4].data = tensors[4].data.clone()
        optimizer.step()
        reports.append(optimizer.metrics())
    states = [optimizer.state[parameter] for parameter in tensors]
    return [tensors, states, [parameter._version for parameter in tensors], reports]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_both_readers_take_the_same_steps(name: str, dtype: torch.dtype) -> None:
    shapes = SHAPES + (MANY if name == "sgd" else [])
    theirs = parameters(shapes, dtype)
    expected = stepped(OPTIMIZERS[name](theirs), theirs)
    with portable() as module:
        assert module.reader() == "dlpack"
        ours = parameters(shapes, dtype)
        torch.testing.assert_close(stepped(OPTIMIZERS[name](ours), ours), expected, rtol=0, atol=0, equal_nan=True)


def test_complex_parameters_and_a_lazy_conjugate() -> None:
    with portable():
        parameter = torch.nn.Parameter(torch.ones(3, dtype=torch.complex64))
        optimizer = torchclip.SGD([parameter], lr=0.5, backend="cpu")
        parameter.grad = torch.full((3,), 1 + 1j, dtype=torch.complex64)
        optimizer.step()
        assert parameter.tolist() == [0.5 - 0.5j] * 3
        parameter.grad = torch.full((3,), 1 + 1j, dtype=torch.complex64).conj()
        refuses(optimizer, parameter)


def refuses(optimizer: Any, parameter: Tensor) -> None:
    """The step raises, and writes nothing; or it is right, since torch resolves what is lazy."""
    before, gradient = parameter.detach().clone(), parameter.grad
    assert gradient is not None
    try:
        optimizer.step()
    except RuntimeError:
        assert torch.equal(parameter, before)
    else:
        assert torch.equal(parameter, before - 0.5 * gradient.resolve_conj().resolve_neg())


UNREACHABLE: dict[str, Callable[[], Tensor]] = {
    "negative": lambda: torch._neg_view(torch.ones(3)),
    "imaginary": lambda: torch.full((3,), 1 + 2j, dtype=torch.complex64).conj().imag,
    "zeros": lambda: torch._efficientzerotensor(3),
    "sparse": lambda: torch.ones(3).to_sparse(),
}


@pytest.mark.parametrize("kind", UNREACHABLE)
def test_gradients_without_elements_of_their_own(kind: str) -> None:
    with portable():
        parameter = torch.nn.Parameter(torch.ones(3))
        optimizer = torchclip.SGD([parameter], lr=0.5, backend="cpu")
        for _ in range(2):
            parameter.grad = torch.ones(3)
            optimizer.step()
        parameter.grad = UNREACHABLE[kind]()
        refuses(optimizer, parameter)


def test_a_gradient_that_becomes_a_negated_view_where_it_lies() -> None:
    with portable():
        parameter = torch.nn.Parameter(torch.ones(3))
        optimizer = torchclip.SGD([parameter], lr=0.5, backend="cpu")
        values = parameter.grad = torch.ones(3)
        for _ in range(2):
            optimizer.step()
        parameter.grad = None
        parameter.grad = torch._neg_view(values)
        assert parameter.grad.data_ptr() == values.data_ptr()
        refuses(optimizer, parameter)


@pytest.mark.parametrize("what", ["parameter", "momentum_buffer"])
def test_a_parameter_or_its_state_that_becomes_a_negated_view_elsewhere(what: str) -> None:
    with portable():
        parameter = torch.nn.Parameter(torch.ones(3))
        optimizer = torchclip.SGD([parameter], lr=0.5, momentum=0.9, backend="cpu")
        parameter.grad = torch.ones(3)
        for _ in range(2):
            optimizer.step()
        changed = parameter if what == "parameter" else optimizer.state[parameter][what]
        changed.data = torch._neg_view(-changed.detach())
        before = parameter.detach().clone()
        with pytest.raises((RuntimeError, ValueError), match="negated"):
            optimizer.step()
        assert torch.equal(parameter, before)


def test_memory_that_is_freed_is_noticed() -> None:
    """Of a view too, whose address torch still gives as its offset."""
    with portable():
        whole = torch.ones(64)
        parameter = torch.nn.Parameter(whole[32:])
        parameter.grad = torch.ones(32)
        optimizer = torchclip.SGD([parameter], lr=0.5, backend="cpu")
        optimizer.step()
        whole.untyped_storage().resize_(0)
        with pytest.raises(RuntimeError, match="has no memory: its storage was resized to 0"):
            optimizer.step()


def test_gradients_may_go_while_a_long_pass_runs() -> None:
    with portable():
        parameter = torch.nn.Parameter(torch.ones(1 << 21))
        optimizer = torchclip.SGD([parameter], lr=0.5, clip=1e9, backend="cpu")
        ends = threading.Event()

        def replace() -> None:
            while not ends.is_set():
                parameter.grad = torch.ones_like(parameter)

        parameter.grad = torch.ones_like(parameter)
        thread = threading.Thread(target=replace)
        thread.start()
        for _ in range(20):
            optimizer.step()
        ends.set()
        thread.join()
        assert torch.equal(parameter, torch.full_like(parameter, 1 - 20 * 0.5))


@pytest.mark.thorough  # the same tests again
def test_the_contract_holds_with_the_portable_reader() -> None:
    files = ["unit/test_unreachable_tensors.py", "unit/test_counting_zeros.py", "kernels/test_conformance.py"]
    files += [f"contract/test_{name}.py" for name in ("complex_refusals", "layouts", "threads", "step_contract")]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "not thorough"]
    command += ["-k", "not cuda and not triton", *(str(ROOT / "tests" / file) for file in files)]
    environment = {**os.environ, "TORCHCLIP_READER": "dlpack"}
    finished = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout[-4000:]
