"""State dicts as bitsandbytes and TransformerEngine write them, made here by hand: loaded, and gone on from.

tests/frameworks/test_bitsandbytes.py has those of bitsandbytes itself.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import torchclip
from torchclip import AdamW, Blockwise8bit, Lion, MasterWeights, Precision, SplitMaster

pytestmark = pytest.mark.parametrize("backend", ["reference", "cpu"], indirect=True)

SHAPE = (40, 15)
CODEBOOK = torch.linspace(-1, 1, 256) ** 3
GROUP: dict[str, Any] = {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1}
OF_BITSANDBYTES = {"alpha": 0.0, "t_alpha": None, "t_beta3": None}


def draws(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def weight(dtype: torch.dtype = torch.float32) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.randn(SHAPE, generator=draws(0)).to(dtype))


def codes_and_values(seed: int, block: int, least: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Codes, absmax, and what they stand for, one by one."""
    codes = torch.randint(least, 256, SHAPE, generator=draws(seed), dtype=torch.uint8)
    absmax = torch.rand(-(-codes.numel() // block), generator=draws(seed + 1)) + 0.5
    values = [CODEBOOK[code] * absmax[place // block] for place, code in enumerate(codes.flatten().tolist())]
    return codes, absmax, torch.stack(values).view(SHAPE)


def in_codes(number: int, codes: Tensor, absmax: Tensor) -> dict[str, Any]:
    return {f"state{number}": codes, f"qmap{number}": CODEBOOK, f"absmax{number}": absmax}


def saved(state: dict[str, Any], **group: Any) -> dict[str, Any]:
    return {"state": {0: state}, "param_groups": [{**GROUP, **group, "params": [0]}]}


def next_step(cls: Callable[..., torchclip.AdamW], state: Any, dtype: torch.dtype, backend: str, **more: Any) -> Tensor:
    """A parameter after the first step behind a load."""
    parameter = weight(dtype)
    optimizer = cls([parameter], lr=1.0, backend=backend, **more)
    kept = copy.deepcopy(state)
    optimizer.load_state_dict(state)
    torch.testing.assert_close(state, kept, rtol=0, atol=0)
    parameter.grad = torch.randn(SHAPE, generator=draws(9)).to(dtype)
    optimizer.step()
    return parameter.detach()


@pytest.mark.parametrize("nested", [True, False], ids=["nested", "flat"])
@pytest.mark.parametrize("block", [256, 2048])
def test_codes_of_bitsandbytes(block: int, nested: bool, backend: str) -> None:
    first, first_absmax, exp_avg = codes_and_values(1, block)
    second, second_absmax, exp_avg_sq = codes_and_values(3, block, least=160)
    tensors = {**in_codes(1, first, first_absmax), **in_codes(2, second, second_absmax)}
    state = {"step": 7, **({"__bnb_optimizer_quant_state__": tensors} if nested else tensors)}
    plain = {"step": torch.tensor(7.0), "exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}
    came = next_step(AdamW, saved(state, **OF_BITSANDBYTES), torch.float32, backend)
    want = next_step(AdamW, saved(plain), torch.float32, backend)
    torch.testing.assert_close(came, want, rtol=0, atol=0)
    blocks = Blockwise8bit(min_elements=0)
    with pytest.warns(UserWarning, match=r"holds \['exp_avg', 'exp_avg_sq'\] in other types"):
        again = next_step(AdamW, saved(state), torch.float32, backend, precision=blocks)
    torch.testing.assert_close(again, want, rtol=0, atol=2e-3)


def test_32_bits_of_bitsandbytes(backend: str) -> None:
    exp_avg = torch.randn(SHAPE, generator=draws(1))
    group = {"betas": (0.8, 0.9)}
    state = {"step": 7, "__bnb_optimizer_quant_state__": {"state1": exp_avg, "unorm_vec": torch.ones(1)}}
    came = next_step(Lion, saved(state, **group), torch.float32, backend)
    want = next_step(Lion, saved({"exp_avg": exp_avg}, **group), torch.float32, backend)
    torch.testing.assert_close(came, want, rtol=0, atol=0)


POLICIES: dict[str, tuple[Precision, str, Callable[[Tensor], Tensor]]] = {
    "float32": (MasterWeights(), "master", lambda master: master),
    "int16": (
        SplitMaster(),
        "remainder",
        lambda master: (master.view(torch.int32) - (master.bfloat16().view(torch.int16).int() << 16)).short(),
    ),
}


@pytest.mark.parametrize("kind", POLICIES)
def test_masters_of_transformer_engine(kind: str, backend: str) -> None:
    """One that differs from the parameter, and the step count in the group."""
    policy, own_name, of_master = POLICIES[kind]
    master = weight(torch.bfloat16).detach().float() * (1 + 2**-10)
    assert (master.bfloat16() == weight(torch.bfloat16)).all()
    moments = {"exp_avg": torch.randn(SHAPE, generator=draws(1)), "exp_avg_sq": torch.rand(SHAPE, generator=draws(2))}
    state = {**moments, "master_param": of_master(master)}
    own = {**moments, own_name: of_master(master), "step": torch.tensor(7.0)}

    def float32(saved_state: Any) -> Tensor:
        parameter = weight(torch.bfloat16)
        optimizer = AdamW([parameter], backend=backend, precision=policy)
        optimizer.load_state_dict(saved_state)
        torch.testing.assert_close(optimizer.float32_parameters()[0], master, rtol=0, atol=0)
        parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        return optimizer.float32_parameters()[0]

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        came, want = float32(saved(state, step=7, bias_correction=True)), float32(saved(own))
    torch.testing.assert_close(came, want, rtol=0, atol=0)
    with pytest.raises(RuntimeError, match="which (SplitMaster|MasterWeights) keeps beside a parameter"):
        next_step(AdamW, saved(state, step=7), torch.bfloat16, backend)


def test_a_master_in_half_precision_has_lost_its_scale(backend: str) -> None:
    state = {"exp_avg": torch.zeros(SHAPE), "exp_avg_sq": torch.zeros(SHAPE), "master_param": weight(torch.float16)}
    optimizer = AdamW([weight(torch.bfloat16)], backend=backend, precision=MasterWeights())
    with pytest.raises(RuntimeError, match="'master_param' of parameter 0 .* is torch.float16"):
        optimizer.load_state_dict(saved(state, step=7))


def test_what_does_not_fit(backend: str) -> None:
    codes, absmax, _ = codes_and_values(1, 256)
    parameter = weight()
    lion = Lion([parameter], backend=backend)
    for tensors, words in [
        (in_codes(1, codes, absmax[:2]), r"'absmax1' of shape \(2,\): \(256,\) and one of \[\(1,\), \(3,\)\] are"),
        ({"state1": codes, "absmax1": absmax}, r"'qmap1' is NoneType"),
        ({**in_codes(1, codes, absmax), "state2": torch.ones(SHAPE)}, r"'state2', bitsandbytes' name of exp_avg_sq"),
    ]:
        state = saved({"step": 7, "__bnb_optimizer_quant_state__": tensors}, betas=(0.8, 0.9))
        with pytest.raises(RuntimeError, match=words):
            lion.load_state_dict(state)
        assert not lion.state
