"""Registers a trained model together with what it was trained on."""

import shutil
from pathlib import Path

from captcha_assets.dataset import DatasetSpec
from captcha_assets.images.local_tables import LocalTables
from captcha_assets.models import folder, registry
from captcha_assets.paths import Paths
from captcha_assets.quality import drift
from captcha_assets.storage import replacing


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
