"""Competitors that are asked for: other libraries, torch's compiled form, steps replayed from CUDA graphs."""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import pytest
import torch

import torchclip
from bench import __main__ as command
from bench import competitors
from bench.algorithm import TORCH_FORMS
from bench.bandwidth import BandwidthProbe
from bench.cases import ALGORITHMS, RULES
from bench.competitors import COMPILED, GRAPHS, PEERS, PEERS_KIND, Peer, missing_reason, with_contenders
from tiny_bench import CPU, measured, shrink

OPTIMI = next(peer for peer in PEERS if peer.name == "optimi")
GPU = torch.device("cuda")


class Still(torch.optim.SGD):
    """An optimizer that writes nothing."""

    def step(self, closure: object = None) -> None: ...


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> BandwidthProbe:
    return shrink(monkeypatch)


@pytest.fixture
def optimi(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A library of that name whose optimizers are torch's; another is absent."""
    module: Any = ModuleType("optimi")
    module.SGD, module.AdamW, module.RAdam = torch.optim.SGD, torch.optim.AdamW, torch.optim.RAdam
    monkeypatch.setitem(sys.modules, "optimi", module)
    monkeypatch.setattr(competitors, "PEERS", (OPTIMI, Peer("nobody", "absent_library", OPTIMI.make)))
    competitors.peers_here.cache_clear()
    yield module
    competitors.peers_here.cache_clear()


@pytest.mark.parametrize("name", ["clip_sgd", "adamw", "radam"])
def test_a_peer_is_measured_and_checked(name: str, probe: BandwidthProbe, optimi: ModuleType) -> None:
    entry, failures = measured(with_contenders(ALGORITHMS[name], [PEERS_KIND], 4, CPU), probe)
    assert not failures
    assert "optimi" in entry["contenders"]
    assert ("optimi" in entry["checks"]["ours"]["differences"]) != (name in OPTIMI.differences)


def test_a_peer_with_another_result_is_found_out(probe: BandwidthProbe, optimi: Any) -> None:
    optimi.SGD = functools.partial(torch.optim.SGD, nesterov=True)
    algorithm = with_contenders(ALGORITHMS["sgd"], [PEERS_KIND], 4, CPU)
    _, failures = measured(algorithm, probe)
    assert failures and all("optimi" in failure for failure in failures)
    assert not measured(dataclasses.replace(algorithm, different={"optimi": "Nesterov"}), probe)[1]


@pytest.mark.parametrize(
    ("module", "optimizer", "words"),
    [
        (None, None, "it does not serve cuda"),
        ("absent_library", None, "ModuleNotFoundError"),
        ("optimi", Still, "its sgd wrote nothing"),
        ("optimi", lambda parameters, **arguments: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_why_a_peer_is_left_out(module: str | None, optimizer: Any, words: str, optimi: Any) -> None:
    optimi.SGD = optimizer
    peer = Peer("peer", module or "optimi", OPTIMI.make, devices=("cpu",))
    assert words in str(missing_reason(peer, GPU if module is None else CPU))


def test_the_command_says_who_is_absent(
    probe: BandwidthProbe, optimi: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    selection = ["--sets", "small", "--algorithms", "sgd", "grda", "--seconds", "0.001"]
    assert command.main(["step", *selection, "--beside", "peers"]) == 0
    out = capsys.readouterr().out
    assert "Left out: nobody: ModuleNotFoundError" in out
    assert out.count("; optimi ") == 1, "gRDA has no peer"


def test_the_compiled_form_agrees(probe: BandwidthProbe, monkeypatch: pytest.MonkeyPatch) -> None:
    # What is traced is what is compiled; compiling takes a minute.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=False):
        entry, failures = measured(with_contenders(ALGORITHMS["clip_sgd"], [COMPILED], 4, CPU), probe)
        assert torch._dynamo.config.fail_on_recompile_limit_hit, "a form that is no longer compiled would be timed"
    assert not failures
    assert COMPILED in entry["checks"]["ours"]["errors"] and COMPILED in TORCH_FORMS
    assert COMPILED in with_contenders(ALGORITHMS["radam"], [COMPILED], 4, CPU).different


def test_what_would_compile_for_minutes_is_left_out() -> None:
    assert COMPILED not in with_contenders(ALGORITHMS["sgd"], [COMPILED], 1000, CPU).contenders
    assert COMPILED in with_contenders(ALGORITHMS["sgd"], [COMPILED], 1000, GPU).contenders


@pytest.mark.parametrize("name", ["clip_sgd", "adamw"])
def test_every_call_of_a_replayed_step_is_one_step(
    name: str, probe: BandwidthProbe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stand-in for CUDA graphs that keeps what it should capture and runs it at every replay."""
    captured: list[competitors.Replayed] = []

    class Graph:
        def replay(self) -> None:
            captured[-1]()

    @contextmanager
    def capture(graph: Graph) -> Iterator[None]:
        yield

    class Replayed(competitors.Replayed):
        def __init__(self, step: Any) -> None:
            self.calls = 0

            def recorded() -> None:
                self.calls += 1
                if self.calls != 2:  # the second is the capture's
                    step()

            super().__init__(recorded)

        def __call__(self) -> None:
            captured.append(self._step)  # type: ignore[arg-type]
            super().__call__()

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    monkeypatch.setattr(competitors, "Replayed", Replayed)
    adamw = torchclip.AdamW  # which takes capturable on a GPU alone
    without = dataclasses.replace(
        RULES["adamw"], cls=lambda parameters, capturable=False, **others: adamw(parameters, **others)
    )
    monkeypatch.setitem(competitors.RULES, "adamw", without)
    entry, failures = measured(with_contenders(ALGORITHMS[name], [GRAPHS], 4, GPU), probe)
    assert not failures
    assert {competitors.OURS_GRAPH, competitors.FUSED_GRAPH} <= set(entry["contenders"])
