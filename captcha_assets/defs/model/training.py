"""A training in Dagster: the settings it had, and whether another run has finished it meanwhile."""

import dagster as dg

from captcha_assets.dataset import DatasetSpec
from captcha_assets.defs.dagster_internals import input_version_tag
from captcha_assets.defs.materializations import last_materialized
from captcha_assets.defs.names import Names, names_of
from captcha_assets.models import registry
from captcha_assets.paths import Paths
from captcha_assets.stored_outputs import Output
from captcha_assets.training.config import TrainingJob, TrainingSettings
from captcha_assets.training_jobs import is_whole


def trained_with(training: TrainingSettings, names: Names) -> dict[str, str]:
    """Return the tags of a model's materialization that say which settings it was trained with.

    For Dagster, the model has then read the version of `training_settings` that it was trained with: a model
    that was trained with other settings, by run config, is stale for the UI, `status` and `update` alike.
    """
    return {input_version_tag(names.key("training_settings")): training.version}


def trained_meanwhile(
    context: dg.AssetExecutionContext, paths: Paths, dataset: DatasetSpec, job: TrainingJob
) -> str | None:
    """Return the model of this very job, where another run finished it after this run was requested.

    Two runs that ask for the same training at once wait for each other: the second takes the first one's.
    A run that is requested later trains again, but where only the pointer to the model was lost, or the
    summary of its training images: a training would come out with the model that lies there.
    """
    from captcha_assets.models.registration import restore_summary, summary_is_whole

    record = context.instance.get_run_record_by_id(context.run_id)
    event = context.instance.get_latest_materialization_event(context.asset_key)
    before = last_materialized(context.instance, Output("resnet18"), names_of(context))
    model = before.metadata.get("model") if before else None
    if event is None or model is None or record is None:
        return None
    model_id = str(model.value)
    complete = registry.pointed_at(paths.models) is not None and summary_is_whole(paths, model_id)
    if complete and event.timestamp < record.create_timestamp.timestamp():
        return None
    if not is_whole(paths, model_id, job):
        return None
    restore_summary(paths, dataset, job.tables, model_id)
    registry.make_candidate(paths.models, model_id)
    context.log.info(f"{model_id} is the model of this very training")
    return model_id
