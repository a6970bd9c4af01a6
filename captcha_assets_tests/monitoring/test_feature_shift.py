import numpy as np
import pytest
from scipy import stats
from scipy.special import ndtr

from captcha_assets.monitoring import feature_shift

DIMENSIONS = 16


def normal(rng: np.random.Generator, count: int, shift: float = 0.0) -> np.ndarray:
    """Correlated normal features whose mean is moved by so many standard deviations in one direction."""
    mixing = np.random.default_rng(0).standard_normal((DIMENSIONS, DIMENSIONS))
    rows = rng.standard_normal((count, DIMENSIONS))
    rows[:, 0] += shift
    return rows @ mixing


def test_a_shift_is_found_and_its_size_is_right() -> None:
    rng = np.random.default_rng(1)
    for shift in (1.0, 2.0):
        found = feature_shift.discriminate(normal(rng, 1500), normal(rng, 1500, shift), 499, rng)
        assert found.p_value == 1 / 500
        assert found.auc == pytest.approx(ndtr(shift / np.sqrt(2)), abs=0.02)


def test_the_units_of_the_features_do_not_matter() -> None:
    before, now = normal(np.random.default_rng(1), 400), normal(np.random.default_rng(2), 300, 0.5)
    one, other = (
        feature_shift.discriminate(scale * before + 5, scale * now + 5, 199, np.random.default_rng(3))
        for scale in (1, 1000)
    )
    assert one.auc == pytest.approx(other.auc, abs=1e-4)
    assert one.p_value == other.p_value


def test_a_feature_that_never_changes_is_no_obstacle() -> None:
    rng = np.random.default_rng(1)
    before, now = (np.column_stack([normal(rng, 300, shift), np.zeros(300)]) for shift in (0, 1))
    assert feature_shift.discriminate(before, now, 199, rng).p_value == 1 / 200


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.no_cover
@pytest.mark.parametrize("sizes", [(600, 50), (1500, 1500)])
def test_samples_of_one_distribution_are_told_apart_as_often_as_chance_allows(sizes: tuple[int, int]) -> None:
    rng, runs = np.random.default_rng(5), 1000
    found = []
    for _ in range(runs):
        before, now = (normal(rng, size) for size in sizes)
        found.append(feature_shift.discriminate(before, now, 99, rng).p_value)
    p_values = np.array(found)
    for level in (0.05, 0.2):
        allowed = stats.binom(runs, level)
        assert allowed.ppf(0.0001) <= np.count_nonzero(p_values <= level) <= allowed.ppf(0.9999)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.no_cover
def test_images_of_one_picture_raise_no_false_alarm() -> None:
    rng, runs = np.random.default_rng(6), 500
    found = []
    for _ in range(runs):
        shared = np.repeat(normal(rng, 60), 5, axis=0)
        now = np.sqrt(0.15) * shared + np.sqrt(0.85) * normal(rng, 300)  # a design effect of 1.6
        found.append(feature_shift.discriminate(normal(rng, 600), now, 99, rng, design_effect=2).p_value)
    assert np.count_nonzero(np.array(found) <= 0.05) <= stats.binom(runs, 0.05).ppf(0.9999)


def test_an_image_that_resembles_no_class_is_the_furthest() -> None:
    rng = np.random.default_rng(7)
    labels = rng.integers(3, size=600)
    centres = 6 * rng.standard_normal((3, DIMENSIONS))
    usual = feature_shift.ClassFeatures.of(centres[labels] + normal(rng, 600), labels, 4)
    images = np.concatenate([centres[labels[:50]] + normal(rng, 50), -3 * centres[:1]])
    distances = usual.distances(images, np.append(labels[:50], 0))
    assert int(distances.argmax()) == 50
    assert np.median(distances[:50]) == pytest.approx(1, abs=0.15)
