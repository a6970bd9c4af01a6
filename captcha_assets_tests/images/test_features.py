"""What is computed from pixels depends on these pixels alone."""

import numpy as np
import pytest

from captcha_assets.images.features import (
    ACROSS,
    DOWN,
    Statistics,
    descriptors,
    dhash,
    image_id,
    rounded,
    signatures,
)
from captcha_assets_tests.images.copies import shifted
from captcha_assets_tests.images.files import characters

IMAGES = np.stack([image for _, image in characters(40)])


def test_an_identity_says_pixels_and_size():
    image = IMAGES[0]
    assert image_id(image) == image_id(image.copy())
    assert len(image_id(image)) == 32
    changed = image.copy()
    changed[-1, -1] ^= 1
    turned = image.reshape(32, 52)
    assert len({image_id(image), image_id(changed), image_id(turned)}) == 3
    assert image_id(np.asfortranarray(image)) == image_id(image)


def test_statistics_are_what_they_say():
    statistics = Statistics(IMAGES)
    flat = IMAGES.reshape(len(IMAGES), -1).astype(float)
    assert np.allclose(statistics.brightness, flat.mean(axis=1))
    assert np.allclose(statistics.contrast, flat.std(axis=1))
    assert np.allclose(statistics.foreground_fraction, (flat < 128).mean(axis=1))
    assert not statistics.blank.any()
    assert Statistics(np.full((1, 52, 32), 7, np.uint8)).blank.all()


@pytest.mark.parametrize("describe", [dhash, descriptors, lambda images: signatures(descriptors(images))])
def test_a_row_does_not_depend_on_its_neighbours(describe):
    together = describe(IMAGES)
    alone = np.concatenate([describe(IMAGES[i : i + 1]) for i in range(len(IMAGES))])
    assert np.array_equal(together, alone)


def test_a_difference_hash_survives_brightness_and_tells_images_apart():
    before, after = dhash(IMAGES), dhash((IMAGES * 0.7).astype(np.uint8))
    changed = np.bitwise_count(before ^ after).mean()
    apart = np.bitwise_count(before[:, None] ^ before)[np.triu_indices(len(IMAGES), 1)].mean()
    assert changed < 4
    assert apart > 16


def test_a_descriptor_ignores_brightness_and_contrast():
    found = descriptors(IMAGES)
    assert found.shape == (40, 5, 34)
    assert np.allclose(np.linalg.norm(found, axis=2), 1)
    dim = (IMAGES // 2 + 40).astype(np.uint8)
    assert np.abs(found - descriptors(dim)).max() < 0.01


@pytest.mark.parametrize("down", [-1, 0, 1])
@pytest.mark.parametrize("across", [-1, 0, 1])
def test_of_an_image_and_its_shifted_copy_two_crops_show_the_same(down, across):
    seen = descriptors(IMAGES)[:, list(DOWN)][:, :, None]
    in_copy = descriptors(shifted(IMAGES, down, across))[:, list(ACROSS)][:, None]
    assert (np.abs(seen - in_copy).max(axis=3).min(axis=(1, 2)) == 0).all()


def test_a_stored_descriptor_is_true_to_a_hundredth():
    found = descriptors(IMAGES)
    stored = rounded(found)
    assert stored.dtype == np.int8
    assert np.abs(stored / 127 - found).max() <= 0.5 / 127


def test_an_image_without_structure_is_described_by_zeros():
    assert not descriptors(np.full((2, 52, 32), 99, np.uint8)).any()
