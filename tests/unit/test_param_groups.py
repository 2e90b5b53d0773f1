"""Param groups made from a model: who is in which group, under which name, and what a step then does."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import torchclip
from memory_guard import same_bits
from torchclip.param_groups import param_groups_per_layer, param_groups_weight_decay

Groups = list[dict[str, Any]]


class Tied(nn.Module):
    """A language model's shape: a parameter of its own, a tied weight, a module that is used twice, frozen parts."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = nn.Linear(4, 7)  # registered first, so the shared weight is the decoder's
        self.embedding = nn.Embedding(7, 4)
        self.embedding.weight = self.decoder.weight
        self.scale = nn.Parameter(torch.ones(4, 4))
        self.block = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
        self.again = self.block[0]
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.half_frozen = nn.Linear(4, 4)
        self.half_frozen.weight.requires_grad_(False)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "tied": Tied,
    "single": lambda: nn.Linear(3, 2),
    "convolutions": lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten()),
    "transformer": lambda: nn.TransformerEncoderLayer(8, 2, 16),
    "lstm": lambda: nn.LSTM(3, 4, num_layers=2),
    "lists": lambda: nn.ModuleDict(
        {"a": nn.ParameterList([torch.ones(2), torch.ones(2, 2)]), "b": nn.ParameterDict({"c": torch.ones(3)})}
    ),
    "parametrised": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)),
}

each_model = pytest.mark.parametrize("model", [pytest.param(make, id=name) for name, make in MODELS.items()])

FUNCTIONS: dict[str, Callable[[nn.Module], Groups]] = {
    "per_layer": param_groups_per_layer,
    "weight_decay": lambda model: param_groups_weight_decay(model, 0.1),
}

each_function = pytest.mark.parametrize("function", [pytest.param(f, id=name) for name, f in FUNCTIONS.items()])


def names(groups: Groups) -> list[list[str]]:
    """The parameters' names, group by group."""
    return [[name for name, _ in group["params"]] for group in groups]


@each_function
@each_model
def test_every_trainable_parameter_stands_in_one_group(
    model: Callable[[], nn.Module], function: Callable[[nn.Module], Groups]
) -> None:
    built = model()
    groups = function(built)
    assert all(group["params"] for group in groups)
    pairs = [pair for group in groups for pair in group["params"]]
    trainable = {name: p for name, p in built.named_parameters() if p.requires_grad}
    assert len(pairs) == len(trainable)
    assert {name: id(p) for name, p in pairs} == {name: id(p) for name, p in trainable.items()}


@each_model
def test_layers_are_the_modules_that_own_parameters(model: Callable[[], nn.Module]) -> None:
    built = model()
    groups = names(param_groups_per_layer(built))
    # A frozen module aside, which no model here but the first has, every owner is one group, in order.
    assert [name for group in groups for name in group] == [n for n, p in built.named_parameters() if p.requires_grad]
    for group in groups:
        assert len({name.rpartition(".")[0] for name in group}) == 1
    owners = [group[0].rpartition(".")[0] for group in groups]
    assert len(owners) == len(set(owners))


def test_layers_of_a_model_with_shared_and_frozen_parts() -> None:
    assert names(param_groups_per_layer(Tied())) == [
        ["scale"],
        ["decoder.weight", "decoder.bias"],
        ["block.0.weight", "block.0.bias"],
        ["block.1.weight", "block.1.bias"],
        ["half_frozen.bias"],
    ]


def test_weight_decay_of_a_model_with_shared_and_frozen_parts() -> None:
    groups = param_groups_weight_decay(Tied(), 0.1)
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    assert names(groups) == [
        ["scale", "decoder.weight", "block.0.weight"],
        ["decoder.bias", "block.0.bias", "block.1.weight", "block.1.bias", "half_frozen.bias"],
    ]


class Biased(nn.Module):
    """A bias of two dimensions, and names that only look like one."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.ones(2, 2))
        self.unbias = nn.Parameter(torch.ones(2, 2))
        self.bias_table = nn.Parameter(torch.ones(2, 2))
        self.scalar = nn.Parameter(torch.ones(()))


@pytest.mark.parametrize(
    "model, decaying, others",
    [
        pytest.param(Biased, ["unbias", "bias_table"], ["bias", "scalar"], id="bias"),
        pytest.param(
            lambda: nn.ModuleDict({"m": Biased()}),
            ["m.unbias", "m.bias_table"],
            ["m.bias", "m.scalar"],
            id="bias-below",
        ),
        # timm goes by the number of dimensions alone, and lets this norm's weight decay.
        pytest.param(
            lambda: nn.Sequential(nn.Conv2d(2, 3, 1, bias=False), nn.LayerNorm((3, 4, 4)), nn.RMSNorm((4, 4))),
            ["0.weight"],
            ["1.weight", "1.bias", "2.weight"],
            id="norm-of-several-dimensions",
        ),
        pytest.param(
            lambda: nn.Sequential(nn.Conv2d(2, 3, 1, bias=False), nn.BatchNorm2d(3), nn.GroupNorm(1, 3), nn.PReLU()),
            ["0.weight"],
            ["1.weight", "1.bias", "2.weight", "2.bias", "3.weight"],
            id="norm-of-one-dimension",
        ),
        pytest.param(lambda: nn.Linear(2, 2, bias=False), ["weight"], None, id="nothing-without-decay"),
        pytest.param(lambda: nn.LayerNorm(2), None, ["weight", "bias"], id="nothing-with-decay"),
    ],
)
def test_who_decays(model: Callable[[], nn.Module], decaying: list[str] | None, others: list[str] | None) -> None:
    groups = {
        group["weight_decay"]: [name for name, _ in group["params"]]
        for group in param_groups_weight_decay(model(), 0.1)
    }
    assert groups == {decay: wanted for decay, wanted in ((0.1, decaying), (0.0, others)) if wanted is not None}


def test_only_the_first_group_shrinks(backend: str) -> None:
    """Gradients of zero, so that all that a step does is decay."""
    model = Tied()
    optimizer = torchclip.SGDW(param_groups_weight_decay(model, 0.25), lr=0.5, backend=backend)
    decaying = [id(p) for p in optimizer.param_groups[0]["params"]]
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for name, p in model.named_parameters():
        factor = 1 - 0.5 * 0.25 if id(p) in decaying else 1.0
        torch.testing.assert_close(p.detach(), before[name] * factor, msg=name)
        assert same_bits(p.detach(), before[name]) == (factor == 1.0), name


def test_zero_weight_decay_still_makes_two_groups() -> None:
    """A schedule may raise it later."""
    assert [group["weight_decay"] for group in param_groups_weight_decay(nn.Linear(2, 2), 0)] == [0, 0]


def joint_norm(tensors: list[Tensor]) -> float:
    """The norm of all elements together."""
    return math.sqrt(sum(float(t.square().sum()) for t in tensors))


def test_mix_clip_measures_every_layer_for_itself(backend: str) -> None:
    """Four steps beside the authors' update, written out for each layer."""
    lr, gamma, momentum, nu = 0.5, 0.3, 0.9, 0.7
    model = nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5), nn.ReLU(), nn.Linear(5, 2)).double()
    layers = [
        [dict(model.named_parameters())[name] for name in group] for group in names(param_groups_per_layer(model))
    ]
    expected = {id(p): p.detach().clone() for p in model.parameters()}
    averages = {id(p): torch.zeros_like(p) for p in model.parameters()}
    optimizer = torchclip.MixClip(
        param_groups_per_layer(model), lr=lr, gamma=gamma, momentum=momentum, nu=nu, scope="group", backend=backend
    )

    def h(norm: float) -> float:
        return lr / (1 + lr * norm / gamma)

    for _ in range(4):
        optimizer.zero_grad()
        model(torch.randn(8, 3, dtype=torch.float64)).square().sum().backward()
        norms = [joint_norm([p.grad for p in layer]) for layer in layers]
        for layer, norm in zip(layers, norms):
            for p in layer:
                averages[id(p)].mul_(momentum).add_(p.grad, alpha=1 - momentum)
            average_norm = joint_norm([averages[id(p)] for p in layer])
            for p in layer:
                expected[id(p)] -= nu * h(average_norm) * averages[id(p)] + (1 - nu) * h(norm) * p.grad
        optimizer.step()
        assert optimizer.grad_norm.shape == (3,)
        assert optimizer.grad_norm.tolist() == pytest.approx(norms, rel=1e-12)
        for p in model.parameters():
            torch.testing.assert_close(p.detach(), expected[id(p)])
    assert max(norms) > 1.5 * min(norms)  # else one norm for all would have passed


def test_a_clip_policy_clips_every_layer_for_itself(backend: str) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    before = [p.detach().clone() for p in model.parameters()]
    for p, size in zip(model.parameters(), (4.0, 4.0, 0.01, 0.01)):
        p.grad = torch.full_like(p, size)
    policy = torchclip.ClipByGlobalNorm(1.0, scope="group")
    torchclip.SGD(param_groups_per_layer(model), lr=1.0, clip=policy, backend=backend).step()
    steps = [b - p.detach() for b, p in zip(before, model.parameters())]
    assert joint_norm(steps[:2]) == pytest.approx(1.0, rel=1e-5)
    assert joint_norm(steps[2:]) == pytest.approx(0.01 * math.sqrt(12), rel=1e-4)


@pytest.mark.parametrize("cls", [torchclip.SGD, torch.optim.SGD], ids=["torchclip", "torch"])
@each_function
def test_names_reach_the_optimizer_and_its_checkpoint(
    function: Callable[[nn.Module], Groups], cls: type[torch.optim.Optimizer]
) -> None:
    model = Tied()
    expected = names(function(model))
    optimizer = cls(function(model), lr=0.1)
    assert [group["param_names"] for group in optimizer.param_groups] == expected
    assert [group["param_names"] for group in optimizer.state_dict()["param_groups"]] == expected
    for group in optimizer.param_groups:
        assert all(isinstance(p, nn.Parameter) for p in group["params"])


@each_function
def test_an_error_names_the_parameter(function: Callable[[nn.Module], Groups], backend: str) -> None:
    model = nn.Sequential(nn.Embedding(5, 2, sparse=True), nn.Linear(2, 1))
    optimizer = torchclip.SGD(function(model), lr=0.1, backend=backend)
    model(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(RuntimeError, match=r"parameter '0\.weight' of shape \(5, 2\) has a sparse gradient"):
        optimizer.step()


@each_function
def test_groups_serve_two_optimizers(function: Callable[[nn.Module], Groups]) -> None:
    """torch rewrites the groups that it is given; ours leaves them alone."""
    groups = function(nn.Linear(2, 2))
    before = names(groups)
    torchclip.SGD(groups, lr=0.1)
    assert names(groups) == before and not any("param_names" in group for group in groups)
    torch.optim.SGD(groups, lr=0.1)
    again = torchclip.SGD(groups, lr=0.1)
    assert [group["param_names"] for group in again.param_groups] == before


@each_function
@pytest.mark.parametrize(
    "model",
    [None, [nn.Parameter(torch.ones(2))], nn.Linear(2, 2).parameters(), torch.ones(2), nn.Linear],
    ids=["none", "list", "generator", "tensor", "class"],
)
def test_not_a_module(function: Callable[[Any], Groups], model: Any) -> None:
    with pytest.raises(TypeError, match=rf"torch\.nn\.Module, got {type(model).__name__}: pass the model itself"):
        function(model)


@each_function
def test_nothing_to_train(function: Callable[[nn.Module], Groups]) -> None:
    with pytest.raises(ValueError, match="ReLU has nothing to train: it owns no parameters"):
        function(nn.ReLU())
    frozen = nn.Linear(2, 2).requires_grad_(False)
    with pytest.raises(
        ValueError, match=r"Linear has .*: all 2 of its parameters are frozen; .*requires_grad_\(True\)"
    ):
        function(frozen)


@each_function
def test_a_lazy_module_is_refused_until_it_has_a_shape(function: Callable[[nn.Module], Groups]) -> None:
    """Its weight would pass for a bias: a parameter without a shape says that it has one dimension."""
    model = nn.Sequential(nn.Linear(2, 3), nn.LazyLinear(4))
    with pytest.raises(ValueError, match=r"parameter '1\.weight' of LazyLinear has no shape yet: run one batch"):
        function(model)
    model(torch.ones(1, 2))
    assert sum(len(group["params"]) for group in function(model)) == 4


@pytest.mark.parametrize("weight_decay", [-1, -0.1, math.nan, math.inf, None])
def test_weight_decay_out_of_range(weight_decay: Any) -> None:
    with pytest.raises(ValueError, match=f"^Invalid weight_decay value: {weight_decay}; it must be a finite number"):
        param_groups_weight_decay(nn.Linear(2, 2), weight_decay)


def test_weight_decay_that_is_text() -> None:
    with pytest.raises(ValueError, match=r"^weight_decay='0.1' is text \(str\)"):
        param_groups_weight_decay(nn.Linear(2, 2), "0.1")  # type: ignore[arg-type]
