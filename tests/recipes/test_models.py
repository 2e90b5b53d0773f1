"""The papers' models: parameter counts, starts, copies, gradients, and clear refusals of names and shapes."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from recipes.models.images import is_model, make_model
from text_models import language_model, run

MNIST, CIFAR = (1, 28, 28), (3, 32, 32)

# Reckoned from the papers' tables of layers, at ten classes.
PARAMETERS = {
    "mlp": (50_890, 197_322),
    "mlp(32)": (25_450, 98_666),
    "lenet": (61_706, 62_006),
    "cnn": (651_658, 808_458),
    "resnet(20,1)": (272_186, 272_474),
    "resnet(32,1)": (466_618, 466_906),
    "vgg16": (15_243_978, 15_245_130),
    "vgg16(bn)": (15_252_426, 15_253_578),
}

RUN = ("mlp", "lenet", "cnn", "resnet(8,2)", "vgg16", "vgg16(bn)")


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def image_model(
    name: str, shape: tuple[int, int, int]
) -> Callable[[], tuple[nn.Module, Callable[[nn.Module], Tensor]]]:
    def make() -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
        torch.manual_seed(0)
        images = torch.randn(2, *shape)
        return make_model(name, shape, 10), lambda model: model(images)

    return make


# Each makes a model, and a function that runs such a model on one batch.
EVERY_MODEL = {
    **{name: image_model(name, MNIST if name in ("mlp", "lenet") else CIFAR) for name in RUN},
    "awd_lstm": lambda: (language_model(), lambda model: run(model).logits),
}


@pytest.mark.parametrize("shape", [MNIST, CIFAR], ids=["mnist", "cifar"])
@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts_and_logits(name: str, shape: tuple[int, int, int]) -> None:
    with torch.device("meta"):
        model = make_model(name, shape, 10)
        assert model(torch.empty(2, *shape)).shape == (2, 10)
    assert count(model) == PARAMETERS[name][shape == CIFAR]


@pytest.mark.parametrize("name", EVERY_MODEL)
def test_gradients_reach_every_parameter(name: str) -> None:
    model, forward = EVERY_MODEL[name]()
    # In evaluation, since a bias before batch norm has no gradient in training.
    logits = forward(model.eval())
    (logits * torch.linspace(-1, 1, logits.numel()).view_as(logits)).sum().backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.count_nonzero() > 0, parameter_name


@pytest.mark.parametrize("name", EVERY_MODEL)
def test_copies_and_checkpoints_give_the_same_logits(name: str) -> None:
    model, forward = EVERY_MODEL[name]()
    forward(model)  # in training, so that batch norm's statistics are not those of a new model
    logits = forward(model.eval())
    assert logits.count_nonzero() > 0
    assert torch.equal(forward(model), logits)
    assert torch.equal(forward(copy.deepcopy(model)), logits)
    other, _ = EVERY_MODEL[name]()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1)
    other.load_state_dict(model.state_dict())
    assert torch.equal(forward(other.eval()), logits)


def test_the_default_generator_decides_the_start() -> None:
    def first_weight() -> Tensor:
        return next(make_model("resnet(8,1)", CIFAR, 10).parameters()).detach()

    torch.manual_seed(3)
    one, other = first_weight(), first_weight()
    torch.manual_seed(3)
    assert torch.equal(first_weight(), one)
    assert not torch.equal(other, one)


def test_starts() -> None:
    """Within a tenth of the standard deviations that the papers give; the layers have over 9,000 weights."""
    torch.manual_seed(0)
    hidden, last = (module for module in make_model("mlp", MNIST, 10).modules() if isinstance(module, nn.Linear))
    assert hidden.weight.std().item() == pytest.approx((2 / (784 + 64)) ** 0.5, rel=0.1)
    assert not hidden.bias.count_nonzero() and not last.bias.count_nonzero()
    convolutions = [
        module for module in make_model("resnet(8,1)", CIFAR, 10).modules() if isinstance(module, nn.Conv2d)
    ]
    large = [convolution for convolution in convolutions if convolution.weight.numel() > 9_000]
    assert len(large) == 3 and any(c.in_channels != c.out_channels for c in large)
    for convolution in large:
        wanted = (2 / (9 * convolution.out_channels)) ** 0.5
        assert convolution.weight.std().item() == pytest.approx(wanted, rel=0.1)
    assert language_model().embedding.weight.abs().max().item() == pytest.approx(0.1, rel=0.1)


@pytest.mark.parametrize(
    "name", ["alexnet", "resnet(32,1", "resnet", "resnet(32)", "resnet(32,0)", "vgg16(gn)", "mlp()", "cnn(5)"]
)
def test_wrong_names(name: str) -> None:
    words = re.escape(
        f"{name!r} is no model; the models are: mlp or mlp(hidden), 64 hidden units by default; lenet; cnn;"
    )
    with pytest.raises(ValueError, match=words):
        make_model(name, CIFAR, 10)


def test_impossible_depths_and_classes() -> None:
    for depth in (31, 2):
        with pytest.raises(ValueError, match=rf"resnet\({depth},1\): the depth must be 6n \+ 2"):
            make_model(f"resnet({depth},1)", CIFAR, 10)
    with pytest.raises(ValueError, match="classes=1: wanted at least 2"):
        make_model("lenet", CIFAR, 1)


def test_what_is_meant_for_one_of_these_models() -> None:
    """And not for one of a library, though its arguments be wrong."""
    assert all(is_model(name) for name in (*RUN, "resnet", " resnet(8, 2) ", "resnet(9)"))
    assert not any(is_model(name) for name in ("resnet50", "vgg16_bn", "vit_small_patch16_224", "cnn2"))
    assert count(make_model(" resnet(8, 2) ", CIFAR, 10)) == count(make_model("resnet(8,2)", CIFAR, 10))


def test_lenet_takes_other_sizes() -> None:
    for height, width in ((8, 8), (31, 33), (40, 28)):
        assert make_model("lenet", (1, height, width), 4)(torch.randn(1, 1, height, width)).shape == (1, 4)
