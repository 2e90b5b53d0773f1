"""Values that are written into a param group between two steps: refused before anything is written, or taken.

Every backend says the same: which key, which group, what came and what was wanted. Once the value is put right, the
next step is as if there had been no error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import torchclip
from builders import LOSS, OPTIMIZERS, build, each_optimizer, leaves
from memory_guard import same_bits
from records import BACKENDS
from torchclip.rules.hyperparameters import RUN_FLAGS

each_backend = pytest.mark.parametrize("backend", BACKENDS, indirect=True)
"""The interpreted one too."""

MISSING = object()


@dataclass(frozen=True)
class BadValue:
    """What is written under a key, and what the error says."""

    name: str
    key: str
    value: Any
    message: str
    error: type[Exception] = ValueError


ONE = "must be a finite number of at least 0, and a list came"
PAIR = r"a pair \(beta1, beta2\) is wanted, each at least 0 and below 1"

BAD_VALUES = (
    BadValue("sgd", "lr", [0.1, 0.2], rf"Invalid learning rate: \[0.1, 0.2\]; it {ONE}"),
    BadValue("adamw", "lr", [0.1, 0.1, 0, 1], rf"Invalid learning rate: \[0.1, 0.1, 0, 1\]; it {ONE}"),
    BadValue("adamw", "lr", torch.ones(2), r"Tensor lr must be 1-element, got shape \(2,\)"),
    BadValue("adamw", "lr", "1e-3", r"lr='1e-3' is text \(str\).*write lr=0.001 without quotes"),
    BadValue("adamw", "lr", -0.1, "Invalid learning rate: -0.1; it must be a finite number of at least 0"),
    BadValue("adamw", "lr", None, "Invalid learning rate: None; it must be a finite number of at least 0"),
    BadValue("adamw", "lr", MISSING, "param group 1 has no 'lr'.*its default is 0.1", KeyError),
    BadValue("sgd", "lr", MISSING, "param group 1 has no 'lr'.*its default is 0.1", KeyError),
    BadValue("adamw", "weight_decay", MISSING, "param group 1 has no 'weight_decay'.*default is 0.01", KeyError),
    BadValue("adamw", "amsgrad", MISSING, "param group 1 has no 'amsgrad'.*its default is False", KeyError),
    BadValue("adamw", "weight_decay", [0.1, 0.2], r"Invalid weight_decay value: \[0.1, 0.2\]; it " + ONE),
    BadValue("sgdw", "momentum", [0.9, 0.5], r"Invalid momentum value: \[0.9, 0.5\]; it " + ONE),
    BadValue(
        "sgdw", "momentum", (), r"Invalid momentum value: \(\); it must be a finite number of at least 0, and a t"
    ),
    BadValue("adamw", "betas", (0.9,), rf"Invalid beta parameters: \(0.9,\); {PAIR}"),
    BadValue("adamw", "betas", (0.9, 0.99, 0.999), rf"Invalid beta parameters: \(0.9, 0.99, 0.999\); {PAIR}"),
    BadValue("adamw", "betas", 0.9, f"Invalid beta parameters: 0.9; {PAIR}"),
    BadValue("adamw", "betas", (), rf"Invalid beta parameters: \(\); {PAIR}"),
    BadValue("adamw", "betas", {0.9, 0.99}, f"Invalid beta parameters: {{.*}}; {PAIR}"),
    BadValue("adamw", "betas", torch.ones(3), rf"Invalid beta parameters: tensor.*; {PAIR}"),
    BadValue("adamw", "betas", ((0.9, 0.1), 0.99), r"Invalid beta parameter at index 0: \(0.9, 0.1\); it must be at"),
    BadValue("adamw", "betas", (1.0, 0.99), "Invalid beta parameter at index 0: 1.0; it must be at least 0 and below"),
    BadValue("adamw", "betas", (0.9, "0.99"), r"betas\[1\]='0.99' is text \(str\).*write betas\[1\]=0.99 without"),
    BadValue("adamw", "maximize", "False", r"maximize='False' is text \(str\).*must be True or False"),
    BadValue("adamw", "maximize", 2, "Invalid flag: 2; it must be True or False"),
    BadValue("adamw", "amsgrad", "no", r"amsgrad='no' is text \(str\).*must be True or False"),
    BadValue("adamw", "decoupled_weight_decay", [True], r"Invalid decoupled_weight_decay: \[True\]; it must be True"),
    BadValue("adamw", "foreach", "False", r"foreach='False' is text \(str\).*must be True or False"),
    BadValue("adamw", "differentiable", "False", r"differentiable='False' is text \(str\).*must be True or False"),
    BadValue("sgd", "dampening", 0.5, "Nesterov momentum requires a momentum and zero dampening; got dampening=0.5"),
    BadValue("grda", "weight_decay", 0.1, "GRDA has no weight_decay, and param group 1 sets weight_decay=0.1: leave"),
    BadValue("grda", "maximize", True, "GRDA has no maximize, and param group 1 sets maximize=True: leave it out"),
    BadValue("ada_grad_norm", "b0", 0.0, "Invalid b0 value: 0.0; it must be a finite number above 0"),
)


def write(group: dict[str, Any], key: str, value: Any) -> None:
    """As a script would, or ``del``."""
    if value is MISSING:
        group.pop(key, None)
    else:
        group[key] = value


class Subject:
    """An optimizer over two groups; all of a name start alike and are given the same gradients."""

    def __init__(self, name: str, backend: str, **options: Any) -> None:
        torch.manual_seed(1)
        self.params = leaves(3)
        groups = [{"params": self.params[:2]}, {"params": self.params[2:]}]
        self.optimizer = build(name, groups, **{"clip": 1.0, **options}, backend=backend)
        self.number = 0

    def step(self) -> None:
        self.number += 1
        generator = torch.Generator().manual_seed(self.number)
        for p in self.params:
            p.grad = torch.randn(p.shape, generator=generator)
        self.optimizer.step(loss=LOSS)

    def numbers(self) -> dict[str, Tensor]:
        """A copy of all that a step may write."""
        found: dict[str, Any] = {}
        for i, p in enumerate(self.params):
            found |= {f"p{i}": p.detach(), f"grad {i}": p.grad}
            found |= {f"{name} of {i}": value for name, value in self.optimizer.state.get(p, {}).items()}
        for i, group in enumerate(self.optimizer.param_groups):
            found |= {f"{name} of group {i}": value for name, value in group.get("shared", {}).items()}
        return {name: value.clone() for name, value in found.items() if value is not None}


def assert_same(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Bit for bit."""
    assert actual.keys() == expected.keys()
    different = [name for name, value in expected.items() if not same_bits(actual[name], value)]
    assert not different, different


@pytest.mark.parametrize("steps", (0, 2), ids=("first", "later"))
@pytest.mark.parametrize("bad", BAD_VALUES, ids=lambda bad: f"{bad.name}-{bad.key}-{len(str(bad.value))}")
@each_backend
def test_a_bad_value_is_refused_before_anything_is_written(bad: BadValue, steps: int, backend: str) -> None:
    tested, twin = Subject(bad.name, backend), Subject(bad.name, backend)
    for _ in range(steps):
        tested.step()
        twin.step()
    group = tested.optimizer.param_groups[1]
    kept, before = group.get(bad.key, MISSING), tested.numbers()
    write(group, bad.key, bad.value)
    for _ in range(2):  # it is no better the second time
        with pytest.raises(bad.error, match=bad.message) as raised:
            tested.optimizer.step(loss=LOSS)
        assert "group 1" in str(raised.value) and bad.key in str(raised.value)
    assert_same(tested.numbers(), before)
    write(group, bad.key, kept)
    for _ in range(2):
        tested.step()
        twin.step()
        assert_same(tested.numbers(), twin.numbers())
        if "grad_norm" in twin.optimizer.metrics():
            assert_same(tested.optimizer.metrics(), twin.optimizer.metrics())


@each_optimizer
def test_a_key_that_is_missing_is_an_error(name: str, backend: str) -> None:
    tested = Subject(name, backend)
    tested.step()
    before = tested.numbers()
    group = tested.optimizer.param_groups[0]
    for key in [key for key in tested.optimizer.defaults if key not in RUN_FLAGS]:
        kept = group.pop(key)
        with pytest.raises(KeyError, match=f"param group 0 has no '{key}', which every step reads"):
            tested.optimizer.step(loss=LOSS)
        group[key] = kept
    assert_same(tested.numbers(), before)
    for flag in RUN_FLAGS:  # these say how a step runs, and older checkpoints lack them
        group.pop(flag, None)
    tested.step()


# What is taken: the numbers of torch, numpy and configuration files, in every place.


class ListConfig(Sequence[Any]):
    """As omegaconf's: a sequence that is neither a list nor a tuple."""

    def __init__(self, *items: Any) -> None:
        self.items = items

    def __getitem__(self, index: Any) -> Any:
        return self.items[index]

    def __len__(self) -> int:
        return len(self.items)


TAKEN: tuple[tuple[str, str, Callable[[], Any], Any], ...] = (
    ("sgd", "lr", lambda: np.float32(0.1), float(np.float32(0.1))),
    ("sgd", "lr", lambda: np.float64(0.1), 0.1),
    ("sgd", "lr", lambda: np.int64(1), 1.0),
    ("sgd", "lr", lambda: np.array(0.25), 0.25),
    ("sgd", "lr", lambda: torch.tensor(0.25), 0.25),
    ("sgd", "lr", lambda: torch.tensor([0.25]), 0.25),
    ("sgd", "lr", lambda: True, 1.0),
    ("sgd", "momentum", lambda: np.float16(0.5), 0.5),
    ("sgd", "nesterov", lambda: None, False),
    ("sgd", "nesterov", lambda: np.True_, True),
    ("sgd", "maximize", lambda: None, False),
    ("sgd", "maximize", lambda: np.bool_(True), True),
    ("sgd", "maximize", lambda: 1, True),
    ("sgd", "maximize", lambda: torch.tensor(True), True),
    ("sgdw", "weight_decay", lambda: np.float32(0.5), 0.5),
    ("adam", "amsgrad", lambda: None, False),
    ("rmsprop", "centered", lambda: None, False),
    ("rmsprop", "alpha", lambda: np.float32(0.5), 0.5),
    ("adam", "betas", lambda: [0.5, 0.75], (0.5, 0.75)),
    ("adam", "betas", lambda: ListConfig(0.5, 0.75), (0.5, 0.75)),
    ("adam", "betas", lambda: torch.tensor([0.5, 0.75]), (0.5, 0.75)),
    ("adam", "betas", lambda: torch.tensor([0.5, 0.75], dtype=torch.float64), (0.5, 0.75)),
    ("adam", "betas", lambda: np.array([0.5, 0.75]), (0.5, 0.75)),
    ("adam", "betas", lambda: (np.float32(0.5), torch.tensor(0.75)), (0.5, 0.75)),
    ("radam", "betas", lambda: ListConfig(np.float32(0.5), 0.75), (0.5, 0.75)),
    ("nadam", "betas", lambda: torch.tensor([0.5, 0.75]), (0.5, 0.75)),
    ("adagrad", "initial_accumulator_value", lambda: np.float32(0.5), 0.5),
    ("ada_grad_norm", "b0", lambda: np.float32(2.0), 2.0),
    ("ada_grad_norm_row", "b0", lambda: torch.tensor(2.0), 2.0),
    ("mix_clip", "gamma", lambda: np.int32(3), 3.0),
    ("grda", "mu", lambda: np.float32(0.75), 0.75),
)
WHERE = ("constructor", "group", "between_steps")


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize(
    "name, key, value, plain", TAKEN, ids=[f"{name}-{key}-{i}" for i, (name, key, *_) in enumerate(TAKEN)]
)
@each_backend
def test_the_numbers_that_torch_takes(
    name: str, key: str, value: Callable[[], Any], plain: Any, where: str, backend: str
) -> None:
    if where == "between_steps" and key in ("b0", "initial_accumulator_value"):
        pytest.skip("read when state is made")
    tested, expected = ([torch.nn.Parameter(torch.full((3, 2), 2.0)) for _ in range(2)] for _ in range(2))
    for params, chosen in ((tested, value()), (expected, plain)):
        cls, defaults = OPTIMIZERS[name]
        options = {**defaults, **({key: chosen} if where == "constructor" else {})}
        groups = [{"params": params, **({key: chosen} if where == "group" else {})}]
        optimizer = cls(groups, **options, backend=backend)
        if where == "between_steps":
            optimizer.param_groups[0][key] = chosen
        for step in range(3):
            for index, p in enumerate(params):
                p.grad = torch.full_like(p, 1.0 + step + index)
            optimizer.step(loss=LOSS)
        assert all(bool((p != 2).any()) for p in params)
        again = cls(params, **defaults, backend=backend)
        again.load_state_dict(optimizer.state_dict())
        saved = optimizer.state_dict()["param_groups"][0][key]
        assert saved is None or isinstance(saved, (float, int, list, tuple, Tensor))
    for p, q in zip(tested, expected):
        torch.testing.assert_close(p.detach(), q.detach(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("key", ["maximize", "amsgrad", "foreach", "fused", "differentiable", "capturable"])
def test_a_flag_of_text_is_an_error_everywhere(key: str, where: str, backend: str) -> None:
    def run() -> None:
        options = {key: "False"}
        optimizer = torchclip.Adam(
            [{"params": leaves(), **(options if where == "group" else {})}],
            **(options if where == "constructor" else {}),
            backend=backend,
        )
        optimizer.param_groups[0].update(options if where == "between_steps" else {})
        optimizer.step()

    with pytest.raises(ValueError, match=rf"{key}='False' is text \(str\), and must be True or False: leave out the q"):
        run()


def test_saved_numbers_need_no_numpy(backend: str, tmp_path: Any) -> None:
    optimizer = torchclip.AdamW(leaves(), lr=np.float32(0.5), betas=ListConfig(np.float64(0.5), 0.75), backend=backend)
    optimizer.step()
    optimizer.param_groups[0].update(weight_decay=np.float64(0.25), maximize=np.True_)
    torch.save(optimizer.state_dict(), tmp_path / "saved.pt")
    (group,) = torch.load(tmp_path / "saved.pt", weights_only=True)["param_groups"]
    assert (group["lr"], group["betas"], group["weight_decay"], group["maximize"]) == (0.5, (0.5, 0.75), 0.25, True)


# A scheduler's writes, and lists that are changed in place, are seen by the next step.


@each_backend
def test_values_that_change_in_place_are_read_again(backend: str) -> None:
    p = torch.nn.Parameter(torch.tensor([2.0]))
    lr, betas = torch.tensor(0.5), [0.0, 0.0]
    sgd = torchclip.SGD([p], lr=lr, backend=backend)
    for rate, expected in ((0.5, 1.5), (0.25, 1.25), (1.0, 0.25)):
        lr.fill_(rate)
        p.grad = torch.ones(1)
        sgd.step()
        assert p.item() == expected
    q = torch.nn.Parameter(torch.tensor([2.0]))
    adam = torchclip.Adam([q], lr=0.5, betas=betas, eps=0.0, backend=backend)
    q.grad = torch.ones(1)
    adam.step()
    betas[0] = 1.0
    with pytest.raises(ValueError, match="Invalid beta parameter at index 0: 1.0"):
        adam.step()
    betas[0] = 0.5
    adam.step()
    assert torch.equal(adam.state[q]["exp_avg"], torch.ones(1)) and adam.state[q]["step"] == 2
