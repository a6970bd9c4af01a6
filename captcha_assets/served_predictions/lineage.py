"""Lineage of a served prediction: its model, its corrections, and the models trained on them."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import polars as pl

from captcha_assets.atomic_files import AnyPath, fetched
from captcha_assets.models import registry
from captcha_assets.models.lineage import Lineage, Node, models_of_image, split_of_image, trace
from captcha_assets.models.manifest import MANIFEST, ModelFolderError, read_manifest
from captcha_assets.paths import Paths
from captcha_assets.served_predictions import daily_tables
from captcha_assets.serving.prediction_log import Correction, LoggedPrediction
from captcha_assets.serving.settings import load_serving_settings
from captcha_assets.sources import correction_batches


def prediction(paths: Paths, what: str) -> Lineage | None:
    """Trace a prediction by its inference id; None where the log holds none of this id.

    Raises:
        PredictionLogUnavailableError: the log cannot be read.
    """
    address = load_serving_settings().prediction_log_at(paths)
    found = daily_tables.find(address, what) if address else None
    if found is None:
        return None
    logged, given = found
    facts = {
        "time": logged.time.isoformat(timespec="seconds"),
        "label": logged.label,
        "score": logged.score,
        "status": logged.status,
        "image_hash": logged.image_hash,
    }
    batches = [_correction(paths, logged, one.correction, one.batches) for one in given]
    return Lineage(Node("prediction", logged.inference_id, facts), (_model(paths, logged),), tuple(batches))


def _model(paths: Paths, logged: LoggedPrediction) -> Node:
    facts: dict[str, Any] = {"name": logged.model_name, "model.onnx": logged.model_digest}
    facts["export"] = _export(paths, logged)
    if logged.model_version not in registry.list_models(paths.models):
        return Node("model", logged.model_version, {**facts, "today": "not in the registry"})
    model = trace(paths, logged.model_version)
    return Node("model", logged.model_version, {**facts, **model.what.facts}, model.derived_from)


def _export(paths: Paths, logged: LoggedPrediction) -> str:
    """Return the asset that holds the file that answered, as far as it still does."""
    for asset, export in (
        ("onnx_model", paths.onnx_model(logged.model_version)),
        ("quantized_model", paths.quantized_model(logged.model_version)),
    ):
        with suppress(ModelFolderError):
            if export.exists() and _digest(export) == logged.model_digest:
                return asset
    return "not stored any more"


def _digest(export: AnyPath) -> str | None:
    with fetched(export / MANIFEST) as local:
        return read_manifest(local.parent)["files"].get("model.onnx")


def _correction(paths: Paths, logged: LoggedPrediction, correction: Correction, batches: list[str]) -> Node:
    facts = {
        "label": correction.label,
        "annotator": correction.annotator,
        "time": correction.time.isoformat(timespec="seconds"),
        "state": _state(logged, correction, batches),
    }
    counts = logged.correction is not None and logged.correction.id == correction.id
    nodes = [Node("batch", name, {}, tuple(_images(paths, name, logged))) for name in batches if counts]
    return Node("correction", str(correction.id), facts, tuple(nodes))


def _state(logged: LoggedPrediction, correction: Correction, batches: list[str]) -> str:
    if logged.correction and logged.correction.id != correction.id:
        return f"superseded by {logged.correction.id}"
    return "in a batch" if batches else "in no batch yet"


def _images(paths: Paths, batch: str, logged: LoggedPrediction) -> Iterator[Node]:
    """Yield the image that a batch holds of a prediction, and what it is to each model."""
    table = paths.image_table(batch)
    if not table.exists():
        return
    rows = pl.scan_parquet(str(table)).select("image_id", "member", "label").collect()
    for image_id, member, label in rows.iter_rows():
        if correction_batches.image_hash_of(member) == logged.image_hash:
            facts = {"member": member, "label_there": label, **split_of_image(paths, image_id)}
            yield Node("image", image_id, facts, tuple(models_of_image(paths, image_id)))
