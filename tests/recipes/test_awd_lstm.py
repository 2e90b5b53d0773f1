"""AWD-LSTM's dropouts are what its paper says."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recipes.models.awd_lstm import AWDLSTM, WeightDropLSTM, locked_dropout
from text_models import BATCH, STEPS, WORDS, language_model, run, words


def test_awd_lstm_has_the_papers_size() -> None:
    """24 million on the Penn Treebank's 10,000 words, as the paper's table 1 says."""
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in AWDLSTM(10_000).parameters()) == 24_221_600


def test_a_mask_of_weights_for_each_pass_and_none_in_evaluation() -> None:
    torch.manual_seed(0)
    layer = WeightDropLSTM(6, 5, weight_dropout=0.5)
    weight = layer.lstm.weight_hh_l0
    inputs, hidden = torch.randn(STEPS, BATCH, 6), (torch.randn(1, BATCH, 5), torch.randn(1, BATCH, 5))

    def gradient() -> tuple[Tensor, Tensor]:
        outputs, _ = layer(inputs, hidden)
        (found,) = torch.autograd.grad(outputs.square().sum(), weight)
        return outputs.detach(), found

    first, first_gradient = gradient()
    second, second_gradient = gradient()
    assert not torch.equal(first, second)
    assert not torch.equal(first_gradient == 0, second_gradient == 0)
    kept = (first_gradient != 0).float().mean().item()
    assert 0.3 < kept < 0.7

    layer.eval()
    outputs, whole_gradient = gradient()
    assert whole_gradient.count_nonzero() == weight.numel()
    assert torch.equal(outputs, layer.lstm(inputs, hidden)[0])
    assert torch.equal(outputs, gradient()[0])


def test_dropped_weights_are_the_ones_without_a_gradient() -> None:
    """A pass is nn.LSTM's with the kept weights doubled and the others 0."""
    torch.manual_seed(0)
    layer = WeightDropLSTM(6, 5, weight_dropout=0.5)
    inputs, hidden = torch.randn(STEPS, BATCH, 6), (torch.randn(1, BATCH, 5), torch.randn(1, BATCH, 5))
    outputs, (h, c) = layer(inputs, hidden)
    (gradient,) = torch.autograd.grad(outputs.square().sum(), layer.lstm.weight_hh_l0)
    with torch.no_grad():
        layer.lstm.weight_hh_l0.mul_(2 * (gradient != 0))
    expected, (expected_h, expected_c) = layer.lstm(inputs, hidden)
    torch.testing.assert_close(outputs, expected)
    torch.testing.assert_close(h, expected_h)
    torch.testing.assert_close(c, expected_c)


def test_locked_dropout_is_one_mask_for_all_steps() -> None:
    torch.manual_seed(0)
    inputs = torch.ones(STEPS, BATCH, 50)
    dropped = locked_dropout(inputs, 0.25, training=True)
    assert torch.equal(dropped, dropped[:1].expand_as(dropped))
    assert not torch.equal(dropped[0, 0], dropped[0, 1])
    assert dropped.unique().tolist() == pytest.approx([0, 1 / 0.75])
    assert (dropped == 0).float().mean().item() == pytest.approx(0.25, abs=0.12)  # 200 draws: four deviations
    assert locked_dropout(inputs, 0.25, training=False) is inputs


@pytest.mark.parametrize("name", ["dropout", "dropout_hidden", "dropout_input", "dropout_embedding", "weight_dropout"])
def test_each_dropout_acts_in_training_alone(name: str) -> None:
    model, plain = language_model(**{name: 0.5}), language_model()
    assert not torch.equal(run(model).logits, run(model).logits)
    assert torch.equal(run(model.eval()).logits, run(plain.eval()).logits)


def test_embedding_dropout_drops_whole_words() -> None:
    model = language_model(dropout_embedding=0.5)
    seen: list[Tensor] = []
    model.layers[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    run(model)
    scale = seen[0] / model.embedding.weight.detach()[words()]
    by_word = {word: scale[words() == word] for word in words().unique().tolist()}
    found = {word: {round(value, 3) for value in values.unique().tolist()} for word, values in by_word.items()}
    assert all(values in ({0.0}, {2.0}) for values in found.values()), found
    assert {0.0} in found.values() and {2.0} in found.values()


def test_the_decoder_is_the_embedding() -> None:
    model = language_model()
    assert [name for name, p in model.named_parameters() if p.shape == (WORDS, 12)] == ["embedding.weight"]
    run(model).logits.square().sum().backward()
    absent = [word for word in range(WORDS) if word not in words()]
    assert absent and bool(model.embedding.weight.grad[absent].abs().sum(1).all()), "only the decoder reaches these"


def test_the_state_carries_on() -> None:
    model = language_model().eval()
    whole = run(model)
    first = model(words()[:3], model.initial_hidden(BATCH))
    second = model(words()[3:], first.hidden)
    torch.testing.assert_close(torch.cat([first.logits, second.logits]), whole.logits)
    assert [h.shape[-1] for h, _ in whole.hidden] == [16, 16, 12]


def test_awd_lstm_refusals() -> None:
    with pytest.raises(ValueError, match=r"dropout_hidden=1\.0.*wanted probabilities"):
        language_model(dropout_hidden=1.0)
    with pytest.raises(ValueError, match="layers=0: wanted at least 1"):
        AWDLSTM(WORDS, layers=0)
