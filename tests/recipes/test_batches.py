"""recipes.data.images: the same batch for the same number, every image once an epoch, crops and flips of He et al."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from recipes.data.images import ImageBatches, Images, evaluation_batches, normalised

N = 10
ZERO, ONE = torch.zeros(2), torch.ones(2)


def some_images(n: int = N) -> Tensor:
    return torch.randint(256, (n, 2, 6, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def batches(**changes: Any) -> ImageBatches:
    arguments = {"images": some_images(), "labels": torch.arange(N), "batch_size": 4, "seed": 0}
    return ImageBatches(**{**arguments, "mean": ZERO, "std": ONE, **changes})


def order(source: ImageBatches, epoch: int) -> list[int]:
    return torch.cat([source.batch(epoch, step)[1] for step in range(len(source))]).tolist()


def test_an_epoch_has_every_image_once() -> None:
    source = batches()
    assert len(source) == 3 and [len(source.batch(0, step)[1]) for step in range(3)] == [4, 4, 2]
    assert sorted(order(source, 0)) == sorted(order(source, 1)) == list(range(N))
    assert order(source, 0) != order(source, 1) and order(source, 0) != order(batches(seed=1), 0)
    assert len(batches(batch_size=5)) == 2 and len(batches(batch_size=99)) == 1
    for step in range(3):
        images, labels = source.batch(0, step)
        torch.testing.assert_close(images, some_images()[labels] / 255)
        assert images.dtype == torch.float32 and labels.dtype == torch.int64


@pytest.mark.parametrize("augment", [False, True])
def test_random_access_is_iteration(augment: bool) -> None:
    source = batches(augment=augment)
    seen = {(epoch, step): source.batch(epoch, step) for epoch in range(2) for step in range(3)}
    for (epoch, step), expected in reversed(seen.items()):
        for resumed in (source, batches(augment=augment)):
            found = resumed.batch(epoch, step)
            assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])


def placements(image: Tensor) -> list[Tensor]:
    """Every crop of the image in a black frame of 4 pixels, as it is and mirrored."""
    channels, height, width = image.shape
    framed = torch.zeros(channels, height + 8, width + 8, dtype=image.dtype)
    framed[:, 4:-4, 4:-4] = image
    crops = [framed[:, top : top + height, left : left + width] for top in range(9) for left in range(9)]
    return [*crops, *(crop.flip(2) for crop in crops)]


def test_augmentation_crops_and_flips_every_image_by_itself() -> None:
    """Of one image many times, every placement there is turns up, and no other."""
    n = 4000
    image = some_images(1)
    same = image.expand(n, -1, -1, -1)
    source = batches(images=same, labels=torch.zeros(n, dtype=torch.int64), batch_size=n, augment=True)
    images = (source.batch(0, 0)[0] * 255).round().to(torch.uint8)
    found = {bytes(some.flatten().tolist()) for some in images}
    assert found == {bytes(some.flatten().tolist()) for some in placements(image[0])}
    assert not torch.equal(source.batch(0, 0)[0], source.batch(1, 0)[0])
    other = batches(images=same, labels=source.labels, batch_size=n, augment=True, seed=1)
    assert not torch.equal(source.batch(0, 0)[0], other.batch(0, 0)[0])


def test_augmentation_leaves_each_image_its_label_and_differs_between_steps() -> None:
    brightness = (torch.arange(8, dtype=torch.uint8) + 1).view(8, 1, 1, 1).expand(8, 2, 30, 30)
    source = batches(images=brightness, labels=torch.arange(8), augment=True)
    masks = []
    for step in range(2):
        images, labels = source.batch(0, step)
        torch.testing.assert_close(images.amax((1, 2, 3)) * 255, labels + 1.0)
        masks.append(images > 0)
    assert not torch.equal(masks[0], masks[1])


def test_normalised_images_have_mean_0_and_deviation_1() -> None:
    images = Images(N, some_images(), torch.arange(N), some_images(), torch.arange(N))
    mean, std = images.moments()
    found = normalised(images.train_images, mean, std)
    torch.testing.assert_close(found.mean((0, 2, 3)), ZERO, atol=1e-6, rtol=0)
    torch.testing.assert_close(found.std((0, 2, 3), correction=0), ONE)
    source = batches(mean=mean, std=std)
    assert torch.equal(source.batch(0, 0)[0], found[source.batch(0, 0)[1]])


def test_evaluation_has_every_image_in_order() -> None:
    mean, std = torch.tensor([0.1, 0.2]), torch.tensor([0.3, 0.4])
    found = list(evaluation_batches(some_images(), torch.arange(N), 4, mean, std))
    assert [len(labels) for _, labels in found] == [4, 4, 2]
    assert torch.equal(torch.cat([labels for _, labels in found]), torch.arange(N))
    expected = (some_images().double() / 255 - mean.view(2, 1, 1)) / std.view(2, 1, 1)
    torch.testing.assert_close(torch.cat([images for images, _ in found]), expected.float())


def test_images_of_one_colour_cannot_be_normalised() -> None:
    with pytest.raises(ValueError, match=r"std=\[0.0, 0.0\], expected above 0"):
        batches(std=ZERO)
