"""When assets are made without being asked: one named policy for all of them.

The policy acts only while the sensor `automation` runs, and that is off until switched on.
"""

import warnings
from typing import Any

import dagster as dg

from captcha_assets.serving.settings import wanted_precision

# Every command would repeat it; an upgrade of Dagster is tested like any other.
warnings.filterwarnings("ignore", ".*map_resolved_asset_specs", dg.PreviewWarning)

OWNERS = ["team:captcha-assets"]

# A batch that failed its checks is left out of the index by the index itself: it must not keep the
# good batches waiting, so the index alone does not ask whether every batch passed.
_BLOCKING_CHECKS_PASSED = dg.AutomationCondition.all_deps_blocking_checks_passed().ignore(
    dg.AssetSelection.assets("image_table")
)

# Sources that were never observed keep nothing waiting: no batch was removed, nobody decided anything.
_OPTIONAL = dg.AssetSelection.assets("label_decisions", "batch_catalog", "served_predictions")

# Content, not events: materializing the same content again changes nothing downstream.
_NEW: dg.AutomationCondition[Any] = (
    dg.AutomationCondition.any_deps_match(dg.AutomationCondition.data_version_changed())
    | dg.AutomationCondition.code_version_changed()
    | dg.AutomationCondition.newly_missing()
)

# Batches that were registered before the first evaluation, which `since_last_handled` leaves out.
_MISSING: dg.AutomationCondition[Any] = dg.AutomationCondition.newly_missing().since(
    dg.AutomationCondition.newly_requested() | dg.AutomationCondition.newly_updated()
)

# Inputs are whole and at rest.
_READY = (
    ~dg.AutomationCondition.any_deps_missing().ignore(_OPTIONAL)
    & ~dg.AutomationCondition.any_deps_in_progress()
    & ~dg.AutomationCondition.in_progress()
    & _BLOCKING_CHECKS_PASSED
)

# One request for one reason, whatever became of the run: a failing step is not repeated for ever.
ON_NEW_CONTENT = (_NEW.since_last_handled() & _READY).with_label("on_new_content")
ON_NEW_BATCH = ((_NEW.since_last_handled() | _MISSING) & _READY).with_label("on_new_batch")

#: What costs as many trainings as there are trials.
SWEEPS = (dg.AssetKey("sweep_trial"), dg.AssetKey("sweep_leaderboard"))
_QUANTIZED = dg.AssetKey("quantized_model")

#: Never made as a part of the job `everything`.
ONLY_WHEN_ASKED = (*SWEEPS, _QUANTIZED)


def only_when_asked() -> tuple[dg.AssetKey, ...]:
    """Never made by automation or by an update of everything, with the settings of now."""
    return SWEEPS if wanted_precision() == "int8" else ONLY_WHEN_ASKED


#: Partitioned by day: no run makes them together with a batch.
BY_DAY = dg.AssetSelection.groups("serving")

#: Made by other sensors: a training is too dear for each new image.
_TRAINED = dg.AssetKey("resnet18")

automation = dg.AutomationConditionSensorDefinition(
    "automation",
    # the published version, which is observed daily, is not among what `all` means
    target=dg.AssetSelection.all() | dg.AssetSelection.assets("kaggle_dataset"),
    description="Materializes what has new input or new code. Off until switched on.",
    default_status=dg.DefaultSensorStatus.STOPPED,
    minimum_interval_seconds=30,
)


def with_policies(definitions: dg.Definitions) -> dg.Definitions:
    """Give every materializable asset its owners and its automation policy, in one place."""
    return definitions.map_resolved_asset_specs(
        func=lambda spec: spec.replace_attributes(owners=OWNERS, automation_condition=_condition(spec)),
        selection=dg.AssetSelection.all(),
    )


def _condition(spec: dg.AssetSpec) -> dg.AutomationCondition[Any] | None:
    if spec.key in {_TRAINED, *only_when_asked()}:
        return None
    return ON_NEW_BATCH if spec.partitions_def is not None else ON_NEW_CONTENT
