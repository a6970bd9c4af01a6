"""Files of the home that people write: sources that Dagster watches, so that a change of one is seen.

A change is an observation of the source, logged without a run: by the next command, or by the sensor.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.definitions.data_version import (
    DATA_VERSION_TAG,
    DEFAULT_DATA_VERSION,
    extract_data_version_from_entry,
)

from captcha_assets.defs.automation import OWNERS
from captcha_assets.images import decisions
from captcha_assets.settings import Settings
from captcha_assets.sweeps.production import production_version

# Every command would repeat it; an upgrade of Dagster is tested like any other.
warnings.filterwarnings("ignore", "Function `multi_observable_source_asset`", dg.BetaWarning)


@dataclass(frozen=True)
class Watched:
    """A file: where it lies, and the version of what it says (None: as if nobody had looked at it yet)."""

    name: str
    path: Callable[[Settings], Path]
    version: Callable[[Settings], str | None]

    def data_version(self, settings: Settings) -> dg.DataVersion:
        """The version as Dagster knows it."""
        found = self.version(settings)
        return dg.DataVersion(found) if found else DEFAULT_DATA_VERSION

    def observation(self, settings: Settings) -> dg.AssetObservation:
        """What there is to say of the file now."""
        tags = {DATA_VERSION_TAG: self.data_version(settings).value}
        return dg.AssetObservation(self.name, tags=tags, metadata=self.metadata(settings))

    def metadata(self, settings: Settings) -> dict[str, Any]:
        """Where it lies."""
        return {"path": dg.MetadataValue.path(str(self.path(settings)))}

    def has_changed(self, settings: Settings, instance: dg.DagsterInstance) -> bool:
        """Whether the file says something else than the instance knows."""
        record = instance.get_latest_data_version_record(dg.AssetKey(self.name), is_source=True)
        known = extract_data_version_from_entry(record.event_log_entry) if record else None
        return known != self.data_version(settings)


_DECISIONS = Watched(
    "label_decisions",
    lambda settings: settings.label_decisions,
    lambda settings: decisions.version_of(settings.label_decisions),
)
_TRAINING = Watched("training_settings", lambda settings: settings.training_settings, production_version)
_WATCHED = (_DECISIONS, _TRAINING)


def unseen(settings: Settings, instance: dg.DagsterInstance) -> list[dg.AssetObservation]:
    """What to tell the instance about the watched files that have changed."""
    return [file.observation(settings) for file in _WATCHED if file.has_changed(settings, instance)]


def _source(watched: Watched, group: str, kind: str, description: str) -> Any:
    spec = dg.AssetSpec(watched.name, group_name=group, kinds={kind}, description=description, owners=OWNERS)

    @dg.multi_observable_source_asset(specs=[spec], name=watched.name)
    def look(settings: dg.ResourceParam[Settings]) -> dg.ObserveResult:
        return dg.ObserveResult(
            data_version=watched.data_version(settings), metadata=watched.metadata(settings)
        )

    return look


label_decisions = _source(
    _DECISIONS,
    "source",
    "csv",
    "What somebody decided about images whose labels contradict each other: `label_decisions.csv` of the "
    "home. Observed, never made.",
)
training_settings = _source(
    _TRAINING,
    "model",
    "yaml",
    "What a training is told that is told nothing else: the code's defaults, and over them "
    "`configs/training.yaml` of the home. Observed, never made.",
)


@dg.sensor(
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Notes a change of `label_decisions.csv` or `configs/training.yaml`, so that what depends on "
    "it is shown as out of date. Starts no run.",
)
def watched_files(
    context: dg.SensorEvaluationContext, settings: dg.ResourceParam[Settings]
) -> dg.SensorResult | dg.SkipReason:
    """Observe, without a run, the files that are not as they were."""
    found = unseen(settings, context.instance)
    return dg.SensorResult(asset_events=found) if found else dg.SkipReason("all files are as they were")
