"""What is measured beside the usual competitors when `--beside` asks for it.

`compiled` is torch.compile of torch's foreach step, clipping included: one compiled function, as torch's documentation
has it. `graphs` are steps replayed from a CUDA graph: what is left of a step when the host has nothing to do but to
start it. `peers` are optimizers of other libraries that a person would pick instead, where they are installed; each
clips as its users write it: clip_grad_norm_ before the step, its own where it brings one. Arguments are those of the
row, and so is the result, which is checked like torch's; what computes something else says so.
"""

import importlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import torch
from torch.nn import Parameter

from bench.algorithm import Algorithm, Build, Rule, Step, behind, ours, torchs
from bench.cases import ADAMW_ARGUMENTS, MODIFIERS, RULES, SGD_ARGUMENTS, rule_and_clip

COMPILED, GRAPHS, PEERS_KIND = "compiled", "graphs", "peers"
KINDS = (COMPILED, GRAPHS, PEERS_KIND)
OURS_GRAPH, FUSED_GRAPH = "ours_graph", "fused_graph"

# For the CPU a loop is written and compiled for every tensor: 20 take a quarter of a minute.
_MOST_COMPILED_ON_CPU = 64
_COMPILED = ("sgd", "adamw", "nadam", "radam", "rmsprop")
# The host has float64 for what depends on the step alone, and in a few steps the results part by more than rounding.
_IN_FLOAT32 = "what depends on the step alone, in float32 on the device"


def _compiled(rule: Rule, clips: bool) -> Build:
    def build(parameters: Sequence[Parameter], norm: float) -> Step:
        # The limit of recompilations is counted by line of code, which all rows share.
        torch.compiler.reset()
        step = torchs(rule, clips, "foreach")(parameters, norm)
        # At the limit torch would go on without compiling, and say so in a log only. Not around each call, which would
        # add a hundred microseconds to the host's time of this form alone.
        torch._dynamo.config.fail_on_recompile_limit_hit = True
        compiled: Step = torch.compile(step)
        return compiled

    return build


class Replayed:
    """A step that runs as it is once, which makes its state; is captured at its second call; and replayed from then on.

    Every call takes one step, so that the results stay comparable. Gradients must stay where they are.
    """

    def __init__(self, step: Step) -> None:
        self._step = step
        self._has_state = False
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        if not self._has_state:
            self._step()
            self._has_state = True
            return
        if self._graph is None:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):  # which runs nothing
                self._step()
            self._graph = graph
        self._graph.replay()


def _graphs(rule: Rule, clips: bool) -> Mapping[str, Build]:
    if rule is RULES["adamw"]:
        # Adam's step count, which the host keeps otherwise, has to be on the device; SGD counts none.
        rule = replace(rule, arguments={**ADAMW_ARGUMENTS, "capturable": True})
    builds = {
        OURS_GRAPH: ours(rule, MODIFIERS["clip" if clips else "plain"]),
        FUSED_GRAPH: torchs(rule, clips, "fused"),
    }

    def replayed(build: Build) -> Build:
        return lambda parameters, norm: Replayed(build(parameters, norm))

    return {name: replayed(build) for name, build in builds.items()}


def made(module: str, cls: str, parameters: Sequence[Parameter], arguments: Mapping[str, Any]) -> Any:
    """An optimizer of another library, which keeps the gradients that it reads."""
    optimizer = getattr(importlib.import_module(module), cls)(parameters, **arguments)
    if hasattr(optimizer, "consume_grad"):
        # heavyball drops gradients as it reads them, and without one it takes no step.
        optimizer.consume_grad = False
    return optimizer


class Peer(NamedTuple):
    """A library's forms of some rules."""

    name: str
    module: str
    make: Mapping[str, tuple[str, Mapping[str, Any]]]  # by rule: class and arguments
    clip: str = "torch.nn.utils"  # the module of its clip_grad_norm_
    devices: tuple[str, ...] = ("cpu", "cuda")
    differences: Mapping[str, str] = {}  # by rule: what it computes

    def build(self, rule: str, clips: bool) -> Build:
        def build(parameters: Sequence[Parameter], norm: float) -> Step:
            cls, arguments = self.make[rule]
            optimizer = made(self.module, cls, parameters, arguments)
            if not clips:
                step: Step = optimizer.step
                return step
            return behind(importlib.import_module(self.clip).clip_grad_norm_, optimizer.step, parameters, norm)

        return build


_WITHOUT_DECAY = {**SGD_ARGUMENTS, "weight_decay": 0.0}  # where the default is another
_HEAVY_SGD = {"lr": SGD_ARGUMENTS["lr"], "beta": SGD_ARGUMENTS["momentum"]}
# Whose betas and eps are others by default.
_OPTIMI_ADAMW, _OPTIMI_RADAM = {**ADAMW_ARGUMENTS, "eps": 1e-8}, {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8}

PEERS: tuple[Peer, ...] = (
    Peer(
        "apex",
        "apex.optimizers",
        {"sgd": ("FusedSGD", SGD_ARGUMENTS), "adamw": ("FusedAdam", {**ADAMW_ARGUMENTS, "adam_w_mode": True})},
        clip="apex.contrib.clip_grad",
        devices=("cuda",),
    ),
    Peer(
        "optimi",
        "optimi",
        {"sgd": ("SGD", SGD_ARGUMENTS), "adamw": ("AdamW", _OPTIMI_ADAMW), "radam": ("RAdam", _OPTIMI_RADAM)},
        differences={"radam": "its corrections of the bias are within the betas, which rounds otherwise"},
    ),
    # Its SGD and AdamW are torch's own, and its RAdam leaves the first steps out.
    Peer("pytorch_opt", "pytorch_optimizer", {"sgd": ("SGDW", _WITHOUT_DECAY)}),
    Peer(
        "heavyball",
        "heavyball",
        {"sgd": ("SGD", _HEAVY_SGD), "adamw": ("AdamW", ADAMW_ARGUMENTS)},
        differences={"adamw": "its corrections of the bias are in float32"},
    ),
    Peer(
        "bnb_32bit",
        "bitsandbytes.optim",
        {"sgd": ("SGD32bit", SGD_ARGUMENTS), "adamw": ("AdamW32bit", ADAMW_ARGUMENTS)},
    ),
    Peer(  # what most people have the library for
        "bnb_8bit",
        "bitsandbytes.optim",
        {"adamw": ("AdamW8bit", ADAMW_ARGUMENTS)},
        differences={"adamw": "its state has 8 bits"},
    ),
    # It compiles its step when it is first asked for.
    Peer("deepspeed", "deepspeed.ops.adam", {"adamw": ("DeepSpeedCPUAdam", ADAMW_ARGUMENTS)}, devices=("cpu",)),
    Peer("timm", "timm.optim", {"sgd": ("SGDW", _WITHOUT_DECAY), "adamw": ("AdamWLegacy", ADAMW_ARGUMENTS)}),
)


@torch.no_grad()
def missing_reason(peer: Peer, device: torch.device) -> str | None:
    """Why it cannot be measured here, from an import and one step of each rule; None where it can."""
    if device.type not in peer.devices:
        return f"it does not serve {device.type}"
    try:
        for rule in peer.make:
            parameter = Parameter(torch.ones(8, 8, device=device))
            parameter.grad = torch.ones_like(parameter)
            peer.build(rule, clips=True)([parameter], 1.0)()
            if not (parameter != 1).any() or not parameter.isfinite().all():
                return f"its {rule} wrote nothing"
    except Exception as error:  # whatever a library raises where it does not fit the machine
        return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
    return None


@cache
def peers_here(device: torch.device) -> tuple[tuple[Peer, ...], Mapping[str, str]]:
    """The peers that can be measured on the device, and why the others cannot."""
    reasons = {peer.name: reason for peer in PEERS if (reason := missing_reason(peer, device)) is not None}
    return tuple(peer for peer in PEERS if peer.name not in reasons), reasons


def with_contenders(algorithm: Algorithm, kinds: Collection[str], tensors: int, device: torch.device) -> Algorithm:
    """The row with the contenders of these kinds that have its rule, and that compile in reasonable time."""
    rule, clips = rule_and_clip(algorithm.name)
    more: dict[str, Build] = {}
    different: dict[str, str] = {}
    if COMPILED in kinds and rule in _COMPILED and (device.type != "cpu" or tensors <= _MOST_COMPILED_ON_CPU):
        more[COMPILED] = _compiled(RULES[rule], clips)
        different |= {COMPILED: _IN_FLOAT32} if rule in ("nadam", "radam") else {}
    if GRAPHS in kinds and rule in ("sgd", "adamw"):
        more |= _graphs(RULES[rule], clips)
    for peer in peers_here(device)[0] if PEERS_KIND in kinds else ():
        if rule in peer.make:
            more[peer.name] = peer.build(rule, clips)
            different |= {peer.name: peer.differences[rule]} if rule in peer.differences else {}
    return replace(
        algorithm, contenders={**algorithm.contenders, **more}, different={**algorithm.different, **different}
    )
