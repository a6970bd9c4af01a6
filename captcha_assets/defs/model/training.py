"""The job of a training: its settings, its tables and its folders."""

from pathlib import Path

import dagster as dg

from captcha_assets.dataset import DatasetSpec
from captcha_assets.defs import lost_outputs
from captcha_assets.defs.dagster_internals import input_version_tag
from captcha_assets.images.local import LocalTables
from captcha_assets.images.table import content_hash
from captcha_assets.models import provenance, registry
from captcha_assets.models.folder import read_config
from captcha_assets.paths import Paths
from captcha_assets.storage import fetched
from captcha_assets.stored_outputs import Output
from captcha_assets.sweeps.production import production_version, version_of
from captcha_assets.training.config import TrainingJob, TrainingSettings

#: Raise it with a change of the training that should train again.
TRAINING_CODE = "2"


def configuration_version(paths: Paths) -> str:
    """Return the version of the production settings, which an automated training takes."""
    return production_version(paths)


def trained_with(training: TrainingSettings) -> dict[str, str]:
    """Return the tags of a model's materialization that say which settings it was trained with.

    For Dagster, the model has then read the version of `training_settings` that it was trained with: a model
    that was trained with other settings, by run config, is stale for the UI, `status` and `update` alike.
    """
    return {input_version_tag("training_settings"): version_of(training)}


def job_for(
    paths: Paths, spec: DatasetSpec, data: LocalTables, training: TrainingSettings, run_id: str
) -> TrainingJob:
    """The job of one training.

    Its folder is named after what decides the weights, so that the same training, started again after
    an interruption, finds its checkpoints, and another one does not.
    """
    job = TrainingJob(
        tables=data.tables,
        splits=data.splits,
        splits_version=content_hash(data.splits),
        classes=spec.classes,
        image_shape=spec.shape,
        output=Path(),
        checkpoints=Path(),
        code_version=TRAINING_CODE,
        settings=training,
        provenance={
            "run_id": run_id,
            "batches": list(data.batches),
            "configuration": version_of(training),
            **provenance.recorded(paths, data.batches),
        },
    )
    work = paths.scratch / "training" / job.fingerprint[:16]
    return job.model_copy(update={"output": work / "model", "checkpoints": work / "checkpoints"})


def trained_meanwhile(context: dg.AssetExecutionContext, paths: Paths, job: TrainingJob) -> str | None:
    """Return the model of this very job, where another run finished it after this run was requested.

    Two runs that ask for the same training at once wait for each other: the second takes the first one's.
    A run that is requested later trains anew, but where only the pointer to the model was lost: a training
    would come out with the model that lies there.
    """
    record = context.instance.get_run_record_by_id(context.run_id)
    event = context.instance.get_latest_materialization_event(context.asset_key)
    before = lost_outputs.last_materialized(context.instance, Output("resnet18"))
    model = before.metadata.get("model") if before else None
    if event is None or model is None or record is None:
        return None
    model_id, pointed = str(model.value), registry.pointed_at(paths.models) is not None
    if pointed and event.timestamp < record.create_timestamp.timestamp():
        return None
    if not registry.holds(paths.models, model_id) or not paths.training_splits(model_id).exists():
        return None
    with fetched(registry.model_folder(paths.models, model_id)) as folder:
        if read_config(folder).provenance.get("job") != job.fingerprint:
            return None
    registry.make_candidate(paths.models, model_id)
    context.log.info(f"{model_id} is the model of this very training")
    return model_id
