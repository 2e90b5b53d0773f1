"""What a type checker sees: the package, a program of a user, mistakes in one, and the stub of the extension."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import emulated
import torchclip
from kept import kept
from places import ROOT
from torchclip import optimizers
from torchclip.backends import native
from torchclip.matrix import required_arguments

PROGRAM = """
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import assert_type

import torchclip
from torchclip import optim
from torchclip.integrations.timm import register
from torchclip.integrations.torchtitan import FusedOptimizersMixin
from torchclip.integrations.transformers import FusedTrainerMixin

model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 1))
inputs = torch.randn(8, 3)
parameters = list(model.parameters())
tensor_lr = torch.tensor(1e-3)


def make(
    clip: torchclip.ClipPolicy | float | None = None,
    step_size: torchclip.StepSize | None = None,
    extensions: tuple[torchclip.Extension, ...] = (),
    scope: torchclip.Scope = torchclip.Scope.GROUP,
    backend: torchclip.Backend | None = None,
) -> torchclip.FusedOptimizer:
    norms = torchclip.ClipByGlobalNorm(1.0, nonfinite=torchclip.NonFinite.SKIP)
    return torchclip.NormalizedSGD(
        parameters, 0.1, scope=scope, clip=clip or norms, step_size=step_size, extensions=extensions, backend=backend
    )


def closure() -> Tensor:
    model.zero_grad()
    loss: Tensor = model(inputs).square().mean()
    loss.backward()
    return loss


extensions = (
    torchclip.GradientNoise(eta=0.01, gamma=0.55),
    torchclip.GradientDropout(0.1),
    torchclip.LRDropout(p=0.5),
    torchclip.Lookahead(k=5, alpha=0.5),
)
optimizers = [
    make(clip=torchclip.AutoClip(), backend="reference"),
    torchclip.SGD(parameters, 0.1, momentum=0.9, nesterov=True, clip=1.0),
    torchclip.SGDW(model.parameters(), lr=tensor_lr, weight_decay=0.1, clip=torchclip.ClipByTensorNorm(1, smooth=True)),
    torchclip.Adam(model.named_parameters(), betas=(0.9, 0.99), amsgrad=True, clip=torchclip.ClipByValue(0.1)),
    torchclip.AdamW([{"params": parameters, "lr": 1e-4}], lr=1e-3, fused=None, clip=torchclip.AdaptiveGradientClip()),
    torchclip.NAdam(parameters, momentum_decay=4e-3, clip=torchclip.ZClip(warmup_steps=25)),
    torchclip.RAdam(parameters, decoupled_weight_decay=True, extensions=extensions, seed=7, backend="reference"),
    torchclip.Lion(parameters, betas=(0.9, 0.99), clip=1.0),
    torchclip.LinBreg(parameters, lr=0.1, lam=1e-3, momentum=0.9),
    torchclip.AdaBreg(parameters, lr=1e-3, lam=1e-3, delta=1.0),
    torchclip.RAdamW(parameters, foreach=None, extensions=[torchclip.Lookahead()]),
    torchclip.RMSprop(parameters, alpha=0.9, centered=True, clip=torchclip.AutoClip(10, window=8, nonfinite="skip")),
    torchclip.Adagrad(parameters, lr_decay=0.1, step_size=torchclip.SqrtDecay(b0=1.0, alpha=1.0)),
    torchclip.NormalizedSGD(torchclip.param_groups_weight_decay(model, 0.1), lr=0.1, scope="tensor"),
    torchclip.SGDClip(parameters, lr=0.1, gamma=1.0),
    torchclip.MomClip(parameters, lr=0.1, gamma=1.0, smooth=False),
    torchclip.MixClip(torchclip.param_groups_per_layer(model), lr=0.1, gamma=1.0, nu=0.7, scope="group"),
    torchclip.AdaLoss(parameters, lr=0.1, b0=1.0, c=0.0),
    torchclip.AdaGradNorm(parameters, lr=0.1, b0=1.0, scope="row"),
    torchclip.gRDA(parameters, lr=0.1, c=0.005, mu=0.51),
    torchclip.create_optimizer("mix_clip", model, filter_bias_and_bn=True, lr=0.1, gamma=1.0, clip=1.0),
    torchclip.AdamW(parameters, precision=torchclip.StateDtype("bfloat16", stochastic=True)),
    torchclip.SGD(parameters, precision=torchclip.Blockwise8bit(min_elements=0, embedding_rows=None)),
    optim.SGD(parameters, clip=torchclip.ClipByGlobalNorm(math.inf, nonfinite="error", scope="group")),
]
halves = [parameter.detach().bfloat16() for parameter in parameters]
policies: list[torchclip.Precision] = [
    torchclip.SplitMaster(state=torchclip.Blockwise8bit()),
    torchclip.MasterWeights(),
    torchclip.StochasticRounding(state=torchclip.StateDtype(torch.bfloat16)),
]
optimizers += [torchclip.AdamW(halves, precision=policy) for policy in policies]
for each in optimizers:
    as_torchs: torch.optim.Optimizer = each
    assert_type(each.step(closure), Tensor)
    assert_type(each.step(lambda: 1.0), float)
    assert_type(each.step(loss=1.0), None)
    assert_type(each.metrics(), dict[str, Tensor])
    assert_type(each.backend, str)
    assert_type(each.backend_reason, str)
    state_dict = each.state_dict()
    assert_type(state_dict, dict[str, Any])
    assert_type(each.load_state_dict(state_dict), None)

adam = optim.Adam(parameters, step_size=torchclip.AdaLossStep(b0=1.0))
adam.clip = 0.5
adam.clip = torchclip.ClipByGlobalNorm(0.5)
scheduler = optim.lr_scheduler.StepLR(adam, step_size=10)
assert_type(adam.step(loss=closure()), None)
scheduler.step()
assert_type(adam.grad_norm, Tensor)
assert_type(adam.clip_factor, Tensor)
assert_type(adam.step_size, torchclip.AdaLossStep | torchclip.SqrtDecay | torchclip.PolyakStep | None)
assert_type(adam.float32_parameters(), list[Tensor])
assert_type(adam.load_float32_parameters(adam.float32_parameters()), None)
assert_type(adam.float32_state_dict(), dict[str, Any])
adam.add_param_group({"params": [nn.Parameter(torch.zeros(2))], "lr": 0.1})
assert_type(torchclip.SqrtDecayLR(adam, b0=1.0).get_lr(), list[float | Tensor])

assert_type(torchclip.GRDA(parameters).sparsity(), Tensor)
skipping = torchclip.AdamW(
    parameters, clip=torchclip.AdaGC(), skip=torchclip.SkipSpikes(on=("loss",)), step_size=torchclip.PolyakStep()
)
assert_type(skipping.skip, torchclip.SkipSpikes | None)
with torchclip.SGD(parameters, extensions=(torchclip.WeightEMA(0.99),)).averaged():
    pass


class Run:
    def log(self, numbers: dict[str, float], step: int | None = None) -> None: ...


skipping.log_metrics(Run(), step=1, prefix="train/")
assert_type(torchclip.LinBreg(parameters, lr=0.1, lam=0.1).sparsity(), Tensor)
assert_type(torchclip.clip_grad_norm_(model.parameters(), 1.0, norm_type=math.inf), Tensor)
assert_type(torchclip.get_total_norm([parameters[0]]), Tensor)
assert_type(torchclip.param_groups_per_layer(model), list[dict[str, Any]])

adam.loss = torch.tensor(1.0)
for_frameworks: tuple[Callable[[], list[str]], type, type] = (register, FusedTrainerMixin, FusedOptimizersMixin)
"""


@dataclass(frozen=True)
class Mistake:
    """A line that a type checker refuses, and its word for why."""

    name: str
    line: str
    code: str = "arg-type"


WRONG = {
    "lr": '"0.1"',
    "clip": '"1.0"',
    "step_size": "0.1",
    "extensions": "torchclip.Lookahead()",
    "precision": '"bfloat16"',
    "seed": "0.5",
    "backend": 'torch.device("cpu")',
}
"""For each argument that all optimizers take a value of another type."""


def mistakes_of(name: str) -> list[Mistake]:
    """Each of ``WRONG`` in the constructor of an optimizer."""
    required = {argument: repr(value) for argument, value in required_arguments(getattr(torchclip, name)).items()}
    calls = {key: ", ".join(f"{k}={v}" for k, v in {**required, key: value}.items()) for key, value in WRONG.items()}
    return [Mistake(f"{name}_{key}", f"torchclip.{name}(parameters, {call})") for key, call in calls.items()]


MISTAKES = (
    *(mistake for name in optimizers.__all__ for mistake in mistakes_of(name)),
    Mistake("model_for_parameters", "torchclip.AdamW(nn.Linear(2, 1))"),
    Mistake("three_betas", "torchclip.Adam(parameters, betas=(0.9, 0.99, 0.999))"),
    Mistake("class_for_policy", "torchclip.AdamW(parameters, clip=torchclip.AutoClip)"),
    Mistake("extension_for_clip", "torchclip.AdamW(parameters, clip=torchclip.Lookahead())"),
    Mistake("policy_for_extension", "torchclip.RAdam(parameters, extensions=(torchclip.ClipByValue(1.0),))"),
    Mistake("step_size_beside_its_own", "torchclip.AdaLoss(parameters, step_size=torchclip.SqrtDecay())"),
    Mistake("scope_of_a_number", "torchclip.MixClip(parameters, lr=1.0, gamma=1.0, scope=0)"),
    Mistake("no_such_backend", 'torchclip.AdamW(parameters, backend="gpu")'),
    Mistake("no_such_scope", 'torchclip.MixClip(parameters, lr=1.0, gamma=1.0, scope="row")'),
    Mistake("no_such_scope_of_a_policy", 'torchclip.ClipByGlobalNorm(1.0, scope="tensor")'),
    Mistake("no_such_nonfinite", 'torchclip.ZClip(nonfinite="raise")'),
    Mistake("nonfinite_of_a_flag", "torchclip.ClipByGlobalNorm(1.0, nonfinite=True)"),
    Mistake("max_norm_of_none", "torchclip.clip_grad_norm_(parameters, None)"),
    Mistake("unknown_argument", "torchclip.SGD(parameters, max_norm=1.0)", "call-arg"),
    Mistake("no_gamma", "torchclip.MomClip(parameters, lr=0.1)", "call-arg"),
    Mistake("maximize_by_position", "torchclip.SGDW(parameters, 0.1, 0.9, 0, 0.1, False, True)", "call-arg"),
    Mistake("loss_in_quotes", 'optimizer.step(loss="1.0")', "call-overload"),
    Mistake("loss_for_closure", "optimizer.step(torch.zeros(()))", "call-overload"),
    Mistake("clip_set_in_quotes", 'optimizer.clip = "1.0"', "assignment"),
    Mistake("norm_as_float", "norm: float = optimizer.grad_norm", "assignment"),
    Mistake("norm_set", "optimizer.grad_norm = torch.zeros(())", "misc"),
    Mistake("field_set", "torchclip.ClipByValue(1.0).max_value = 2.0", "misc"),
    Mistake("not_ours", "optim.SparseAdam", "attr-defined"),
)
PREAMBLE = """
import torch
from torch import nn
import torchclip
from torchclip import optim
parameters = [nn.Parameter(torch.zeros(2))]
optimizer = torchclip.SGD(parameters)
"""

ERROR = re.compile(r"^(?P<file>[^:]+):(?P<line>\d+): error: .*\[(?P<code>[a-z-]+)\]$")


def sources_of_types() -> list[Path]:
    """What mypy reads of the repository."""
    return [ROOT / "pyproject.toml", *(ROOT / "torchclip").rglob("*.py"), *(ROOT / "torchclip").rglob("*.pyi")]


def test_mypy_accepts_the_package_and_the_program_and_refuses_every_mistake(tmp_path: Path) -> None:
    mypy = pytest.importorskip("mypy.version", reason="mypy is of the extra 'dev': pip install -e '.[dev]'")
    program, mistakes = tmp_path / "program.py", tmp_path / "mistakes.py"
    program.write_text(PROGRAM)
    mistakes.write_text(PREAMBLE + "\n".join(mistake.line for mistake in MISTAKES) + "\n")
    # Not mypy.api, which leaves its memory and its settings of the garbage collector to the tests that follow.
    command = [sys.executable, "-m", "mypy", "--strict", "torchclip"]

    def report() -> list[str]:
        files = [str(program), str(mistakes)]
        finished = subprocess.run([*command, *files], cwd=ROOT, capture_output=True, text=True, check=False)
        assert finished.returncode in (0, 1), finished.stdout + finished.stderr
        return [finished.stdout]

    tools = [sys.version, mypy.__version__, torch.__version__]
    (printed,) = kept([*tools, *command[1:], PROGRAM, mistakes.read_text()], sources_of_types, report)
    found: dict[int, str] = {}
    for line in printed.splitlines():
        match = ERROR.match(line)
        if match is not None:
            assert match["file"].endswith(mistakes.name), line
            found[int(match["line"])] = match["code"]
    first = PREAMBLE.count("\n") + 1
    refused = {mistake.name: found.pop(first + index, "") for index, mistake in enumerate(MISTAKES)}
    assert refused == {mistake.name: mistake.code for mistake in MISTAKES}, printed
    assert not found, printed


def test_the_program_runs_and_uses_every_public_name() -> None:
    exec(compile(PROGRAM, "program.py", "exec"), {})
    assert [name for name in torchclip.__all__ if not re.search(rf"\btorchclip(\.| import ){name}\b", PROGRAM)] == []


# The stub. It describes an extension with CUDA kernels: without a GPU that is the emulated module.

OF_CUDA = {"CudaPlan", "cuda_reason", "cuda_versions"}


@dataclass(frozen=True)
class Signature:
    """Of a function; parameters that have no name when it is called are "/"."""

    parameters: tuple[str, ...]
    returns: str  # without what a list or dict holds


def stubbed(body: list[ast.stmt]) -> dict[str, Any]:
    """The names of a stub: a signature, a dict of those of a class, or None for what is no function."""
    names: dict[str, Any] = {}
    bases: dict[str, dict[str, Any]] = {}  # that the extension does not export
    for node in body:
        decorators = [ast.unparse(decorator) for decorator in getattr(node, "decorator_list", ())]
        if isinstance(node, ast.AnnAssign):
            names[ast.unparse(node.target)] = None
        elif isinstance(node, ast.ClassDef):
            own = stubbed(node.body)
            for base in map(ast.unparse, node.bases):
                own |= bases.get(base, {})
            (bases if "type_check_only" in decorators else names)[node.name] = own
        elif isinstance(node, ast.FunctionDef):
            names[node.name] = None if "property" in decorators else signature(node)
    return names


def signature(node: ast.FunctionDef) -> Signature:
    assert node.returns is not None
    parameters = ["/"] * len(node.args.posonlyargs) + [argument.arg for argument in node.args.args]
    if parameters and (node.args.posonlyargs or node.args.args)[0].arg == "self":
        parameters = parameters[1:]
    named = tuple("/" if re.fullmatch(r"arg\d+", name) else name for name in parameters)
    return Signature(named, ast.unparse(node.returns).partition("[")[0].lower())


def said(value: Any) -> Signature:
    """What a function, or a class of its constructor, says in the docstring's first line."""
    head = ast.parse(f"def {value.__doc__.splitlines()[0]}: ...").body[0]
    assert isinstance(head, ast.FunctionDef)
    return signature(head)


def exported(owner: ModuleType | type) -> dict[str, Any]:
    """The same of what is built, whose functions say their signature in their docstring's first line."""
    names: dict[str, Any] = {}
    for name, value in vars(owner).items():
        if name.startswith("_"):
            continue
        if isinstance(value, type):
            names[name] = {**exported(value), "__init__": said(value)}
        elif callable(value):
            names[name] = said(value)
        else:
            names[name] = None
    return names


def built() -> ModuleType:
    if native.NATIVE is None:
        pytest.skip("torchclip._C is not built")
    return native.NATIVE


def built_with_cuda() -> ModuleType:
    reason = emulated.unbuilt_reason()
    if reason is not None:
        pytest.skip(reason)
    return emulated.load()


@pytest.mark.parametrize("module_of", [built, built_with_cuda])
def test_the_stub_describes_the_extension(module_of: Any) -> None:
    module = module_of()
    stub = stubbed(ast.parse((ROOT / "torchclip" / "_C.pyi").read_text()).body)
    if module.cuda_device is None:
        stub = {name: names for name, names in stub.items() if name not in OF_CUDA}
    assert exported(module) == stub
