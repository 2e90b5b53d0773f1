"""What the reader of every image format returns."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Parts(NamedTuple):
    """The training and the test part; the images are uint8 and the labels int64."""

    train_images: Tensor  # [n_train, channels, height, width]
    train_labels: Tensor  # [n_train]
    test_images: Tensor  # [n_test, channels, height, width]
    test_labels: Tensor  # [n_test]
