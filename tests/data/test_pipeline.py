from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform
from torch.utils.data import DataLoader

from rlrr.data import PreparedImages, Split, prepare_split
from rlrr.data.pipeline import BatchTransform, RandomCrop, flip, preparation, random_resize, uncropped

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CONFIG: dict[str, Any] = {
    "input_size": (3, 32, 48),
    "interpolation": "bicubic",
    "mean": MEAN,
    "std": STD,
    "crop_pct": 0.9,
    "crop_mode": "center",
}


@pytest.fixture
def split() -> Split:
    random = np.random.RandomState(0)
    images = [random.randint(0, 255, (40 + i, 70, 3), dtype=np.uint8) for i in range(6)]
    return Split(images, [0, 1, 2, 0, 1, 2], [f"x/{i}" for i in range(6)])


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
def test_the_result_is_the_backbone_s_own_transform(split: Split, crop_mode: str) -> None:
    config = {**CONFIG, "crop_mode": crop_mode}
    own = create_transform(**config, is_training=False)
    images = PreparedImages(split, preparation(config), mean=MEAN, std=STD)
    for index, source in enumerate(split.images):
        item = images[index]
        assert item["labels"] == split.labels[index]
        assert (item["pixel_values"].dtype, item["pixel_values"].shape) == (torch.float32, (3, 32, 48))
        torch.testing.assert_close(item["pixel_values"], own(Image.fromarray(source)), rtol=0, atol=1e-6)


def test_cached_images_equal_uncached_ones(split: Split) -> None:
    prepare = preparation(CONFIG)
    _, cache, _ = prepare_split(split, prepare)
    cached = PreparedImages(split, prepare, cache=cache, mean=MEAN, std=STD)
    uncached = PreparedImages(split, prepare, mean=MEAN, std=STD)
    assert len(cached) == len(uncached) == 6
    for index in range(6):
        assert torch.equal(cached[index]["pixel_values"], uncached[index]["pixel_values"])
        assert cached[index]["labels"] == uncached[index]["labels"]


def test_cached_images_are_not_decoded_again(split: Split) -> None:
    def never(image: Image.Image) -> torch.Tensor:
        raise AssertionError

    _, cache, _ = prepare_split(split, preparation(CONFIG))
    assert PreparedImages(split, never, cache=cache, mean=MEAN, std=STD)[0]["pixel_values"].shape == (
        3,
        32,
        48,
    )


def test_an_augmentation_sees_uint8_and_cannot_spoil_the_cache(split: Split) -> None:
    seen = []

    def blacken(pixels: torch.Tensor) -> torch.Tensor:
        seen.append(pixels.dtype)
        return pixels.zero_()

    _, cache, _ = prepare_split(split, preparation(CONFIG))
    assert cache is not None
    before = cache[:].clone()
    images = PreparedImages(split, preparation(CONFIG), cache=cache, augment=[blacken], mean=MEAN, std=STD)
    black = -torch.tensor(MEAN) / torch.tensor(STD)
    torch.testing.assert_close(images[2]["pixel_values"].mean((1, 2)), black)
    assert seen == [torch.uint8]
    assert torch.equal(cache[:], before)


def test_the_pipeline_goes_to_worker_processes(split: Split) -> None:
    images = PreparedImages(split, preparation(CONFIG), mean=MEAN, std=STD)
    assert torch.equal(pickle.loads(pickle.dumps(images))[3]["pixel_values"], images[3]["pixel_values"])
    batch = next(iter(DataLoader(images, batch_size=6, num_workers=1)))
    assert batch["pixel_values"].shape == (6, 3, 32, 48)
    assert batch["labels"].tolist() == [0, 1, 2, 0, 1, 2]


DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]


@pytest.mark.parametrize("device", DEVICES)
def test_a_batch_is_normalised_to_the_same_bits_as_its_images(split: Split, device: str) -> None:
    images = PreparedImages(split, preparation(CONFIG), mean=MEAN, std=STD)
    pixels = next(iter(DataLoader(images.pixels, 6)))["pixel_values"]
    assert (pixels.dtype, pixels.shape) == (torch.uint8, (6, 3, 32, 48))
    batch = images.transform(pixels.to(device)).cpu()
    assert torch.equal(batch, torch.stack([images[i]["pixel_values"] for i in range(6)]))
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (MEAN, STD))
    assert torch.equal(batch, torch.stack([image.float().div(255).sub(mean).div(std) for image in pixels]))


def test_images_come_with_their_positions_in_the_split(split: Split) -> None:
    images = PreparedImages(split.subset([4, 2, 0]), preparation(CONFIG), mean=MEAN, std=STD)
    batch = next(iter(DataLoader(images.pixels, 3)))
    assert batch["indices"].dtype == torch.int64
    assert batch["indices"].tolist() == [0, 1, 2] == [images[i]["indices"] for i in range(3)]
    assert batch["labels"].tolist() == [split.labels[i] for i in (4, 2, 0)]


def test_a_batch_is_augmented_only_if_so_asked() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).expand(2, 3, 4, 256)
    transform = BatchTransform((0, 0, 0), (1, 1, 1), [torch.zeros_like])
    assert transform(pixels).amax() == 1
    assert transform(pixels, augment=True).amax() == 0


@pytest.mark.parametrize("device", DEVICES)
def test_each_image_of_a_batch_is_flipped_by_its_own_chance(device: str) -> None:
    images = torch.randint(0, 256, (200, 3, 4, 5), dtype=torch.uint8, device=device)
    torch.manual_seed(0)
    flipped = flip(images)
    kept, mirrored = ((flipped == other).flatten(1).all(1) for other in (images, images.flip(-1)))
    assert torch.equal(kept, ~mirrored)
    assert 70 < kept.sum() < 130
    torch.manual_seed(0)
    assert torch.equal(flip(images), flipped)


@pytest.mark.parametrize("device", DEVICES)
def test_each_image_of_a_batch_is_cropped_at_its_own_place(device: str) -> None:
    places = torch.arange(7 * 9, dtype=torch.uint8, device=device).view(7, 9)
    number = torch.arange(200, dtype=torch.uint8, device=device)
    images = torch.stack([places.expand(200, 7, 9), number.view(-1, 1, 1).expand(200, 7, 9)], dim=1)
    torch.manual_seed(0)
    crops = RandomCrop(5, 6)(images)
    assert crops.shape == (200, 2, 5, 6)
    assert torch.equal(crops[:, 1], number.view(-1, 1, 1).expand(200, 5, 6))
    corners = crops[:, 0, 0, 0]
    assert set(corners.tolist()) == {9 * top + left for top in range(3) for left in range(4)}
    assert torch.equal(crops[:, 0] - corners.view(-1, 1, 1), places[:5, :6].expand(200, 5, 6))
    torch.manual_seed(0)
    assert torch.equal(RandomCrop(5, 6)(images), crops)


@pytest.mark.parametrize("crop_mode", ["center", "squash"])
def test_the_centre_of_an_uncropped_image_is_the_prepared_one(split: Split, crop_mode: str) -> None:
    config = {**CONFIG, "input_size": (3, 28, 28), "crop_pct": 0.875, "crop_mode": crop_mode}
    image = Image.fromarray(split.images[0])
    whole = uncropped(config)(image)
    assert whole.shape == (3, 32, 32)
    assert torch.equal(whole[:, 2:-2, 2:-2], preparation(config)(image))


def test_random_crops_are_random_seeded_and_of_the_right_size() -> None:
    image = Image.fromarray(np.random.RandomState(0).randint(0, 255, (90, 70, 3), dtype=np.uint8))
    crop = pickle.loads(pickle.dumps(random_resize(CONFIG, (0.3, 1.0))))
    torch.manual_seed(0)
    first, second = crop(image), crop(image)
    torch.manual_seed(0)
    again = crop(image)
    assert (first.dtype, first.shape) == (torch.uint8, (3, 32, 48))
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


def test_the_scale_of_random_crops_is_a_share_of_the_area() -> None:
    ramp = Image.fromarray(np.tile(np.linspace(0, 255, 256).astype(np.uint8), (256, 1))).convert("RGB")
    torch.manual_seed(0)
    spans = [
        float(crop.max()) - float(crop.min()) for crop in (random_resize(CONFIG, (0.01, 0.02))(ramp) for _ in range(9))
    ]
    assert max(spans) < 60
