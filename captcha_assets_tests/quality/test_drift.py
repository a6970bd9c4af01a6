import zipfile
from collections.abc import Callable
from functools import cache

import cv2
import numpy as np
import polars as pl
import pytest

from captcha_assets.dataset import CAPTCHA
from captcha_assets.images.features import Statistics
from captcha_assets.images.table import IMAGE_TABLE_SCHEMA
from captcha_assets.images.table_files import polars_schema
from captcha_assets.quality import drift, drift_plot, report, validation
from captcha_assets.quality.drift import DriftError, Summary
from captcha_assets.quality.validation_result import ValidationResult
from captcha_assets.sources.kaptcha_renderer import FACES, Face, Faces
from captcha_assets.sources.synthetic_batches import generate
from captcha_assets_tests.quality import tables

#: Of the training images, and of a batch.
REFERENCE, BATCH = 4000, 1000

Change = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def generated(count: int, seed: int, faces: Faces = FACES) -> tuple[np.ndarray, np.ndarray]:
    """Images, uint8 (count, 52, 32), and labels of the generator."""
    labels, images = zip(*generate(count, seed, faces), strict=True)
    return np.stack(images), np.array(labels)


@cache
def usual() -> tuple[np.ndarray, np.ndarray]:
    return generated(REFERENCE + BATCH, seed=1)


def image_table(images: np.ndarray, labels: np.ndarray) -> pl.DataFrame:
    """An image table of these images, as far as drift looks at it."""
    table = tables.image_table(-(-len(images) // 21)).head(len(images))
    statistics = Statistics(images)
    return table.with_columns(
        pl.Series("label", labels),
        pl.Series("pixels", [image.tobytes() for image in images]),
        *(
            pl.Series(name, getattr(statistics, name))
            for name in ("brightness", "contrast", "foreground_fraction")
        ),
    ).cast(polars_schema(IMAGE_TABLE_SCHEMA))


@cache
def summary(first: int, last: int) -> Summary:
    images, labels = usual()
    return summarize(images[first:last], labels[first:last])


def summarize(images: np.ndarray, labels: np.ndarray) -> Summary:
    sums = drift._Sums(CAPTCHA)
    statistics = Statistics(images)
    sums.add(
        images,
        np.array([CAPTCHA.classes.index(label) for label in labels]),
        np.column_stack([statistics.brightness, statistics.contrast, statistics.foreground_fraction]),
    )
    return sums.summary()


def drifted(images: np.ndarray, labels: np.ndarray) -> set[str]:
    compared = drift.compare(summary(0, REFERENCE), summarize(images, labels))
    return {feature.name for feature in compared.drifted}


def batch() -> tuple[np.ndarray, np.ndarray]:
    images, labels = usual()
    return images[REFERENCE:], labels[REFERENCE:]


def brighter(images: np.ndarray, by: int) -> np.ndarray:
    return np.clip(images.astype(int) + by, 0, 255).astype(np.uint8)


def blurred(images: np.ndarray, sigma: float) -> np.ndarray:
    return np.stack([cv2.GaussianBlur(image, (0, 0), sigma) for image in images])


def in_font(font: str) -> tuple[np.ndarray, np.ndarray]:
    """A batch of the generator with one other font for all characters."""
    return generated(BATCH, 2, ((Face(font),), (Face(font),)))


# --- alarms and their absence


def test_an_undisturbed_batch_raises_no_alarm():
    assert drifted(*batch()) == set()


def test_the_training_images_themselves_raise_no_alarm():
    reference = summary(0, REFERENCE)
    features = drift.compare(reference, reference).features
    assert [feature.statistic for feature in features] == pytest.approx([0] * 6, abs=1e-3)
    assert all(feature.passed for feature in features)


@pytest.mark.parametrize("by", [-30, 25])
def test_another_brightness_raises_an_alarm(by):
    images, labels = batch()
    assert "brightness" in drifted(brighter(images, by), labels)


def test_less_contrast_raises_an_alarm():
    images, labels = batch()
    assert "contrast" in drifted((images * 0.8 + 30).astype(np.uint8), labels)


@pytest.mark.parametrize("sigma", [0.6, 1.0, 2.0])
def test_a_blur_raises_an_alarm(sigma):
    images, labels = batch()
    assert "sharpness" in drifted(blurred(images, sigma), labels)


@pytest.mark.parametrize("font", ["DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSans-BoldOblique"])
def test_another_font_raises_an_alarm(font):
    assert drifted(*in_font(font)) & {"shapes", "sharpness"}


def test_another_font_is_told_from_another_mix_of_classes():
    images, labels = in_font("DejaVuSerif")
    assert "class_frequencies" not in drifted(images, labels)


@pytest.mark.parametrize("label", ["a", "n"])
def test_a_missing_class_raises_an_alarm_and_nothing_else_does(label):
    images, labels = batch()
    assert drifted(images[labels != label], labels[labels != label]) == {"class_frequencies"}


def test_a_class_three_times_as_frequent_raises_an_alarm():
    images, labels = batch()
    more = np.concatenate([np.arange(len(labels)), *[np.flatnonzero(labels == "g")] * 2])
    assert drifted(images[more], labels[more]) == {"class_frequencies"}


def test_characters_upside_down_raise_an_alarm_of_shapes_alone_among_the_rest():
    images, labels = batch()
    assert drifted(images[:, ::-1], labels) == {"shapes"}


def test_labels_that_changed_places_raise_an_alarm_of_shapes_alone():
    images, labels = batch()
    swapped = np.where(labels == "m", "w", np.where(labels == "w", "m", labels))
    two = {"m", "w"}
    compared = drift.compare(summary(0, REFERENCE), summarize(images, swapped))
    shapes = compared.features[-1]
    named = {label for label in CAPTCHA.classes if f"{label} (" in shapes.words}
    assert two <= named


def test_a_large_batch_is_forgiven_a_difference_that_nobody_sees():
    images, labels = usual()
    whole = drift.compare(summary(0, REFERENCE), summarize(brighter(images, 2), labels))
    assert whole.passed


@pytest.mark.parametrize("count", [1, 5, 20])
def test_a_handful_of_images_says_little_and_raises_no_alarm(count):
    images, labels = batch()
    for start in range(0, 200, 20):
        assert drifted(images[start : start + count], labels[start : start + count]) == set()


def test_a_batch_without_images_cannot_be_compared():
    images, labels = batch()
    with pytest.raises(DriftError, match="no usable images to compare"):
        drift.compare(summary(0, REFERENCE), summarize(images[:0], labels[:0]))


def test_a_reference_of_few_images_is_rejected():
    with pytest.raises(DriftError, match=r"150 training images are too few .* 200 are needed"):
        drift.compare(summary(0, 150), summary(0, REFERENCE))


def test_halves_of_the_real_images_raise_no_alarm_and_generated_ones_do(shared_data):
    with zipfile.ZipFile(shared_data / "kaptcha_characters.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".png"))
        files = [np.frombuffer(archive.read(name), np.uint8) for name in names]
    images = np.stack([cv2.imdecode(file, cv2.IMREAD_GRAYSCALE) for file in files])
    labels = np.array([CAPTCHA.label_of(name) for name in names])
    order = np.random.default_rng(0).permutation(len(images))
    halves = [summarize(images[part], labels[part]) for part in np.array_split(order, 2)]
    assert drift.compare(*halves).passed
    assert not drift.compare(summarize(images, labels), summary(0, REFERENCE)).passed


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.no_cover
@pytest.mark.parametrize(("count", "references"), [(250, 4000), (1000, 20_000)])
def test_of_a_hundred_undisturbed_batches_at_most_one_raises_an_alarm(count, references):
    reference = summarize(*generated(references, seed=100))
    compared = [drift.compare(reference, summarize(*generated(count, seed))) for seed in range(101, 201)]
    alarms = [[feature.name for feature in one.drifted] for one in compared if not one.passed]
    closest = max(feature.statistic / feature.threshold for one in compared for feature in one.features)
    print(f"{len(alarms)} of 100 batches of {count} raise an alarm {alarms}; closest {closest:.2f}")
    assert len(alarms) <= 1


# --- summaries


def test_a_summary_of_tables_is_that_of_their_images(tmp_path):
    images, labels = batch()
    paths = [
        tables.write(image_table(images[part], labels[part]), tmp_path / f"{name}.parquet")
        for name, part in (("one", slice(0, 300)), ("two", slice(300, None)))
    ]
    found, expected = drift.summarize(paths, CAPTCHA), summarize(images, labels)
    assert found.images == BATCH
    assert found.classes == CAPTCHA.classes
    for name in ("quantiles", "counts", "means", "covariance"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-6)


def test_only_the_training_images_make_the_reference(tmp_path):
    images, labels = batch()
    table = image_table(images, labels)
    places = np.where(np.arange(BATCH) < 700, "train", "test")
    splits = table.select("image_id", split=pl.Series(places))
    found = drift.summarize(
        [tables.write(table, tmp_path / "first.parquet")],
        CAPTCHA,
        tables.write(splits, tmp_path / "splits.parquet"),
    )
    np.testing.assert_array_equal(found.counts, summarize(images[:700], labels[:700]).counts)
    np.testing.assert_allclose(found.means, summarize(images[:700], labels[:700]).means, rtol=1e-6)


def test_a_summary_is_saved_and_loaded_again_and_always_in_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        drift.save(summary(0, REFERENCE), tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert (tmp_path / "one").stat().st_size < 500_000
    loaded = drift.load(tmp_path / "one", CAPTCHA)
    assert drift.compare(loaded, loaded) == drift.compare(summary(0, REFERENCE), summary(0, REFERENCE))


def test_a_summary_is_kept_in_an_object_store_too(bucket):
    drift.save(summary(0, REFERENCE), bucket / "reference.npz")
    assert drift.load(bucket / "reference.npz", CAPTCHA).images == REFERENCE


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04", b"\x93NUMPY"])
def test_a_summary_that_cannot_be_read_is_one_clear_error(tmp_path, content):
    if content is not None:
        (tmp_path / "reference.npz").write_bytes(content)
    with pytest.raises(DriftError, match=r"reference\.npz cannot be read .*update summarizes"):
        drift.load(tmp_path / "reference.npz", CAPTCHA)


def test_a_summary_of_other_classes_is_rejected(tmp_path):
    np.savez(tmp_path / "reference.npz", classes=np.array(["cat", "dog"]))
    with pytest.raises(DriftError, match="other classes"):
        drift.load(tmp_path / "reference.npz", CAPTCHA)


# --- what is shown


def validated(compared: drift.DriftResult) -> ValidationResult:
    return validation.validate(
        "drift", "drift/first", {"drift": compared.table()}, CAPTCHA, rows=compared.images
    )


def test_what_drifted_reaches_the_validation_result_and_only_warns():
    images, labels = batch()
    compared = drift.compare(summary(0, REFERENCE), summarize(brighter(images, 40), labels))
    (warning,) = validated(compared).warnings
    assert warning.name == "drift"
    names = [feature.name.replace("_", " ") for feature in compared.drifted]
    assert [row["feature"] for row in warning.examples] == names
    assert "before" in warning.examples[0]["found"]


def test_without_drift_the_validation_result_passes():
    compared = drift.compare(summary(0, REFERENCE), summarize(*batch()))
    assert validated(compared).level == "passed"


def test_the_plot_is_the_same_png_every_time_and_fits_into_the_report():
    reference, now = summary(0, REFERENCE), summary(REFERENCE, REFERENCE + BATCH)
    compared = drift.compare(reference, now)
    png = drift_plot.plot(reference, now, compared)
    assert png == drift_plot.plot(reference, now, compared)
    assert cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR).shape[1] == 860
    assert "data:image/png;base64," in report.page(validated(compared), {"Before and now": png})


def test_the_plot_of_a_partial_batch_is_drawn_too():
    images, labels = batch()
    now = summarize(images[labels == "2"], labels[labels == "2"])
    reference = summary(0, REFERENCE)
    assert drift_plot.plot(reference, now, drift.compare(reference, now)).startswith(b"\x89PNG")
