"""The drift report of a day, from the tables of the prediction log to a folder.

drift.json       the result: every test with its figures, and sentences
drift_report_html.html      the page
<window>.png     the plots, one for each window that has enough predictions
manifest.json    the SHA-256 of every file; written last
"""

import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

import polars as pl
import xxhash

from captcha_assets.atomic_files import AnyPath, fetched, json_text
from captcha_assets.dataset import DatasetSpec
from captcha_assets.images.local_tables import batches_of
from captcha_assets.images.reader import ReaderError, read_split
from captcha_assets.models.feature_extractor import FeatureExtractor
from captcha_assets.models.manifest import writing_folder
from captcha_assets.models.served_drift import RESULT
from captcha_assets.monitoring import drift_report_html, plots, sample
from captcha_assets.monitoring.drift_detection import not_compared, served_drift
from captcha_assets.monitoring.result import ServedDrift
from captcha_assets.monitoring.sample import Reference
from captcha_assets.paths import Paths
from captcha_assets.quality import drift
from captcha_assets.quality.drift import DriftError
from captcha_assets.quality.validation_result import has_passed

REPORT = "report.html"


@dataclass(frozen=True)
class ModelFiles:
    """A model, and where its files lie.

    Attributes:
        model_id: the model.
        exported: folder of its export.
        splits: the splits as its training found them.
        summary: the summary of its training images.
        reference: what its predictions are compared with; written where there is none.
    """

    model_id: str
    exported: AnyPath
    splits: AnyPath
    summary: AnyPath
    reference: AnyPath


@dataclass(frozen=True)
class DailyDrift:
    """A day's result, its plots by window, and its unusual images as PNGs by inference id."""

    result: ServedDrift
    plots: Mapping[str, bytes]
    images: Mapping[str, bytes]


def model_of(table: AnyPath) -> str | None:
    """Return the model that gave the last answer of a day; None where there was no answer.

    Raises:
        DriftError: the table cannot be read.
    """
    try:
        rows = pl.scan_parquet(str(table), glob=False).select("time", "model_version")
        last = rows.sort("time").last().collect()
    except (OSError, pl.exceptions.PolarsError) as error:
        raise sample.unreadable([table], error) from error
    return None if last.is_empty() else str(last["model_version"].item())


def report_of_day(paths: Paths, day: str, days: Iterable[str], spec: DatasetSpec) -> DailyDrift:
    """Write the drift report of a day: of the model that gave the day's last answer.

    Days whose predictions failed a blocking check are left out.

    Args:
        paths: where things are kept.
        day: YYYY-MM-DD.
        days: the days that have predictions.
        spec: how images are decoded.

    Raises:
        DriftError: the day has no predictions, or a table cannot be read.
        ModelFolderError: the export of the model is damaged.
    """
    valid = [one for one in days if has_passed(paths.validation_results("prediction_log", one))]
    tables = {one: paths.prediction_log(one) for one in sorted(valid)}
    model_id = model_of(paths.prediction_log(day))
    if model_id is None:
        raise DriftError(f"{paths.prediction_log(day)} holds no predictions: nothing to compare")
    model = ModelFiles(
        model_id,
        paths.onnx_model(model_id),
        paths.training_splits(model_id),
        paths.training_summary(model_id),
        paths.drift_reference(model_id),
    )
    target = paths.drift_report(day)
    return write_report(day, tables, model, target, image_table=paths.image_table, spec=spec)


def write_report(
    day: str,
    tables: Mapping[str, AnyPath],
    model: ModelFiles,
    target: AnyPath,
    *,
    image_table: Callable[[str], AnyPath],
    spec: DatasetSpec,
) -> DailyDrift:
    """Compare the predictions of a day with the reference of a model, and write the report.

    Args:
        day: YYYY-MM-DD.
        tables: the prediction log's tables by day, that of `day` among them.
        model: the model whose predictions are compared.
        target: folder to write, complete or not at all; an existing one is replaced.
        image_table: path of the image table of a batch.
        spec: how images are decoded.

    Returns:
        The result; where there is nothing to compare with, it has no tests, and a note says why.

    Raises:
        DriftError: a table cannot be read.
        ModelFolderError: the export is damaged.
    """
    found = _compared(day, tables, model, image_table, spec)
    content = json_text(found.result.to_dict())
    with writing_folder(target, version=xxhash.xxh3_128_hexdigest(content.encode())) as part:
        (part / RESULT).write_text(content)
        (part / REPORT).write_text(drift_report_html.render(found.result, found.plots, found.images))
        for name, png in found.plots.items():
            (part / f"{re.sub('[^a-z0-9]+', '_', name)}.png").write_bytes(png)
    return found


def _compared(
    day: str,
    tables: Mapping[str, AnyPath],
    model: ModelFiles,
    image_table: Callable[[str], AnyPath],
    spec: DatasetSpec,
) -> DailyDrift:
    try:
        extractor = _extractor(model)
        reference = reference_of_model(model, extractor, image_table, spec)
    except DriftError as error:
        predictions = sample.errors_of([tables[day]], model.model_id).predictions
        return DailyDrift(not_compared(day, model.model_id, predictions, str(error)), {}, {})
    result = served_drift(day, tables, reference, extractor, spec)
    shown = {window.name: plots.plot(window) for window in result.windows if window.tests}
    return DailyDrift(result, shown, drift_report_html.unusual_pngs(result, tables[day], spec))


def _extractor(model: ModelFiles) -> FeatureExtractor:
    if not model.exported.exists():
        raise DriftError(f"{model.model_id} has no export any more: its features are not known")
    with fetched(model.exported) as exported:
        return FeatureExtractor(exported)


def reference_of_model(
    model: ModelFiles,
    extractor: FeatureExtractor,
    image_table: Callable[[str], AnyPath],
    spec: DatasetSpec,
) -> Reference:
    """Return what the predictions of a model are compared with; it is computed once.

    Raises:
        DriftError: the images that it was validated on, or the summary of those that it was trained on, are
            not there any more, or are too few.
    """
    if model.reference.exists():
        return sample.load(model.reference)
    if not (model.splits.exists() and model.summary.exists()):
        raise DriftError(
            f"it is not recorded what {model.model_id} was trained on: train and promote a model again"
        )
    with ExitStack() as stack:
        splits = stack.enter_context(fetched(model.splits))
        tables = [image_table(batch) for batch in batches_of(splits)]
        local = [stack.enter_context(fetched(table)) for table in tables if table.exists()]
        try:
            images = read_split(local, splits, "validation", classes=spec.classes, shape=spec.shape)
        except ReaderError as error:
            raise DriftError(f"the validation images of {model.model_id} cannot be read: {error}") from error
        reference = sample.reference_of(model.model_id, extractor, images, drift.load(model.summary, spec))
    sample.save(reference, model.reference)
    return reference
