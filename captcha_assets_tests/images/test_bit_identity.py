"""What is computed of a gray image of 52x32 pixels stays the same, bit by bit: identities, hashes, groups.

The values were taken before the library learned of other sizes. Where one of them changes, every home's
near-duplicate groups and identities change with it.
"""

import numpy as np
import pytest
import xxhash

from captcha_assets.images import near_duplicates
from captcha_assets.images.features import Statistics, descriptors, dhash, image_id, rounded, signatures
from captcha_assets_tests.images.copies import COPIES
from captcha_assets_tests.images.files import characters


def _hash(values: np.ndarray) -> str:
    return xxhash.xxh3_64_hexdigest(np.ascontiguousarray(values).tobytes())


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    noise = np.random.RandomState(7).randint(0, 256, (60, 52, 32)).astype(np.uint8)
    return np.concatenate([np.stack([image for _, image in characters(60, seed=3)]), noise])


def test_identities_stay(images):
    ids = np.array([image_id(image) for image in images], "S32")
    assert ids[0] == b"582648e43e93e8158b1165ef2484156a"
    assert _hash(ids) == "e689da8f7c78a06f"


def test_statistics_stay(images):
    found = Statistics(images)
    assert _hash(found.brightness) == "dc137282adcb3099"
    assert _hash(found.contrast) == "f5784ac1305a78d6"
    assert _hash(found.foreground_fraction) == "041f9b2a316ce650"


def test_difference_hashes_stay(images):
    assert _hash(dhash(images)) == "ef6d5744eab588ae"


def test_signatures_stay(images):
    found = signatures(descriptors(images))
    assert (found.dtype, found.shape) == (np.uint32, (120, 12, 5))
    assert _hash(found) == "9f5e5579d8561e7f"


def test_descriptors_stay(images):
    found = rounded(descriptors(images))
    assert (found.dtype, found.shape) == (np.int8, (120, 5, 34))
    assert _hash(found) == "340164045cbfe752"


def test_near_duplicate_groups_stay(images):
    copied = np.concatenate([images, *(make(images) for make in COPIES.values())])
    described = descriptors(copied)
    groups = near_duplicates.near_duplicate_groups(
        signatures(described), rounded(described), lambda rows: copied[rows], 0.996
    )
    assert len(np.unique(groups)) == 180
    assert _hash(groups) == "6acde1be379da2bc"


def test_the_rule_of_the_groups_stays():
    assert near_duplicates.rule(0.996) == "3/0.996"
