"""Checkpoints under precision policies: bit for bit, between policies, and from and to ``torch.optim`` in float32."""

from __future__ import annotations

import copy
import io
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor

import torchclip
from torchclip import Blockwise8bit, MasterWeights, Precision, SplitMaster, StateDtype, StochasticRounding

SHAPES = [(20, 30), (7,), ()]

BLOCKS = Blockwise8bit(min_elements=0)

POLICIES: dict[str, Precision] = {
    "state_dtype": StateDtype("bfloat16", stochastic=True),
    "blockwise": BLOCKS,
    "split_master": SplitMaster(),
    "split_master_blockwise": SplitMaster(state=BLOCKS),
    "master_weights": MasterWeights(state=StateDtype("bfloat16")),
    "stochastic_rounding": StochasticRounding(),
}

pytestmark = pytest.mark.parametrize("backend", ["reference", "cpu"], indirect=True)
each_policy = pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)

OPTIONS: dict[str, Any] = {"lr": 0.01, "weight_decay": 0.1}


def bfloat16_values(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).bfloat16() for shape in SHAPES]


def parameters(values: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    return [torch.nn.Parameter(value.detach().to(dtype, copy=True)) for value in values]


def take_steps(optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
    for step in range(first, last + 1):
        for parameter, value in zip(optimizer.param_groups[0]["params"], bfloat16_values(100 + step)):
            parameter.grad = value.to(parameter.dtype)
        optimizer.step()


def through_a_file(saved: Any) -> Any:
    file = io.BytesIO()
    torch.save(saved, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def silently_loaded(optimizer: Any, saved: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.load_state_dict(saved)


@each_policy
def test_a_loaded_run_goes_on_bit_for_bit(backend: str, policy: Precision) -> None:
    extensions = (torchclip.Lookahead(k=2), torchclip.LRDropout(0.2))
    options = {**OPTIONS, "precision": policy, "backend": backend, "clip": 1.0, "extensions": extensions}
    first = torchclip.AdamW(parameters(bfloat16_values(1), torch.bfloat16), **options, seed=3)
    take_steps(first, 1, 5)
    model, saved = through_a_file(([p.detach() for p in first.param_groups[0]["params"]], first.state_dict()))
    second = torchclip.AdamW(parameters(model, torch.bfloat16), **options)
    silently_loaded(second, saved)
    for optimizer in (first, second):
        take_steps(optimizer, 6, 9)
    for left, right in zip(first.param_groups[0]["params"], second.param_groups[0]["params"]):
        assert torch.equal(left, right)
        assert first.state[left].keys() == second.state[right].keys()
        for name, value in first.state[left].items():
            assert value.dtype is second.state[right][name].dtype and torch.equal(value, second.state[right][name])


def test_remainders_load_by_their_bits_in_either_type(backend: str) -> None:
    values = bfloat16_values(0)
    whole = torchclip.AdamW(parameters(values, torch.bfloat16), **OPTIONS, precision=SplitMaster(), backend=backend)
    take_steps(whole, 0, 3)
    saved = copy.deepcopy(whole.state_dict())
    shown = [held["remainder"] for held in saved["state"].values()]
    assert all(each.dtype is torch.bfloat16 and each.view(torch.int16).any() for each in shown)
    for dtype in (torch.bfloat16, torch.int16):
        for held, remainder in zip(saved["state"].values(), shown):
            held["remainder"] = remainder.view(dtype)
        again = torchclip.AdamW(parameters(values, torch.bfloat16), **OPTIONS, precision=SplitMaster(), backend=backend)
        again.load_state_dict(through_a_file(saved))
        for mine, held in zip(again.state.values(), whole.state.values()):
            assert mine["remainder"].dtype is torch.int16 and torch.equal(mine["remainder"], held["remainder"])


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_remainders_that_were_loaded_by_their_numbers_are_refused(backend: str, tmp_path: Path) -> None:
    """As torch.distributed.checkpoint takes int16 for bfloat16; a state dict of int16 has it load the bits."""

    def made() -> torchclip.AdamW:
        params = parameters(bfloat16_values(0), torch.bfloat16)
        return torchclip.AdamW(params, **OPTIONS, precision=SplitMaster(), backend=backend)

    def with_integers(saved: dict[str, Any]) -> dict[str, Any]:
        state = {
            key: {**held, "remainder": held["remainder"].view(torch.int16)} for key, held in saved["state"].items()
        }
        return {**saved, "state": state}

    optimizer, again = made(), made()
    for each in (optimizer, again):
        take_steps(each, 0, 3)
    dcp.save(with_integers(optimizer.state_dict()), checkpoint_id=tmp_path, no_dist=True)
    take_steps(again, 4, 5)
    saved = again.state_dict()
    wrong = copy.deepcopy(saved)
    dcp.load(wrong, checkpoint_id=tmp_path, no_dist=True)
    with pytest.raises(RuntimeError, match="'remainder' are whole numbers up to 3.*, and bits are wanted: torch.distr"):
        again.load_state_dict(wrong)
    right = with_integers(copy.deepcopy(saved))
    dcp.load(right, checkpoint_id=tmp_path, no_dist=True)
    again.load_state_dict(right)
    for mine, held in zip(again.state.values(), optimizer.state.values()):
        assert torch.equal(mine["remainder"], held["remainder"]) and held["remainder"].any()


@pytest.mark.parametrize("cls", [torchclip.AdamW, torchclip.Lion])
def test_equal_remainders_are_bits(cls: type[torchclip.FusedOptimizer], backend: str) -> None:
    """Those of parameters that began with zeros: at these learning rates they are whole numbers by chance."""
    for lr in (5e-6, 1e-5, 2e-5):
        params = parameters([torch.zeros(40)], torch.bfloat16)
        optimizer = cls(params, lr=lr, precision=SplitMaster(), backend=backend)
        for _ in range(2):
            params[0].grad = torch.ones_like(params[0])
            optimizer.step()
            optimizer.load_state_dict(optimizer.state_dict())


@pytest.mark.parametrize("policy", [SplitMaster(), MasterWeights()], ids=["split_master", "master_weights"])
def test_float32_to_the_policy_and_back_exactly(backend: str, policy: Precision) -> None:
    """torch.optim's run goes on in bfloat16, and then in float32 again, as our own float32 steps would have."""
    torchs = torch.optim.AdamW(parameters(bfloat16_values(1), torch.float32), **OPTIONS)
    take_steps(torchs, 1, 4)
    float32_values = [parameter.detach() for parameter in torchs.param_groups[0]["params"]]
    wide = torchclip.AdamW(parameters(float32_values, torch.float32), **OPTIONS, backend=backend)
    narrow = torchclip.AdamW(parameters(float32_values, torch.bfloat16), **OPTIONS, precision=policy, backend=backend)
    for optimizer in (wide, narrow):
        silently_loaded(optimizer, copy.deepcopy(torchs.state_dict()))
    narrow.load_float32_parameters(float32_values)
    for optimizer in (wide, narrow):
        take_steps(optimizer, 5, 8)
    values, saved = through_a_file((narrow.float32_parameters(), narrow.float32_state_dict()))
    again = torchclip.AdamW(parameters(values, torch.float32), **OPTIONS, backend=backend)
    silently_loaded(again, saved)
    back = torch.optim.AdamW(parameters(values, torch.float32), **OPTIONS)
    back.load_state_dict(copy.deepcopy(saved))
    for optimizer in (wide, again, back):
        take_steps(optimizer, 9, 10)
    for ours, theirs, torchs_own in zip(*(one.param_groups[0]["params"] for one in (wide, again, back))):
        assert torch.equal(ours, theirs)
        torch.testing.assert_close(torchs_own, theirs)
        assert all(torch.equal(value, again.state[theirs][name]) for name, value in wide.state[ours].items())


@each_policy
def test_torchs_float32_state_loads_into_every_policy(backend: str, policy: Precision) -> None:
    """Exactly where it is held in float32; else rounded, with one warning for all parameters."""
    torchs = torch.optim.AdamW(parameters(bfloat16_values(1), torch.float32), **OPTIONS)
    take_steps(torchs, 1, 4)
    values = [parameter.detach() for parameter in torchs.param_groups[0]["params"]]
    optimizer = torchclip.AdamW(
        parameters(values, torch.bfloat16), **OPTIONS, precision=policy, backend=backend, seed=1
    )
    saved = through_a_file(torchs.state_dict())
    types = policy.types(optimizer.spec, torch.empty(8, dtype=torch.bfloat16))
    is_exact = types.slots["exp_avg"].dtype is torch.float32
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        optimizer.load_state_dict(saved)
    assert len(caught) == (0 if is_exact else 1)
    if not is_exact:
        assert "holds ['exp_avg', 'exp_avg_sq'] in other types than precision=" in str(caught[0].message)
        assert caught[0].filename == __file__
    came = optimizer.float32_state_dict()["state"]
    for index, held in saved["state"].items():
        for name in ("exp_avg", "exp_avg_sq"):
            wanted, value = held[name], came[index][name]
            assert value.dtype is torch.float32 and value.shape == wanted.shape
            bound = (
                0.0 if is_exact else 0.0080 * wanted.abs().max() if "8bit" in repr(policy) else 2.0**-8 * wanted.abs()
            )
            assert ((value - wanted).abs() <= bound).all()
    take_steps(optimizer, 5, 6)


@pytest.mark.parametrize("after", [None, "state_dtype"])
def test_8_bit_state_loads_where_it_is_held_wider(backend: str, after: str | None) -> None:
    first = torchclip.AdamW(parameters(bfloat16_values(1), torch.float32), **OPTIONS, precision=BLOCKS, backend=backend)
    take_steps(first, 1, 4)
    policy = None if after is None else POLICIES[after]
    second = torchclip.AdamW(
        parameters(first.float32_parameters(), torch.float32), **OPTIONS, precision=policy, backend=backend
    )
    with pytest.warns(UserWarning, match=r"\['exp_avg', 'exp_avg_sq'\] in other types"):
        second.load_state_dict(through_a_file(first.state_dict()))
    wanted = first.float32_state_dict()["state"]
    for index, parameter in enumerate(second.param_groups[0]["params"]):
        held = second.state[parameter]
        assert not any(name.endswith("absmax") for name in held)
        for name in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(held[name], wanted[index][name].to(held[name].dtype))


@pytest.mark.parametrize(
    "before, after, key",
    [
        (SplitMaster(), None, "remainder"),
        (SplitMaster(), MasterWeights(), "remainder"),
        (MasterWeights(), StochasticRounding(), "master"),
        (MasterWeights(), SplitMaster(), "master"),
    ],
    ids=["split-none", "split-master", "master-rounding", "master-split"],
)
def test_what_one_policy_keeps_beside_a_parameter_is_not_lost(
    backend: str, before: Precision, after: Precision | None, key: str
) -> None:
    first = torchclip.AdamW(
        parameters(bfloat16_values(1), torch.bfloat16), **OPTIONS, precision=before, backend=backend
    )
    take_steps(first, 1, 2)
    second = torchclip.AdamW(
        parameters(bfloat16_values(1), torch.bfloat16), **OPTIONS, precision=after, backend=backend
    )
    with pytest.raises(RuntimeError, match=rf"parameter 0 of param group 0.* has '{key}', which .* float32_state_dict"):
        second.load_state_dict(first.state_dict())
    assert not second.state
    second.load_float32_parameters(first.float32_parameters())
    second.load_state_dict(first.float32_state_dict())
    take_steps(second, 3, 4)


def test_codes_without_an_absmax_do_not_load(backend: str) -> None:
    first = torchclip.AdamW(parameters(bfloat16_values(1), torch.float32), **OPTIONS, precision=BLOCKS, backend=backend)
    take_steps(first, 1, 2)
    saved = copy.deepcopy(first.state_dict())
    del saved["state"][1]["exp_avg_absmax"]
    second = torchclip.AdamW(parameters(bfloat16_values(1), torch.float32), **OPTIONS, backend=backend)
    with pytest.raises(RuntimeError, match=r"'exp_avg' of parameter 1 .* 'exp_avg_absmax' is NoneType: codes need"):
        second.load_state_dict(saved)
    assert not second.state


def without_strides(saved: Any) -> Any:
    """A state dict as safetensors and ``torch.distributed.checkpoint`` bring it back: values and no order in memory."""
    return {
        **saved,
        "state": {key: {k: v.contiguous() for k, v in held.items()} for key, held in saved["state"].items()},
    }


def channels_last_run(backend: str, number: int, loads: Any = None) -> torchclip.FusedOptimizer:
    """Steps of a weight whose channels differ; state goes through ``loads`` before the third of them."""
    torch.manual_seed(0)
    scales = torch.logspace(-3, 0, 16).view(1, 16, 1, 1)
    weight = torch.nn.Parameter(torch.randn(2, 16, 9, 11).to(memory_format=torch.channels_last))
    optimizer = torchclip.AdamW([weight], **OPTIONS, precision=BLOCKS, backend=backend)
    for step in range(number):
        if loads is not None and step == 2:
            saved = loads(optimizer.state_dict())
            optimizer = torchclip.AdamW([weight], **OPTIONS, precision=BLOCKS, backend=backend)
            silently_loaded(optimizer, saved)
        weight.grad = ((weight.detach() - step) * scales).contiguous(memory_format=torch.channels_last)
        optimizer.step()
    return optimizer


@pytest.mark.parametrize("loads", [through_a_file, without_strides])
def test_a_channels_last_parameter_keeps_its_blocks(loads: Any, backend: str) -> None:
    (expected,) = channels_last_run(backend, 4).param_groups[0]["params"]
    (weight,) = channels_last_run(backend, 4, loads).param_groups[0]["params"]
    assert torch.equal(weight, expected)


@pytest.mark.parametrize("shape", [(4096,), (64, 64)], ids=str)
@pytest.mark.parametrize("cls", [torchclip.RMSprop, torchclip.AdamW])
@pytest.mark.parametrize("precision", [BLOCKS, None], ids=["blockwise", "float32"])
def test_codes_of_another_map_do_not_load(
    precision: Precision | None, cls: Any, shape: tuple[int, ...], backend: str
) -> None:
    """Their absmax is the largest magnitude itself, in 24 bits."""
    weight = torch.nn.Parameter(torch.zeros(shape))
    first = cls([weight], precision=BLOCKS, backend=backend)
    weight.grad = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    first.step()
    saved = first.state_dict()
    key = "square_avg" if cls is torchclip.RMSprop else "exp_avg"
    blocks = torch.Generator().manual_seed(2)
    saved["state"][0][f"{key}_absmax"] = torch.rand(16, generator=blocks)
    second = cls([torch.zeros(shape)], precision=precision, backend=backend)
    with pytest.raises(RuntimeError, match=f"'{key}' of parameter 0 .* '{key}_absmax' is none of Blockwise8bit's"):
        second.load_state_dict(saved)
    assert not second.state


def test_state_that_no_step_has_encoded_loads(backend: str) -> None:
    """As a skipped first step on a GPU leaves it: its absmax is what the rule begins with, in 24 bits."""
    weight = torch.nn.Parameter(torch.zeros(4096))
    optimizer = torchclip.Adagrad([weight], initial_accumulator_value=0.1, precision=BLOCKS, backend=backend)
    saved = optimizer.state_dict()
    codes, absmax = torch.full((4096,), 255, dtype=torch.uint8), torch.full((16,), 0.1)
    saved["state"] = {0: {"step": torch.tensor(0.0), "sum": codes, "sum_absmax": absmax}}
    optimizer.load_state_dict(saved)
    (loaded,) = (held["sum"] for held in optimizer.float32_state_dict()["state"].values())
    assert loaded.numpy() == pytest.approx(0.1, rel=2.0**-17)


@pytest.mark.parametrize("precision", [BLOCKS, None], ids=["blockwise", "float32"])
def test_blocks_of_small_numbers_load(precision: Precision | None, backend: str) -> None:
    """Those that have no code of their largest value: their scale is the smallest that there is."""
    weight = torch.nn.Parameter(torch.ones(64, 256))
    first = torchclip.AdamW([weight], precision=BLOCKS, backend=backend)
    for step in range(3):
        weight.grad = torch.full_like(weight, 1e-18 if step == 0 else 0.0)
        first.step()
    second = torchclip.AdamW([weight.detach().clone()], precision=precision, backend=backend)
    with warnings.catch_warnings():  # of the conversion
        warnings.simplefilter("ignore")
        second.load_state_dict(first.state_dict())
    expected, loaded = first.float32_state_dict()["state"][0], second.float32_state_dict()["state"][0]
    assert all(torch.equal(loaded[key], expected[key]) for key in ("exp_avg", "exp_avg_sq"))
    assert int((first.state[weight]["exp_avg_sq"] == 255).sum()) == 0


@pytest.mark.parametrize("precision", [BLOCKS, None], ids=["blockwise", "float32"])
def test_codes_in_the_order_of_other_blocks_do_not_load(precision: Precision | None, backend: str) -> None:
    first = channels_last_run(backend, 2)
    second = torchclip.AdamW([torch.zeros(2, 16, 9, 11)], **OPTIONS, precision=precision, backend=backend)
    with pytest.raises(RuntimeError, match=r"'exp_avg' of parameter 0 .* \(1584, 99, 11, 1\), is not that of their"):
        second.load_state_dict(without_strides(first.state_dict()))
    assert not second.state
    with warnings.catch_warnings():  # of the conversion
        warnings.simplefilter("ignore")
        second.load_state_dict(first.state_dict())
    expected, loaded = first.float32_state_dict()["state"][0], second.float32_state_dict()["state"][0]
    assert all(torch.equal(loaded[key], expected[key]) for key in ("exp_avg", "exp_avg_sq"))
