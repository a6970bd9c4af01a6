"""What is compared: a window of served predictions, and what the model was trained and validated on."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any
from zipfile import BadZipFile

import numpy as np
import polars as pl
from numpy.typing import NDArray

from captcha_assets.atomic_files import AnyPath, fetched, replacing
from captcha_assets.dataset import DatasetSpec
from captcha_assets.images.decode import decode
from captcha_assets.images.features import thumbnails
from captcha_assets.images.reader import SplitImages
from captcha_assets.images.rejection import Rejection
from captcha_assets.models.feature_extractor import FeatureExtractor
from captcha_assets.models.predictor import spec_of_inputs
from captcha_assets.monitoring.result import Errors
from captcha_assets.quality.drift import MIN_REFERENCE, STATISTICS, DriftError, Summary, sharpness

Array = NDArray[Any]

#: Columns of the prediction log's tables that are read; `image` may be null, as the statistics may.
COLUMNS = ("inference_id", "label", "probabilities", *STATISTICS[:3], "image")
#: More predictions than this are represented by a random sample of so many: it shows every difference
#: that is large enough to matter.
MAX_PREDICTIONS = 5000
#: So many images of a window, and of the validation split, are compared by their features.
MAX_FEATURES = 2000


@dataclass(frozen=True)
class Sample:
    """Predictions of a window, one row each.

    Attributes:
        inference_ids: their names.
        predicted: positions of their classes (n,).
        statistics: float64 (n, 4), as `STATISTICS`; NaN where the image was not stored.
        probabilities: float32 (n, classes).
        with_features: positions of the predictions that `features` belong to (k,).
        features: float32 (k, d).
    """

    inference_ids: NDArray[np.str_]
    predicted: NDArray[np.int64]
    statistics: NDArray[np.float64]
    probabilities: NDArray[np.float32]
    with_features: NDArray[np.int64]
    features: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.predicted)


@dataclass(frozen=True)
class Reference:
    """What a model was trained and validated on, and what it says of the validation split.

    Attributes:
        model_id: the model.
        classes: in the order of its outputs.
        quantiles: float64 (4, q), evenly spaced quantiles of the `STATISTICS` of the training images.
        training_images: number of training images.
        labels: positions of the classes of the validation images (m,).
        probabilities: float32 (m, classes).
        features: float32 (m, d).
    """

    model_id: str
    classes: tuple[str, ...]
    quantiles: NDArray[np.float64]
    training_images: int
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    features: NDArray[np.float32]

    @property
    def predicted(self) -> NDArray[np.int64]:
        """Positions of the predicted classes (m,)."""
        return np.asarray(self.probabilities.argmax(axis=1))

    @property
    def wrong(self) -> int:
        """Number of validation images that are predicted wrongly."""
        return int(np.count_nonzero(self.predicted != self.labels))


def reference_of(
    model_id: str, extractor: FeatureExtractor, validation: SplitImages, training: Summary
) -> Reference:
    """Return the reference of a model.

    Args:
        model_id: the model.
        extractor: its export.
        validation: images of the validation split; of more than `MAX_PREDICTIONS` a random sample is taken.
        training: the summary of its training images.

    Raises:
        DriftError: there are too few images, or their classes are not the model's.
    """
    for name, count in (("training", training.images), ("validation", len(validation))):
        if count < MIN_REFERENCE:
            raise DriftError(f"{count} {name} images are too few to compare with: {MIN_REFERENCE} are needed")
    if not extractor.config.classes == validation.classes == training.classes:
        raise DriftError(f"the classes of {model_id} are not those of the images to compare with")
    taken = _drawn(len(validation), MAX_PREDICTIONS)
    probabilities, features = extractor.extract(validation.pixels[taken])
    return Reference(
        model_id,
        validation.classes,
        training.quantiles,
        training.images,
        validation.labels[taken],
        probabilities,
        features[:MAX_FEATURES],
    )


def save(reference: Reference, path: AnyPath) -> None:
    """Write a reference as a `.npz` file."""
    arrays = {name: np.asarray(value) for name, value in asdict(reference).items()}
    with replacing(path) as part, part.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def load(path: AnyPath) -> Reference:
    """Read what `save` wrote.

    Raises:
        DriftError: it is absent, or cannot be read.
    """
    try:
        with fetched(path) as local, np.load(local, allow_pickle=False) as arrays:
            kept = {name: arrays[name] for name in arrays.files}
        scalars = str(kept.pop("model_id")), tuple(map(str, kept.pop("classes")))
        return Reference(*scalars, training_images=int(kept.pop("training_images")), **kept)
    except (OSError, EOFError, ValueError, KeyError, TypeError, BadZipFile) as error:
        raise DriftError(f"{path} cannot be read ({error}): remove it, and it is computed again") from error


@dataclass(frozen=True)
class RawWindow:
    """Predictions of a window as the log's tables hold them: at most `MAX_PREDICTIONS`, of so many."""

    rows: pl.DataFrame
    predictions: int


def read_window(tables: Sequence[AnyPath], model_id: str) -> RawWindow:
    """Read the predictions of a model from tables of the prediction log.

    Of more than `MAX_PREDICTIONS` a random sample is read: the images of all might not fit into memory.

    Raises:
        DriftError: a table cannot be read.
    """
    rows = _predictions(tables, model_id)
    if rows is None:
        return RawWindow(pl.DataFrame(schema=dict.fromkeys(COLUMNS, pl.Null)), 0)
    try:
        count = int(rows.select(pl.len()).collect().item())
        drawn = pl.Series(np.sort(_drawn(count, MAX_PREDICTIONS)), dtype=pl.get_index_type())
        chosen = rows.select(COLUMNS).with_row_index("row").filter(pl.col("row").is_in(drawn.implode()))
        return RawWindow(chosen.drop("row").collect(engine="streaming"), count)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise unreadable(tables, error) from error


def errors_of(tables: Iterable[AnyPath], model_id: str) -> Errors:
    """Count the predictions of a model and their corrections in tables of the prediction log.

    Raises:
        DriftError: a table cannot be read.
    """
    rows = _predictions(list(tables), model_id)
    if rows is None:
        return Errors(0, 0, 0)
    corrected = pl.col("corrected_label")
    try:
        counts = rows.select(pl.len(), corrected.count(), wrong=(corrected != pl.col("label")).sum())
        return Errors(*map(int, counts.collect().row(0)))
    except (OSError, pl.exceptions.PolarsError) as error:
        raise unreadable(list(tables), error) from error


def _predictions(tables: Sequence[AnyPath], model_id: str) -> pl.LazyFrame | None:
    if not tables:
        return None
    rows = pl.concat([pl.scan_parquet(str(path), glob=False) for path in tables])
    return rows.filter(pl.col("model_version") == model_id)


def unreadable(tables: Sequence[AnyPath], error: Exception) -> DriftError:
    """Return the error of tables of the prediction log that cannot be read."""
    tables_read = ", ".join(map(str, tables))
    return DriftError(
        f"{tables_read} cannot be read ({str(error).splitlines()[0]}): materialize prediction_log again"
    )


def sample_of(predictions: pl.DataFrame, extractor: FeatureExtractor, spec: DatasetSpec) -> Sample:
    """Return the predictions of a window with the features of their images.

    Args:
        predictions: rows with `COLUMNS`, all by the extractor's model; of more than `MAX_PREDICTIONS` a
            random sample is taken.
        extractor: the export of the model.
        spec: how images are decoded.

    Raises:
        DriftError: the rows are another model's.
    """
    classes = extractor.config.classes
    rows = predictions[_drawn(predictions.height, MAX_PREDICTIONS)]
    probabilities = _probabilities(rows["probabilities"], len(classes))
    decoded, pixels = _decoded(rows["image"].to_list(), spec_of_inputs(extractor.config, spec))
    _, features = extractor.extract(pixels[:MAX_FEATURES])
    return Sample(
        rows["inference_id"].to_numpy().astype(np.str_),
        _positions(rows["label"], classes),
        _statistics(rows, decoded, pixels),
        probabilities,
        decoded[:MAX_FEATURES],
        features,
    )


def _drawn(available: int, most: int) -> NDArray[np.int64]:
    """Return the positions of a random sample in random order, the same for the same number."""
    return np.random.default_rng(0).permutation(available)[:most]


def _probabilities(column: pl.Series, classes: int) -> NDArray[np.float32]:
    lengths = column.list.len().unique().to_list() if len(column) else [classes]
    if lengths != [classes]:
        raise DriftError(
            f"the predictions have {lengths} probabilities each: the model has {classes} classes"
        )
    return column.explode(empty_as_null=False).to_numpy().reshape(-1, classes).astype(np.float32)


def _positions(labels: pl.Series, classes: Sequence[str]) -> NDArray[np.int64]:
    unknown = sorted(set(labels.to_list()) - set(classes))
    if unknown:
        raise DriftError(f"the predictions name classes that the model does not have: {', '.join(unknown)}")
    index_of = {name: position for position, name in enumerate(classes)}
    return np.array([index_of[name] for name in labels], np.int64)


def _decoded(images: Sequence[bytes | None], spec: DatasetSpec) -> tuple[NDArray[np.int64], Array]:
    """Return the positions of the images that were stored, and their pixels."""
    positions, pixels = [], []
    for position, data in enumerate(images):
        if data is None:
            continue
        try:
            pixels.append(decode(data, spec).pixels)
        except Rejection:
            continue
        positions.append(position)
    none = np.zeros((0, *spec.shape), np.uint8)
    return np.array(positions, np.int64), np.stack(pixels) if pixels else none


def _statistics(rows: pl.DataFrame, decoded: NDArray[np.int64], pixels: Array) -> NDArray[np.float64]:
    logged = rows.select(STATISTICS[:3]).cast(pl.Float64).fill_null(np.nan).to_numpy()
    edges = np.full(len(logged), np.nan)
    edges[decoded] = sharpness(thumbnails(pixels), logged[decoded, 1])
    return np.column_stack([logged, edges])
