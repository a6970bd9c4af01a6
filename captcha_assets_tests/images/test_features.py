"""What is computed from pixels depends on these pixels alone."""

import numpy as np
import pytest

from captcha_assets.images.features import Statistics, dhash, frequencies, image_id, signatures
from captcha_assets_tests.images.files import characters

IMAGES = np.stack([image for _, image in characters(40)])


def shifted(images, down, across):
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)), mode="edge")
    return padded[:, 1 + down : 53 + down, 1 + across : 33 + across]


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
    assert np.allclose(statistics.ink, (flat < 128).mean(axis=1))
    assert not statistics.blank.any()
    assert Statistics(np.full((1, 52, 32), 7, np.uint8)).blank.all()


@pytest.mark.parametrize("describe", [dhash, signatures])
def test_a_row_does_not_depend_on_its_neighbours(describe):
    together = describe(IMAGES)
    alone = np.concatenate([describe(IMAGES[i : i + 1]) for i in range(len(IMAGES))])
    assert np.array_equal(together, alone)


def test_a_difference_hash_survives_brightness():
    assert np.array_equal(dhash(IMAGES), dhash((IMAGES.astype(int) * 7 // 10).astype(np.uint8))) or (
        np.bitwise_count(dhash(IMAGES) ^ dhash((IMAGES.astype(int) * 7 // 10).astype(np.uint8))).mean() < 2
    )
    assert len(np.unique(dhash(IMAGES))) > 35


def test_a_signature_has_unit_length_and_ignores_brightness_and_contrast():
    found = signatures(IMAGES).astype(float)
    assert found.shape == (40, 76)
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-3)
    dim = (IMAGES // 2 + 40).astype(np.uint8)
    assert (found * signatures(dim).astype(float)).sum(axis=1).min() > 0.999


def test_a_shift_turns_the_phases_of_a_signature_by_a_known_angle():
    down, across = frequencies()
    before, after = (
        found[:, :38].astype(float) + 1j * found[:, 38:]
        for found in (signatures(IMAGES), signatures(shifted(IMAGES, 1, -1)))
    )
    turned = before * np.exp(2j * np.pi * (down - across))
    agreement = (turned * after.conj()).sum(axis=1).real
    assert agreement.min() > 0.97
    assert agreement.mean() > (before * after.conj()).sum(axis=1).real.mean() + 0.05


def test_a_picture_without_structure_has_a_signature_of_zeros():
    assert not signatures(np.full((2, 52, 32), 99, np.uint8)).any()
