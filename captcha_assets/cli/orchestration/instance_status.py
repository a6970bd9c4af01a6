"""The state of a home: what is stale, which runs are under way, the last training, the last drift check."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from captcha_assets.cli.orchestration import staleness
from captcha_assets.cli.orchestration.command_lock import is_unknown
from captcha_assets.cli.orchestration.last_failures import last_failures
from captcha_assets.dataset import DatasetSpec
from captcha_assets.defs.dagster_internals import latest_ended
from captcha_assets.defs.images.checks import DRIFT
from captcha_assets.defs.killed_runs import UNFINISHED, assets_in_words
from captcha_assets.defs.model.retraining_sensor import WHY_TAG, last_unsuccessful_training
from captcha_assets.defs.partitions import BATCH
from captcha_assets.defs.sensor_states import is_on
from captcha_assets.images import label_decisions
from captcha_assets.models import overview, promotion_records, registry, retraining_policy, served_drift
from captcha_assets.models.manifest import ModelFolderError
from captcha_assets.models.registry_records import RegistryError
from captcha_assets.paths import Paths
from captcha_assets.quality import validation_result
from captcha_assets.served_predictions import log_access
from captcha_assets.serving.prediction_log import PredictionLogUnavailableError, PredictionLogUrlError
from captcha_assets.settings import Settings
from captcha_assets.sources.batch_registration import known_batches
from captcha_assets.stored_outputs import Output
from captcha_assets.sweeps.production_settings import problem, situation_now

_TRAINED = dg.AssetKey("resnet18")
#: So many checks are looked at for one of a batch that is still there.
_LATEST_CHECKS = 100


def look(
    settings: Settings, spec: DatasetSpec, definitions: dg.Definitions, instance: dg.DagsterInstance
) -> dict[str, Any]:
    """Look at an instance; the answer holds values that JSON knows.

    Returns:
        `stale` (what `update` would materialize now, with the reasons, and why its last run failed),
        `runs` (not ended yet), `label_conflicts` (images that wait for a decision), `idle_decisions` (lines
        of `label_decisions.csv` that have no effect, and why), `last_training` and `last_drift` (None where
        there was none), `served_drift` (the alarm of the latest drift report, None where it raises none),
        `automatic_rollback` (how the champion compares with its predecessor; None where it is off),
        `next_training` (the state of each trigger of a training), `inbox_watched` (the inbox sensor is on).
    """
    planned = staleness.plan(definitions, instance, staleness.selected("*"))
    failed = last_failures(instance)
    unfinished = instance.get_run_records(dg.RunsFilter(statuses=UNFINISHED))
    return {
        "stale": [
            {"step": str(step), "reasons": list(reasons), "last_failure": _failure(step, failed)}
            for step, reasons in planned
        ],
        "runs": [_run(instance, record) for record in unfinished],
        "label_conflicts": label_conflicts(instance),
        "idle_decisions": _idle_decisions(instance),
        "last_training": _last_training(settings.paths, instance),
        "last_drift": _last_drift(instance),
        "drifted": _drifted(settings.paths),
        "served_drift": _served_drift(settings.paths),
        "automatic_rollback": _automatic_rollback(settings, instance),
        "unusable": list(_unusable(settings.paths, spec)),
        "not_promoted": _not_promoted(settings.paths),
        "inbox_watched": is_on(instance, "inbox_sensor"),
        "next_training": "; ".join(
            [_next_training(settings, [step for step, _ in planned]), *last_unsuccessful_training(instance)]
        ),
    }


def _failure(step: staleness.Step, failed: Mapping[Output, str]) -> str | None:
    found = (failed.get(Output(asset, step.partition)) for asset in step.assets)
    return next((why for why in found if why), None)


def _unusable(paths: Paths, spec: DatasetSpec) -> Iterator[str]:
    """What of a person's files and of the registry cannot be read, each in one line."""
    if found := label_decisions.problem(paths.label_decisions, spec):
        yield found
    if found := log_access.problem(paths):
        yield found
    try:
        registry.history(paths.models)
        if candidate := registry.pointed_at(paths.models):  # the next training replaces a damaged pointer
            registry.refusal(paths.models, candidate)
            promotion_records.last(paths.models, candidate)
    except RegistryError as error:
        yield str(error)


def _next_training(settings: Settings, stale: Iterable[staleness.Step]) -> str:
    """Where each reason for a training stands."""
    if unusable := problem(settings.paths):
        return f"no training: {unusable}"
    try:
        now = situation_now(settings.paths)
        quiet = _without_alarm(settings.paths, stale)
    except (RegistryError, ModelFolderError) as error:
        return f"no training: {error}"
    return retraining_policy.in_words(now, retraining_policy.Limits.of(settings), without_alarm=quiet)


def _without_alarm(paths: Paths, stale: Iterable[staleness.Step]) -> str:
    """What it means that the served predictions raise no alarm, and which report would say more."""
    words = served_drift.without_alarm(paths, is_log_readable=log_access.is_readable(paths))
    reports = [str(step) for step in stale if "drift_report" in step.assets]
    return f"{words} ({reports[-1]} is stale)" if reports and words == served_drift.NOT_CHECKED else words


def _run(instance: dg.DagsterInstance, record: dg.RunRecord) -> dict[str, Any]:
    run = record.dagster_run
    return {
        "run_id": run.run_id,
        "status": run.status.value.lower(),
        "materializes": assets_in_words(instance, run),
        "partition": run.tags.get("dagster/partition"),
        "since": record.create_timestamp.timestamp(),
        "why": run.tags.get(WHY_TAG),
        "of_unknown_process": is_unknown(instance, run),
    }


def label_conflicts(instance: dg.DagsterInstance) -> int:
    """Return how many images wait for a decision, since their labels contradict each other."""
    event = instance.get_latest_materialization_event(dg.AssetKey("image_index"))
    if event is None or event.asset_materialization is None:
        return 0
    found = event.asset_materialization.metadata.get("label conflicts")
    return int(str(found.value)) if found else 0


def _idle_decisions(instance: dg.DagsterInstance) -> list[str]:
    event = instance.get_latest_materialization_event(dg.AssetKey("image_index"))
    if event is None or event.asset_materialization is None:
        return []
    found = event.asset_materialization.metadata.get("decisions without effect")
    return [str(line) for line in found.value or ()] if isinstance(found, dg.JsonMetadataValue) else []


def _last_training(paths: Paths, instance: dg.DagsterInstance) -> dict[str, Any] | None:
    """The last model and the run that trained it, which a later run may only have found."""
    records = instance.fetch_materializations(_TRAINED, limit=100).records
    of_runs = [one for one in records if one.run_id]  # what was lost and restored is reported without a run
    if not of_runs:
        return None
    event = of_runs[0].asset_materialization
    model = event.metadata.get("model") if event else None
    trained_by = _trained_by(paths, str(model.value)) if model else None
    record = next((one for one in of_runs if one.run_id == trained_by), of_runs[0])
    run = instance.get_run_by_id(record.run_id)
    return {
        "model": model.value if model else None,
        "at": record.timestamp,
        "run_id": record.run_id,
        "why": run.tags.get(WHY_TAG) if run else None,
    }


def _trained_by(paths: Paths, model_id: str) -> str | None:
    """The run that trained a model, as the model records it; None where that cannot be read."""
    try:
        return registry.config(paths.models, model_id).provenance.get("run_id")
    except (RegistryError, ModelFolderError):
        return None


def _drifted(paths: Paths) -> list[str]:
    """The batches whose last drift check failed."""
    folders = {name: paths.validation_results("drift", name) for name in known_batches(paths)}
    return [name for name, folder in folders.items() if validation_result.has_warnings(folder)]


def _not_promoted(paths: Paths) -> dict[str, Any] | None:
    """The candidate and why it was not promoted, or not again where it has served.

    None where it serves, was never compared, or cannot be read.
    """
    try:
        candidate, champion = registry.candidate(paths.models), registry.champion(paths.models)
        if candidate is None or (champion and champion.model_id == candidate.model_id):
            return None
        reason = overview.why_not_promoted(paths, candidate.model_id)
        served = registry.has_served(paths.models, candidate.model_id)
    except RegistryError:
        return None  # it is among what cannot be used
    return {"model": candidate.model_id, "reason": reason, "served": served} if reason else None


def _served_drift(paths: Paths) -> str | None:
    """What the latest drift report says of the champion's predictions; None where it raises no alarm."""
    try:
        alarm = served_drift.alarm(paths)
    except RegistryError:
        return None  # the line of the champion reports it
    return str(alarm) if alarm else None


def _automatic_rollback(settings: Settings, instance: dg.DagsterInstance) -> str | None:
    """How the champion compares with its predecessor; None where no champion is rolled back by itself."""
    from captcha_assets.served_predictions import automatic_rollback

    if settings.rollback == "off":
        return None
    try:
        finding = automatic_rollback.compare(settings, datetime.now(UTC))
    except (RegistryError, PredictionLogUnavailableError, PredictionLogUrlError):
        return "nothing is compared: the registry or the prediction log cannot be read"
    serves_on = [f"serves on: {finding.obstacle}"] if finding.obstacle else []
    off = [] if is_on(instance, "automatic_rollback") else ["the sensor is off: captcha-assets automation on"]
    return "; ".join([finding.words, *serves_on, *off])


def _last_drift(instance: dg.DagsterInstance) -> dict[str, Any] | None:
    """The last look at the drift of a batch that is there; None where none of the latest was at one."""
    key = dg.AssetCheckKey(dg.AssetKey("image_table"), DRIFT.name)
    there = set(instance.get_dynamic_partitions(BATCH))
    for record in latest_ended(instance, key, limit=_LATEST_CHECKS):
        run = instance.get_run_by_id(record.run_id)
        batch = run.tags.get("dagster/partition") if run else None
        found = record.evaluation
        if found is not None and batch in there:
            return {
                "batch": batch,
                "at": record.create_timestamp,
                "passed": found.passed,
                "found": found.description,
            }
    return None
