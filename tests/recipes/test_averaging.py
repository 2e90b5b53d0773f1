"""The average of weights starts when its paper says, and leaves the weights that are trained alone."""

from __future__ import annotations

import pytest
import torch

from recipes.averaging import NonMonotonicAverage, substituted

AVERAGE_CASES = [  # nonmono, validation losses, the epoch after which it starts (None: never)
    (0, (3.0, 2.0, 2.5), 2),
    (0, (3.0, 2.0, 2.0, 1.0), None),
    (2, (3.0, 4.0, 5.0, 3.5), 3),
    (2, (5.0, 3.0, 3.5, 3.6, 3.2), 4),  # 3.6 is above 3.0, but that is one of the last two
    (2, (5.0, 3.0, 3.5, 2.9, 3.2), 4),
    (5, (1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0), 6),
    (5, (1.0, 2.0, 2.0, 2.0, 2.0, 2.0), None),
]


@pytest.mark.parametrize(("nonmono", "losses", "started"), AVERAGE_CASES)
def test_the_average_starts_after_a_loss_above_the_earlier_ones(
    nonmono: int, losses: tuple[float, ...], started: int | None
) -> None:
    average = NonMonotonicAverage(nonmono)
    counts = []
    for epoch, loss in enumerate(losses):
        average.end_epoch([torch.tensor([float(epoch)])], loss)
        counts.append(average.including([torch.zeros(1)])[0])
    assert counts == [int(started is not None and epoch >= started) for epoch in range(len(losses))]


def test_the_average_is_of_the_epochs_after_its_start() -> None:
    average = NonMonotonicAverage(0)
    for epoch, loss in enumerate((1.0, 2.0, 0.5, 9.0)):  # once started, losses do not matter
        average.end_epoch([torch.tensor([10.0**epoch])], loss)
    count, (mean,) = average.including([torch.tensor([3.0])])
    assert count == 3 and float(mean) == pytest.approx((100 + 1000 + 3) / 3)
    loaded = NonMonotonicAverage(0)
    loaded.load_state_dict(average.state_dict())
    assert torch.equal(loaded.including([torch.tensor([3.0])])[1][0], mean)


def test_substituted_weights_are_back_even_after_an_error() -> None:
    weight = torch.nn.Parameter(torch.tensor([0.1, -3e-39]))
    own, place = weight.detach().clone(), weight.data_ptr()
    with pytest.raises(RuntimeError), substituted([weight], [torch.ones(2)]):
        assert weight.tolist() == [1, 1]
        raise RuntimeError
    assert torch.equal(weight, own) and weight.data_ptr() == place
