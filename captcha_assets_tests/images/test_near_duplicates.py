"""Near-duplicates: copies are found, different images of one class are kept apart."""

import zipfile
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captcha_assets.dataset import CAPTCHA
from captcha_assets.images.decode import decode
from captcha_assets.images.features import ACROSS, DOWN, descriptors, rounded, signatures
from captcha_assets.images.near_duplicates import (
    components,
    correlations,
    near_duplicate_groups,
    smoothed,
)
from captcha_assets.sources.synthetic_batches import render
from captcha_assets_tests.images.copies import COPIES, shifted


def groups_of(images, **known):
    """The near-duplicate groups of some images of one class, as the index finds them."""
    return search(images, lambda rows: images[rows], **known).tolist()


def search(images, thumbnails_of, **known):
    described = descriptors(images)
    return near_duplicate_groups(signatures(described), rounded(described), thumbnails_of, 0.996, **known)


def by_definition(images):
    """The same by comparing the pixels of all pairs at all shifts."""
    one, other = np.triu_indices(len(images), 1)
    smooth = smoothed(images)
    best = np.zeros(len(one))
    for i, j in product(DOWN, ACROSS):
        crops = np.full(len(one), i), np.full(len(one), j)
        best = np.maximum(best, correlations(smooth[one], crops[0], smooth[other], crops[1]))
        best = np.maximum(best, correlations(smooth[other], crops[0], smooth[one], crops[1]))
    same = best >= CAPTCHA.near_duplicate_correlation
    return components(len(images), np.stack([one[same], other[same]], axis=1)).tolist()


def generated(label, count, seed=0):
    rng = np.random.default_rng(seed)
    return np.stack([render(label, rng) for _ in range(count)])


@pytest.fixture(scope="module")
def real(shared_data):
    with zipfile.ZipFile(shared_data / "kaptcha_characters.zip") as archive:
        names = sorted(archive.namelist())
        images = np.stack([decode(archive.read(name), CAPTCHA).pixels for name in names])
    labels = np.array([name.split("/")[1][0] for name in names])
    return [images[labels == label] for label in np.unique(labels)]


def recall_and_precision(classes, copy):
    """Of planted pairs, how many are found; of found groups, how many are one image and its copy."""
    planted, right, found = 0, 0, 0
    for images in classes:
        groups = groups_of(np.concatenate([images, copy(images)]))
        planted += len(images)
        for group in set(groups):
            members = np.flatnonzero(np.array(groups) == group) % len(images)
            found += len(members) > 1
            right += len(members) == 2 and len(set(members)) == 1
    return right / planted, right / found


@pytest.mark.parametrize("kind", COPIES)
def test_copies_of_real_images_are_found_and_nothing_else(real, kind):
    recall, precision = recall_and_precision(real, COPIES[kind])
    assert recall >= 0.99
    assert precision >= 0.99


@pytest.mark.parametrize("kind", COPIES)
def test_copies_of_generated_images_are_found_and_nothing_else(kind):
    recall, precision = recall_and_precision([generated("m", 40), generated("2", 40)], COPIES[kind])
    assert recall >= 0.99
    assert precision >= 0.99


def test_the_short_way_finds_what_comparing_all_pixels_finds():
    images = generated("w", 30)
    crowd = np.concatenate([images, *(copy(images[:8]) for copy in COPIES.values())])
    assert groups_of(crowd) == by_definition(crowd)


CROWD = np.concatenate([generated("w", 20), shifted(generated("w", 20), 1, 0)])


@settings(max_examples=20)
@given(st.sets(st.integers(0, 39)))
def test_known_groups_spare_comparisons_and_change_nothing(old):
    rows = np.array(sorted(old), np.int64)
    known, fresh = np.arange(40), np.ones(40, bool)
    fresh[rows] = False
    if old:
        known[rows] = rows[groups_of(CROWD[rows])]
    assert groups_of(CROWD, known=known, fresh=fresh) == groups_of(CROWD)


def test_many_copies_of_one_image_are_one_group():
    rng = np.random.default_rng(1)
    image = generated("w", 1).astype(float)
    crowd = np.clip(np.round(image + rng.normal(0, 3, (1500, 52, 32))), 0, 255).astype(np.uint8)
    asked = []

    def pixels_of(rows):
        asked.append(len(rows))
        return crowd[rows]

    assert set(search(crowd, pixels_of).tolist()) == {0}
    assert sum(asked) < 30 * len(crowd)  # not 1,500 times


def test_pixels_of_images_that_share_a_bucket_by_chance_are_not_read():
    images = generated("w", 1500)
    buckets = np.moveaxis(signatures(descriptors(images)), 1, 0)
    shared = sum(
        np.count_nonzero((table[:, down, None] == table[:, across]) & ~np.eye(len(images), dtype=bool))
        for table in buckets
        for down, across in product(DOWN, ACROSS)
    )
    asked = []

    def pixels_of(rows):
        asked.extend(rows)
        return images[rows]

    search(images, pixels_of)
    assert shared > 0
    assert asked == []


def test_images_without_structure_are_nobodys_copy():
    assert groups_of(np.full((3, 52, 32), 80, np.uint8)) == [0, 1, 2]
    assert groups_of(np.zeros((0, 52, 32), np.uint8)) == []


PAIRS = st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=30)


@given(PAIRS)
def test_tied_rows_share_the_smallest_of_them(pairs):
    found = components(20, np.array(pairs, np.int64).reshape(-1, 2))
    expected = list(range(20))
    for _ in range(20):
        for a, b in pairs:
            expected[a] = expected[b] = min(expected[a], expected[b])
    assert found.tolist() == expected
