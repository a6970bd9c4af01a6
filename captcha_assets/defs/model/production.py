"""The production settings as a source that Dagster watches: a change of them makes the model out of date."""

import warnings

import dagster as dg
from dagster._core.definitions.data_version import DATA_VERSION_TAG, extract_data_version_from_entry

from captcha_assets.defs.automation import OWNERS
from captcha_assets.settings import Settings
from captcha_assets.sweeps.production import production_version

# Every command would repeat it; an upgrade of Dagster is tested like any other.
warnings.filterwarnings("ignore", "Function `multi_observable_source_asset`", dg.BetaWarning)

_KEY = dg.AssetKey("training_settings")


@dg.multi_observable_source_asset(
    specs=[
        dg.AssetSpec(
            _KEY,
            group_name="model",
            kinds={"yaml"},
            description="What a training is told that is told nothing else: the code's defaults, and over "
            "them `configs/training.yaml` of the home. Observed, never made.",
            owners=OWNERS,
        )
    ]
)
def training_settings(settings: dg.ResourceParam[Settings]) -> dg.ObserveResult:
    """Look at the settings; the data version is a hash of all their values."""
    return dg.ObserveResult(
        data_version=dg.DataVersion(production_version(settings)), metadata=_metadata(settings)
    )


def unseen_settings(settings: Settings, instance: dg.DagsterInstance) -> dg.AssetObservation | None:
    """What to tell the instance about the production settings, None where it knows."""
    version = production_version(settings)
    record = instance.get_latest_data_version_record(_KEY, is_source=True)
    seen = extract_data_version_from_entry(record.event_log_entry) if record else None
    if seen is not None and seen.value == version:
        return None
    return dg.AssetObservation(_KEY, tags={DATA_VERSION_TAG: version}, metadata=_metadata(settings))


def _metadata(settings: Settings) -> dict[str, dg.MetadataValue]:
    return {"path": dg.MetadataValue.path(str(settings.training_settings))}
