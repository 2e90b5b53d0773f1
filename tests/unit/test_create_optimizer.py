"""create_optimizer: what a name makes, what its options reach, who is spared decay, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import torchclip
from torchclip import create_optimizer, optimizers
from torchclip.matrix import required_arguments

SPELLINGS = {
    "sgd": torchclip.SGD,
    "SGD": torchclip.SGD,
    "adamw": torchclip.AdamW,
    "AdamW": torchclip.AdamW,
    "mix_clip": torchclip.MixClip,
    "MIX-CLIP": torchclip.MixClip,
    "adagrad_norm": torchclip.AdaGradNorm,
    "normalized_sgd": torchclip.NormalizedSGD,
    "grda": torchclip.GRDA,
    "lion": torchclip.Lion,
    "lin_breg": torchclip.LinBreg,
    "adabreg": torchclip.AdaBreg,
}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3), nn.Linear(3, 2))


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_name_in_any_spelling(name: str) -> None:
    cls = SPELLINGS[name]
    optimizer = create_optimizer(name, network(), **required_arguments(cls))
    assert type(optimizer) is cls
    assert optimizer.param_groups[0]["param_names"] == [named for named, _ in network().named_parameters()]


@pytest.mark.parametrize("name", optimizers.__all__)
def test_every_class_has_its_name(name: str) -> None:
    cls = getattr(torchclip, name)
    assert isinstance(create_optimizer(name.lower(), network().parameters(), **required_arguments(cls)), cls)


def test_presets_give_way_to_options() -> None:
    for name, nesterov in (("momentum", False), ("nesterov", True)):
        group = create_optimizer(name, network(), lr=0.1).param_groups[0]
        assert (group["momentum"], group["nesterov"]) == (0.9, nesterov)
    assert create_optimizer("nesterov", network(), momentum=0.5).param_groups[0]["momentum"] == 0.5


def test_options_reach_the_class() -> None:
    extensions = (torchclip.Lookahead(),)
    optimizer = create_optimizer(
        "adamw", network().parameters(), betas=(0.8, 0.9), clip=0.5, extensions=extensions, seed=3, backend="reference"
    )
    assert optimizer.param_groups[0]["betas"] == (0.8, 0.9) and optimizer.clip == torchclip.ClipByGlobalNorm(0.5)
    assert tuple(optimizer.extensions) == extensions and optimizer.backend == "reference"
    skipping = torchclip.ClipByGlobalNorm(1.0, nonfinite="skip")
    assert create_optimizer("sgd", network(), clip=skipping).clip == skipping


@pytest.mark.parametrize(("options", "decay"), [({}, 0.01), ({"weight_decay": 0.3}, 0.3)])
def test_biases_and_norms_do_not_decay(options: dict[str, Any], decay: float) -> None:
    model = network()
    model.no_weight_decay = lambda: {"2.weight"}
    groups = create_optimizer("adamw", model, filter_bias_and_bn=True, **options).param_groups
    assert [(group["weight_decay"], group["param_names"]) for group in groups] == [
        (decay, ["0.weight"]),
        (0.0, ["0.bias", "1.weight", "1.bias", "2.weight", "2.bias"]),
    ]
    assert {group["weight_decay"] for group in create_optimizer("adamw", model, **options).param_groups} == {decay}


@pytest.mark.parametrize(
    ("name", "options", "error", "words"),
    [
        ("mixclp", {}, ValueError, "there is no optimizer 'mixclp': did you mean MixClip or "),
        ("Adam_W2", {}, ValueError, "did you mean AdamW"),
        ("xyz", {}, ValueError, "'xyz': the names are GRDA, SGD, SGDW, .*, momentum, nesterov"),
        (
            "lbfgs",
            {},
            ValueError,
            r"torchclip has no LBFGS of its own.* use torch\.optim\.LBFGS, with torchclip\.",
        ),
        ("sparse_adam", {}, ValueError, r"use torch\.optim\.SparseAdam, with"),
        ("Optimizer", {}, ValueError, "there is no optimizer 'Optimizer': "),
        ("sgd", {"betas": (0.9, 0.99)}, TypeError, r"SGD.__init__\(\) got an unexpected keyword argument 'betas'"),
        ("mom_clip", {}, TypeError, "missing 2 required positional arguments: 'lr' and 'gamma'"),
        ("sgd", {"lr": -1.0}, ValueError, "Invalid learning rate: -1.0"),
        ("grda", {"filter_bias_and_bn": True}, ValueError, "GRDA has no weight decay to spare"),
    ],
)
def test_what_is_refused(name: str, options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        create_optimizer(name, network(), **options)


def test_parameters_without_their_model_are_not_told_apart() -> None:
    with pytest.raises(TypeError, match=r"goes by the modules of a model, got list: pass the model, or the groups of"):
        create_optimizer("adamw", list(network().parameters()), filter_bias_and_bn=True)


def test_groups_and_steps_are_timms_on_a_vit() -> None:
    """Its biases, norms, class token and position embedding do not decay, and five steps end at the same weights."""
    try:
        import timm
        from timm.optim import create_optimizer_v2
    except Exception as error:  # a torchvision that does not fit torch raises what it likes
        pytest.skip(f"timm does not import: {error}")
    models = []  # in float64: the gradient of a key's bias is 0, and Adam would make steps of float32's rounding
    for _ in range(2):
        torch.manual_seed(0)
        size = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3, "num_classes": 5}
        models.append(timm.models.VisionTransformer(**size).double())
    options: dict[str, Any] = {"lr": 1e-2, "weight_decay": 0.3}
    theirs = create_optimizer_v2(models[0], "adamw", filter_bias_and_bn=True, **options)
    ours = create_optimizer("adamw", models[1], filter_bias_and_bn=True, **options)
    groups = []
    for model, optimizer in zip(models, (theirs, ours)):
        name_of = {id(parameter): name for name, parameter in model.named_parameters()}
        found = optimizer.param_groups
        groups.append({group["weight_decay"]: {name_of[id(p)] for p in group["params"]} for group in found})
    assert groups[0] == groups[1] and "pos_embed" in groups[1][0.0] and len(groups[1][0.3]) > 5
    images, labels = torch.randn(8, 3, 32, 32, dtype=torch.float64), torch.arange(8) % 5
    for _ in range(5):
        for model, optimizer in zip(models, (theirs, ours)):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
    for one, other in zip(models[0].parameters(), models[1].parameters()):
        torch.testing.assert_close(one, other)
