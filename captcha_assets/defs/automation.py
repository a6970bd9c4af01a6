"""When assets are materialized automatically: one named policy for all of them.

The policy acts only while the sensor `automation` runs, which is off until switched on.
"""

import warnings
from typing import Any

import dagster as dg

from captcha_assets.defs.names import PLAIN, Names
from captcha_assets.serving.settings import wanted_precision

# Every command would repeat it; an upgrade of Dagster is tested like any other.
warnings.filterwarnings("ignore", ".*map_resolved_asset_specs", dg.PreviewWarning)

OWNERS = ["team:captcha-assets"]

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

# No input is requested in the same tick: what depends on the index and on its tables waits for the index.
_NO_INPUT_REQUESTED = ~dg.AutomationCondition.any_deps_match(dg.AutomationCondition.will_be_requested())


def _ready(names: Names) -> dg.AutomationCondition[Any]:
    """No input is missing or being materialized, and the blocking checks of all inputs have passed."""
    # A source that was never observed blocks nothing: no batch was removed, there is no decision.
    optional = names.keys("label_decisions", "batch_catalog", "served_predictions")
    # `image_index` leaves out a batch that failed its checks. Such a batch must not block the others, so the
    # policy of the index ignores the checks of `image_table`.
    blocking_checks_passed = dg.AutomationCondition.all_deps_blocking_checks_passed().ignore(
        names.keys("image_table")
    )
    return (
        ~dg.AutomationCondition.any_deps_missing().ignore(optional)
        & ~dg.AutomationCondition.any_deps_in_progress()
        & ~dg.AutomationCondition.in_progress()
        & blocking_checks_passed
    )


# One request for each change, whether the run succeeds or not: a failing step is not repeated for ever.
def on_new_content(names: Names) -> dg.AutomationCondition[Any]:
    """Return the policy of assets over all batches."""
    return (_NEW.since_last_handled() & _ready(names) & _NO_INPUT_REQUESTED).with_label("on_new_content")


def on_new_batch(names: Names) -> dg.AutomationCondition[Any]:
    """Return the policy of assets that are partitioned."""
    return ((_NEW.since_last_handled() | _MISSING) & _ready(names)).with_label("on_new_batch")


#: They cost as many trainings as there are trials.
SWEEPS = (dg.AssetKey("sweep_trial"), dg.AssetKey("sweep_leaderboard"))
_QUANTIZED = dg.AssetKey("quantized_model")

#: Not in the job `everything`.
ONLY_WHEN_ASKED = (*SWEEPS, _QUANTIZED)


def only_when_asked() -> tuple[dg.AssetKey, ...]:
    """Return what neither automation nor an update of all assets materializes, with the settings of now."""
    return SWEEPS if wanted_precision() == "int8" else ONLY_WHEN_ASKED


#: Partitioned by day: a run that has a batch as its partition cannot materialize them.
BY_DAY = dg.AssetSelection.groups("serving")

#: Materialized by other sensors: a training is too expensive for each new image.
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
        func=_with_policy,
        selection=dg.AssetSelection.all(),
    )


def _with_policy(spec: dg.AssetSpec) -> dg.AssetSpec:
    policy = policy_of(spec.key.to_user_string(), partitioned=spec.partitions_def is not None)
    return spec.replace_attributes(owners=OWNERS, automation_condition=policy)


def without_policy() -> frozenset[dg.AssetKey]:
    """Return the assets that the sensor `automation` never materializes, with the settings of now."""
    return frozenset({_TRAINED, *only_when_asked()})


def policy_of(asset: str, *, partitioned: bool, names: Names = PLAIN) -> dg.AutomationCondition[Any] | None:
    """Return the automation policy of an asset, None for one that the sensor never materializes."""
    if dg.AssetKey(asset) in without_policy():
        return None
    return on_new_batch(names) if partitioned else on_new_content(names)
