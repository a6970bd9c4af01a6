"""The job of a training on the data of a home."""

from pathlib import Path

from captcha_assets.atomic_files import fetched
from captcha_assets.dataset import DatasetSpec
from captcha_assets.images.local_tables import LocalTables
from captcha_assets.images.table_parts import version_of
from captcha_assets.models import folder, registry, training_provenance
from captcha_assets.paths import Paths
from captcha_assets.training.config import TRAINING_CODE, TrainingJob, TrainingSettings


def job_for(
    paths: Paths, spec: DatasetSpec, data: LocalTables, training: TrainingSettings, run_id: str
) -> TrainingJob:
    """Return the job of one training.

    Its folder is named after what decides the weights, so that the same training, started again after
    an interruption, finds its checkpoints, and another one does not.
    """
    job = TrainingJob(
        tables=data.tables,
        splits=data.splits,
        splits_version=version_of(data.splits),
        classes=spec.classes,
        image_shape=spec.shape,
        output=Path(),
        checkpoints=Path(),
        code_version=TRAINING_CODE,
        settings=training,
        provenance={
            "run_id": run_id,
            "batches": list(data.batches),
            "configuration": training.version,
            **training_provenance.recorded(paths, data.batches),
        },
    )
    work = paths.scratch / "training" / job.fingerprint[:16]
    return job.model_copy(update={"output": work / "model", "checkpoints": work / "checkpoints"})


def is_whole(paths: Paths, model_id: str, job: TrainingJob) -> bool:
    """Whether a model lies in the registry with what it was trained on, and is the model of this very job."""
    if not registry.holds(paths.models, model_id) or not paths.training_splits(model_id).exists():
        return False
    with fetched(registry.model_folder(paths.models, model_id)) as model:
        return folder.read_config(model).provenance.get("job") == job.fingerprint
