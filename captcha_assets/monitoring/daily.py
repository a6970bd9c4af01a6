"""The drift report of a day, from the tables of the prediction log to a folder.

drift.json       the result: every test with its figures, and sentences
report.html      the page
<window>.png     the plots, one for each window that has enough predictions
manifest.json    the SHA-256 of every file; written last
"""

import re
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

import polars as pl

from captcha_assets.dataset import DatasetSpec
from captcha_assets.images.local import batches_of
from captcha_assets.images.reader import ReaderError, read_split
from captcha_assets.models.manifest import writing_folder
from captcha_assets.models.penultimate import FeatureExtractor
from captcha_assets.monitoring import plots, report, sample
from captcha_assets.monitoring.result import ServedDrift
from captcha_assets.monitoring.sample import Reference
from captcha_assets.monitoring.served import served_drift
from captcha_assets.quality import drift
from captcha_assets.quality.drift import DriftError
from captcha_assets.storage import AnyPath, fetched, json_text

RESULT, REPORT = "drift.json", "report.html"


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
        target: folder to make, complete or not at all; one of old is replaced.
        image_table: path of the image table of a batch.
        spec: how images are decoded.

    Raises:
        DriftError: there is nothing to compare with, or a table cannot be read.
        ModelFolderError: the export is missing or damaged.
    """
    with fetched(model.exported) as exported:
        extractor = FeatureExtractor(exported)
    reference = reference_of_model(model, extractor, image_table, spec)
    result = served_drift(day, tables, reference, extractor, spec)
    found = DailyDrift(
        result,
        {window.name: plots.plot(window) for window in result.windows if window.tests},
        report.unusual_pngs(result, tables[day], spec),
    )
    with writing_folder(target) as part:
        (part / RESULT).write_text(json_text(result.to_dict()))
        (part / REPORT).write_text(report.render(result, found.plots, found.images))
        for name, png in found.plots.items():
            (part / f"{re.sub('[^a-z0-9]+', '_', name)}.png").write_bytes(png)
    return found


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
            f"it is not recorded what {model.model_id} was trained on: train and promote a model anew"
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
