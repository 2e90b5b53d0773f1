"""Tensors whose elements no pointer leads to, and those that torch lets nobody write: an error in words, no crash.

Everything runs in one process apart from this one, since what these tests look for ends a process.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys

import pytest

import emulated
from places import PYTHONPATH
from records import BACKENDS

STEPPED, REFUSED, EITHER = "stepped", "RuntimeError", "either"

CASES = {
    "gradient_leaked": EITHER,
    "gradient_within_grad": EITHER,
    "gradient_within_vmap": REFUSED,
    "gradient_within_jvp": EITHER,
    "gradient_within_functionalize": REFUSED,
    "plain_within_grad": EITHER,
    "plain_within_vmap": EITHER,
    "plain_within_jvp": EITHER,
    "plain_within_functionalize": EITHER,
    "gradient_of_zeros_without_memory": EITHER,
    "sparse_gradient_after_a_dense_one": REFUSED,
    "freed_parameter": REFUSED,
    "inference_parameter_of_2": REFUSED,
    "inference_parameter_of_many": REFUSED,
    "inference_state": REFUSED,
    "step_in_inference_mode": STEPPED,
    "made_in_inference_mode": STEPPED,
    "clip_leaked": STEPPED,
    "clip_zeros_without_memory": EITHER,
    "lazy_clone": STEPPED,
}
"""Torch's own step frees nothing of a parameter without memory, and crashes: so does the reference path."""

PROGRAM = """
import contextlib, json, sys, torch, torchclip, emulated
from torch.func import functionalize, grad, jvp, vmap
torch.set_num_threads(2)

def make(params):
    return torchclip.SGD(params, lr=.1, momentum=.9, backend=backend)

def leak():
    kept = []
    grad(lambda x: (kept.append(x * 2), (x ** 2).sum())[1])(torch.ones(3))
    return kept[0]

def within(transform, plain):
    p = torch.nn.Parameter(torch.ones(3)); o = make([p]); p.grad = torch.ones(3)
    def f(x):
        if not plain: p.grad = (x * 1.).detach()
        o.step()
        return (x ** 2).sum()
    x = torch.ones(2, 3) if transform == 'vmap' else torch.ones(3)
    {'grad': lambda: grad(f)(x), 'vmap': lambda: vmap(f)(x), 'jvp': lambda: jvp(f, (x,), (x,)),
     'functionalize': lambda: functionalize(f)(x)}[transform]()

def step_on(gradient):
    p = torch.nn.Parameter(torch.ones(3)); o = make([p]); p.grad = gradient; o.step()

def sparse():
    params = [torch.nn.Parameter(torch.ones(3)) for _ in range(many)]
    o = make(params)
    for p in params: p.grad = torch.ones(3)
    o.step()
    params[many // 2].grad = torch.ones(3).to_sparse()
    try: o.step()
    finally: assert all(torch.allclose(p.detach(), torch.full((3,), .9)) for p in params)

def freed():
    p = torch.nn.Parameter(torch.ones(3)); o = make([p]); p.grad = torch.ones(3); o.step()
    p.untyped_storage().resize_(0); o.step()

def inference(count):
    with torch.inference_mode(): last = torch.nn.Parameter(torch.ones(3), requires_grad=False)
    params = [*(torch.nn.Parameter(torch.ones(1)) for _ in range(count - 1)), last]
    o = make(params)
    for p in params: p.grad = torch.ones_like(p)
    try: o.step()
    finally:
        assert all(bool((p == 1).all()) for p in params), 'written'
        assert not o.state_dict()['state']

def inference_state():
    p = torch.nn.Parameter(torch.ones(3)); o = make([p]); p.grad = torch.ones(3); o.step()
    with torch.inference_mode(): o.state[p]['momentum_buffer'] = torch.ones(3)
    before = p.detach().clone()
    try: o.step()
    finally: assert torch.equal(p, before), 'written'

def in_inference():
    p = torch.nn.Parameter(torch.ones(3)); o = make([p]); p.grad = torch.ones(3)
    with torch.inference_mode(): o.step()
    o.step()
    assert torch.allclose(p.detach(), torch.full((3,), 1 - .1 - .19))

def made_in_inference():
    p = torch.nn.Parameter(torch.ones(3))
    with torch.inference_mode():
        o = torchclip.SGD([p], lr=.1, step_size=torchclip.SqrtDecay(), backend=backend)
    p.grad = torch.ones(3); o.step(); o.step()

def clip(gradient):
    p = torch.nn.Parameter(torch.ones(3)); p.grad = gradient
    torchclip.clip_grad_norm_([p], 1.)

def lazy_clone():
    shared = torch.ones(3); p = torch.nn.Parameter(shared._lazy_clone()); o = make([p])
    p.grad = torch.ones(3)._lazy_clone(); o.step()
    assert torch.equal(shared, torch.ones(3)) and torch.allclose(p.detach(), torch.full((3,), .9))

RUNS = {'gradient_leaked': lambda: step_on(leak()), 'gradient_of_zeros_without_memory':
    lambda: step_on(torch._efficientzerotensor(3)), 'sparse_gradient_after_a_dense_one': sparse,
    'inference_parameter_of_2': lambda: inference(2), 'inference_parameter_of_many': lambda: inference(many),
    'inference_state': inference_state, 'step_in_inference_mode': in_inference,
    'made_in_inference_mode': made_in_inference, 'clip_leaked': lambda: clip(leak()),
    'clip_zeros_without_memory': lambda: clip(torch._efficientzerotensor(3)), 'lazy_clone': lazy_clone}
for transform in ('grad', 'vmap', 'jvp', 'functionalize'):
    RUNS[f'gradient_within_{transform}'] = lambda transform=transform: within(transform, False)
    RUNS[f'plain_within_{transform}'] = lambda transform=transform: within(transform, True)
RUNS['freed_parameter'] = freed

for backend in sys.argv[1:]:
    many = 3 if backend == 'triton' else 300  # interpreted kernels take long
    with emulated.emulated() if backend == 'cuda' else contextlib.nullcontext():
        for name, run in RUNS.items():
            if backend == 'reference' and name == 'freed_parameter': continue
            try:
                run()
                print(json.dumps([backend, name, 'stepped', '']), flush=True)
            except Exception as error:
                print(json.dumps([backend, name, type(error).__name__, str(error)]), flush=True)
    print(json.dumps([backend, 'alive', '', '']), flush=True)
"""


@functools.cache
def ran() -> subprocess.CompletedProcess[str]:
    """All backends that run here."""
    here = [name for name in BACKENDS if name != "cuda" and emulated.unavailable_reason(name) is None]
    here = [name for name in here if not (name == "triton" and emulated.ON_GPU)]
    here += ["cuda"] if emulated.unbuilt_reason() is None else []
    program = f"import sys; sys.path[:0] = {PYTHONPATH!r}.split({os.pathsep!r}); {PROGRAM}"
    return subprocess.run([sys.executable, "-c", program, *here], capture_output=True, text=True)


@pytest.mark.xdist_group("unreachable")  # of one process
@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_nothing_crashes(backend: str) -> None:
    """Whether a step is taken or refused is as torch has it, and nothing is written where it is refused."""
    lines = [json.loads(line) for line in ran().stdout.splitlines()]
    came = {name: (outcome, words) for of, name, outcome, words in lines if of == backend}
    assert "alive" in came and ran().returncode == 0, (lines[-1:], ran().stderr[-2000:])
    for name, wanted in CASES.items():
        if backend == "reference" and name == "freed_parameter":
            continue
        outcome, words = came[name]
        assert outcome in ((STEPPED, REFUSED) if wanted is EITHER else (wanted,)), (name, outcome, words)
        assert "INTERNAL ASSERT" not in words or backend == "reference", (name, words)
