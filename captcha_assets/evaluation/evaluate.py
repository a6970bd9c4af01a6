"""Measuring a model on a split, and the folder of the results.

    metrics.json          the figures, with the model's id and the split
    predictions.parquet   one row per image: what was said of it, how surely
    *.png                 the plots of `plots`
    report.html           all of it as one page
    manifest.json         the SHA-256 of every file; written last

The same model on the same images gives the same bytes on the same machine.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import xxhash

from captcha_assets.atomic_files import AnyPath, json_text
from captcha_assets.evaluation import plots
from captcha_assets.evaluation.metrics import DIGITS, BatchMetrics, Metrics, compute_metrics
from captcha_assets.evaluation.mistakes import Mistake
from captcha_assets.evaluation.report import render
from captcha_assets.images.local_tables import LocalTables, local_tables
from captcha_assets.images.reader import SplitImages, read_split
from captcha_assets.images.table_parts import version_of
from captcha_assets.models import promotion_records, registry
from captcha_assets.models.folder import ModelConfig, model_id, read_history
from captcha_assets.models.manifest import writing_folder
from captcha_assets.models.predict_files import resolve
from captcha_assets.models.predictor import TorchPredictor
from captcha_assets.paths import Paths


class EvaluationError(ValueError):
    """A split that no model can be measured on; the message says what to do."""


@dataclass(frozen=True)
class Evaluation:
    """The evaluation of a model on a split.

    `predictions` has a row per image, in order of image id: image_id, label, predicted, probability (of
    the predicted class), split, batch. `plot_images` are PNGs by name: confusion_matrix, per_class,
    calibration, mistakes and, where the training left a history, training_curves. `report` is where the
    page lies. `version` is a hash of the figures and the predictions.
    """

    model_id: str
    split: str
    metrics: Metrics
    predictions: pl.DataFrame
    plot_images: Mapping[str, bytes]
    report: AnyPath
    version: str


def evaluate(
    model_folder: Path,
    tables: Sequence[Path],
    splits: Path,
    target: AnyPath,
    split: str = "test",
    *,
    splits_version: str | None = None,
    batch_link: str | None = None,
    data_report: str | None = None,
    compared: int = 1,
) -> Evaluation:
    """Measure a model on a split and write what was found, complete or not at all.

    Args:
        model_folder: local model folder.
        tables: local `image_table` files that hold the split's images.
        splits: local `splits` file.
        target: folder to write; an existing one is replaced.
        split: "test", "validation" or "train".
        splits_version: data version of the splits, shown in the report.
        batch_link: see `report.render`.
        data_report: the same.
        compared: the same.

    Raises:
        EvaluationError: the split has no images.
        ModelFolderError: the model folder is damaged.
        ReaderError: the tables are damaged, or not of one state with the splits.
    """
    name, predictor = model_id(model_folder), TorchPredictor(model_folder)
    images = images_of_split(tables, splits, split, predictor.config)
    probabilities = predictor.predict(images.pixels)
    metrics = compute_metrics(probabilities, images.labels, images.classes)
    predictions = predictions_of(images, probabilities, split)
    mistakes = _mistakes(images, predictions)
    plot_images = _plot_images(metrics, mistakes, read_history(model_folder))
    page = render(
        model_id=name,
        split=split,
        metrics=metrics,
        plot_images=plot_images,
        mistakes=mistakes,
        batches=_batches(predictions),
        facts=_facts(predictor.config, splits_version),
        shape=predictor.config.image_shape,
        batch_link=batch_link,
        data_report=data_report,
        compared=compared,
    )
    figures = {"model_id": name, "split": split, **metrics.to_dict()}
    version = xxhash.xxh3_128_hexdigest((json_text(figures) + predictions.write_csv()).encode())
    with writing_folder(target, model_id=name, version=version) as part:
        _write(part, {**figures, "splits_version": splits_version}, predictions, plot_images, page)
    return Evaluation(name, split, metrics, predictions, plot_images, target / "report.html", version)


def evaluate_stored(paths: Paths, data: LocalTables, model_id: str) -> Evaluation:
    """Measure a model of the registry on today's test split, and keep the report in its place.

    Raises:
        RegistryError: there is no such model.
        EvaluationError, ModelFolderError, ReaderError: as `evaluate`.
    """
    candidate = registry.candidate(paths.models)
    compared = promotion_records.compared(paths.models) | {model_id}
    if candidate is not None:
        compared.add(candidate.model_id)  # it is compared with the champion on these images now
    with registry.verified(paths.models, model_id) as folder:
        return evaluate(
            folder,
            data.tables,
            data.splits,
            paths.evaluation(model_id),
            splits_version=version_of(data.splits),
            batch_link="../../quality/image_table/{batch}/report.html",
            data_report="../../data_report/report.html",
            compared=len(compared),
        )


def evaluate_named(paths: Paths, name: str) -> Evaluation:
    """Measure a model ("champion", "candidate" or an id) on today's test split, and keep the report.

    Raises:
        ModelChoiceError: there is no such model.
        EvaluationError, MissingTableError, ModelFolderError, ReaderError: as `evaluate_stored`.
    """
    model_id = resolve(paths, name)
    with local_tables(paths) as data:
        return evaluate_stored(paths, data, model_id)


def images_of_split(tables: Sequence[Path], splits: Path, split: str, config: ModelConfig) -> SplitImages:
    """Return the images of a split, for a model.

    Raises:
        EvaluationError: the split has no images.
        ReaderError: the tables are damaged, or not of one state with the splits.
    """
    images = read_split(tables, splits, split, classes=config.classes, shape=config.image_shape)
    if len(images) == 0:
        raise EvaluationError(
            f"the {split} split of {splits} has no images, so no model can be measured on it: add a batch "
            "large enough to be split, and materialize the splits"
        )
    return images


def predictions_of(images: SplitImages, probabilities: npt.NDArray[np.float32], split: str) -> pl.DataFrame:
    """Return a row per image: see `Evaluation.predictions`."""
    classes = np.array(images.classes)
    return pl.DataFrame(
        {
            "image_id": images.image_ids,
            "label": classes[images.labels],
            "predicted": classes[probabilities.argmax(axis=1)],
            "probability": probabilities.max(axis=1).astype(np.float64).round(DIGITS),
            "split": np.full(len(images), split),
            "batch": images.batches.astype(str),
        }
    )


def _mistakes(images: SplitImages, predictions: pl.DataFrame) -> list[Mistake]:
    wrong = (
        predictions.with_row_index("row")
        .filter(pl.col("predicted") != pl.col("label"))
        .sort("probability", "image_id", descending=[True, False])
    )
    return [
        Mistake(
            image_id=row["image_id"],
            label=row["label"],
            predicted=row["predicted"],
            probability=row["probability"],
            batch=row["batch"],
            pixels=images.pixels[row["row"]],
        )
        for row in wrong.iter_rows(named=True)
    ]


def _batches(predictions: pl.DataFrame) -> list[BatchMetrics]:
    correct = pl.col("predicted") == pl.col("label")
    counted = predictions.group_by("batch").agg(pl.len().alias("n"), correct.sum().alias("correct"))
    return [BatchMetrics(**row) for row in counted.sort("batch").iter_rows(named=True)]


def _plot_images(
    metrics: Metrics, mistakes: Sequence[Mistake], history: Sequence[Mapping[str, Any]]
) -> dict[str, bytes]:
    plot_images = {
        "confusion_matrix": plots.confusion_matrix(metrics),
        "per_class": plots.per_class(metrics),
        "calibration": plots.reliability(metrics),
        "mistakes": plots.gallery(mistakes, metrics.n),
    }
    return {**plot_images, "training_curves": plots.training_curves(history)} if history else plot_images


def _facts(config: ModelConfig, splits_version: str | None) -> dict[str, dict[str, Any]]:
    """Return what the report says of a model, by heading."""
    network = asdict(config)
    settings, packages, provenance = (network.pop(name) for name in ("settings", "packages", "provenance"))
    data = {"splits it was trained on": network.pop("splits_version")}
    if splits_version is not None:
        data["splits it was measured on"] = splits_version
    groups = {
        "Data versions": data,
        "Network": network,
        "Training settings": settings,
        "Provenance": provenance,
        "Packages": packages,
    }
    return {
        heading: {name: _in_words(value) for name, value in group.items()}
        for heading, group in groups.items()
    }


def _in_words(value: Any) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{name}: {_in_words(one)}" for name, one in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(_in_words, value))
    return "none" if value is None or value == "" else str(value)


def _write(
    folder: Path,
    figures: Mapping[str, Any],
    predictions: pl.DataFrame,
    plot_images: Mapping[str, bytes],
    page: str,
) -> None:
    (folder / "metrics.json").write_text(json_text(figures))
    predictions.write_parquet(folder / "predictions.parquet")
    for name, png in plot_images.items():
        (folder / f"{name}.png").write_bytes(png)
    (folder / "report.html").write_text(page)
