"""Registers a trained model together with what it was trained on."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from captcha_assets.atomic_files import AnyPath, fetched, replacing
from captcha_assets.dataset import DatasetSpec
from captcha_assets.images.local_tables import LocalTables
from captcha_assets.models import folder, registry, training_summary
from captcha_assets.paths import Paths
from captcha_assets.quality import drift


def register(paths: Paths, spec: DatasetSpec, data: LocalTables, trained: Path) -> str:
    """Make a trained model the candidate, keep what it was trained on, and return its id.

    The folder of the training is removed.
    """
    model_id = folder.verify(trained)
    with replacing(paths.training_splits(model_id)) as part:
        shutil.copyfile(data.splits, part)
    summary = drift.summarize(data.tables, spec, data.splits)
    drift.save(summary, paths.training_summary(model_id))
    registry.add_candidate(paths.models, trained)
    shutil.rmtree(trained.parent)
    return model_id


def restore_summary(paths: Paths, spec: DatasetSpec, tables: Sequence[AnyPath], model_id: str) -> None:
    """Summarize the training images of a model again, where their summary is missing or damaged.

    Args:
        paths: where things are kept.
        spec: the classes and the size of an image.
        tables: image tables that hold the training images.
        model_id: the model. Of one whose splits are not kept, nothing is summarized.

    Raises:
        DriftError: the tables lack some of the images.
    """
    kept, summarized = paths.training_summary(model_id), paths.training_splits(model_id)
    if not summarized.exists() or summary_is_whole(paths, model_id):
        return
    summary = drift.summarize(tables, spec, summarized)
    wanted = pl.scan_parquet(str(summarized)).filter(split="train").select(pl.len()).collect().item()
    if summary.images != wanted:
        raise drift.DriftError(
            f"{kept} is missing or damaged, and of the {wanted:,} images that {model_id} was trained on "
            f"{summary.images:,} are left to summarize: restore the file from a backup, or let another model "
            "serve (captcha-assets model promote)"
        )
    drift.save(summary, kept)


def summary_is_whole(paths: Paths, model_id: str) -> bool:
    """Whether the summary of a model's training images is there, and not damaged."""
    try:
        with fetched(paths.training_summary(model_id)) as local:
            training_summary.check(local)
    except (OSError, ValueError):
        return False
    return True
