"""What Dagster's public API does not offer, each with the reason: no other module imports its private ones.

`captcha_assets_tests/defs/test_dagster_internals.py` notices an upgrade that changes one of them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

# The launchpad can check a value beyond its type, before a run starts, only by a scalar type of our own.
from dagster._config.config_type import ConfigScalar, ConfigScalarKind
from dagster._config.errors import PostProcessingError
from dagster._core.definitions.assets.graph.asset_graph import AssetNode
from dagster._core.definitions.assets.graph.base_asset_graph import BaseAssetGraph

# A run of assets that no job names has the name of a job that only Dagster knows.
from dagster._core.definitions.assets.job.asset_job import is_reserved_asset_job_name

# Staleness as the UI shows it: `dg` has no way to ask for it, nor a name for the tag of a data version.
from dagster._core.definitions.data_version import (
    CODE_VERSION_TAG,
    DATA_VERSION_TAG,
    DEFAULT_DATA_VERSION,
    INPUT_DATA_VERSION_TAG_PREFIX,
    NULL_DATA_VERSION,
    CachingStaleStatusResolver,
    StaleCause,
    StaleCauseCategory,
    StaleStatus,
    extract_data_version_from_entry,
    get_input_data_version_tag,
    get_input_event_pointer_tag,
)

# The class of a failed subprocess.
from dagster._core.errors import DagsterPipesExecutionError
from dagster._core.instance import InstanceRef
from dagster._core.loader import LoadingContext
from dagster._core.storage.asset_check_execution_record import (
    AssetCheckExecutionRecord,
    AssetCheckExecutionRecordStatus,
)
from dagster_shared.error import SerializableErrorInfo

if TYPE_CHECKING:
    from dagster._core.remote_representation.external import RemoteRepository
    from dagster._core.remote_representation.external import RemoteSensor as RemoteSensor  # noqa: PLC0414

__all__ = [
    "DATA_VERSION_TAG",
    "DEFAULT_DATA_VERSION",
    "NO_VALUE",
    "AssetNode",
    "BaseAssetGraph",
    "CachingStaleStatusResolver",
    "ConfigScalar",
    "ConfigScalarKind",
    "DagsterPipesExecutionError",
    "PostProcessingError",
    "SerializableErrorInfo",
    "StaleCause",
    "StaleCauseCategory",
    "StaleStatus",
    "body_of",
    "input_version_tag",
    "is_reserved_asset_job_name",
    "last_ended",
    "latest_planned",
    "observed_version",
    "open_instance_at",
    "reads_latest_inputs",
    "remote_repository",
    "stale_status_resolver",
]

#: The data version of what is not there: Dagster calls an asset with this version missing.
NO_VALUE = NULL_DATA_VERSION.value

# A command prints to its own terminal. To capture that, Dagster would start four processes for each run,
# which show tracebacks on Ctrl-C and write to pipes that are closed.
_NO_COMPUTE_LOGS = {
    "compute_logs": {
        "module": "dagster._core.storage.noop_compute_log_manager",
        "class": "NoOpComputeLogManager",
    }
}

_ENDED = frozenset({AssetCheckExecutionRecordStatus.SUCCEEDED, AssetCheckExecutionRecordStatus.FAILED})


class _Lookup(LoadingContext):
    """What Dagster's resolver reads through: one look at the instance, cached for one question."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self._instance = instance
        self._loaders: dict[type, Any] = {}

    @property
    def instance(self) -> dg.DagsterInstance:
        return self._instance

    @property
    def loaders(self) -> dict[type, Any]:
        return self._loaders


def stale_status_resolver(instance: dg.DagsterInstance, graph: BaseAssetGraph) -> CachingStaleStatusResolver:
    """Return what decides which assets the UI calls stale; ask a new one after each run."""
    return CachingStaleStatusResolver(instance, graph, _Lookup(instance))


def observed_version(instance: dg.DagsterInstance, source: str | dg.AssetKey) -> dg.DataVersion | None:
    """Return the data version that an observable source was observed with last; None for never."""
    record = instance.get_latest_data_version_record(dg.AssetKey.from_coercible(source), is_source=True)
    return extract_data_version_from_entry(record.event_log_entry) if record else None


def input_version_tag(asset: str | dg.AssetKey) -> str:
    """Return the tag by which a materialization says which version of an input asset it has read."""
    return get_input_data_version_tag(dg.AssetKey.from_coercible(asset))


def reads_latest_inputs(
    tags: Mapping[str, str], code_version: str | None, latest: Mapping[dg.AssetKey, int | None]
) -> bool:
    """Whether Dagster's resolver finds no fault with a materialization, by its tags alone.

    Args:
        tags: of the materialization.
        code_version: of its asset now.
        latest: the latest materialization of each of its inputs, None where there is none.
    """
    known = {tag for tag in tags if tag.startswith(f"{INPUT_DATA_VERSION_TAG_PREFIX}/")}
    read = {key: tags.get(get_input_event_pointer_tag(key), "") for key in latest}
    return (
        tags.get(DATA_VERSION_TAG, NO_VALUE) != NO_VALUE
        and tags.get(CODE_VERSION_TAG) == code_version
        and known == {get_input_data_version_tag(key) for key in latest}
        and all(read[key].isdecimal() and (now or 0) <= int(read[key]) for key, now in latest.items())
    )


def body_of(definition: dg.AssetsDefinition) -> Callable[..., Any]:
    """Return the function that an asset's decorator was given: it names the resources that it takes."""
    return definition.op.compute_fn.decorated_fn  # type: ignore[union-attr]


def last_ended(instance: dg.DagsterInstance, check: dg.AssetCheckKey) -> AssetCheckExecutionRecord | None:
    """Return the last finished execution of a check."""
    return next(iter(latest_ended(instance, check, limit=1)), None)


def latest_ended(
    instance: dg.DagsterInstance, check: dg.AssetCheckKey, limit: int
) -> Sequence[AssetCheckExecutionRecord]:
    """Return the latest finished executions of a check, the last one first."""
    return instance.event_log_storage.get_asset_check_execution_history(check, limit=limit, status=_ENDED)


def latest_planned(
    instance: dg.DagsterInstance, check: dg.AssetCheckKey, limit: int
) -> Sequence[AssetCheckExecutionRecord]:
    """Return the latest executions of a check that have no result, the last one first."""
    planned = {AssetCheckExecutionRecordStatus.PLANNED}
    return instance.event_log_storage.get_asset_check_execution_history(check, limit=limit, status=planned)


def open_instance_at(dagster_home: Path) -> dg.DagsterInstance:
    """Open an instance as its `dagster.yaml` says, but for the output of runs, which is not captured."""
    return dg.DagsterInstance.from_ref(InstanceRef.from_dir(str(dagster_home), overrides=_NO_COMPUTE_LOGS))


@contextmanager
def remote_repository(instance: dg.DagsterInstance, workspace: Path) -> Iterator["RemoteRepository"]:
    """Yield the one repository of a `workspace.yaml` as the UI has it: sensors are switched by it alone."""
    # They load the code servers' libraries, which no other command needs.
    from dagster._core.workspace.context import WorkspaceProcessContext
    from dagster._core.workspace.load_target import WorkspaceFileTarget

    target = WorkspaceFileTarget([str(workspace)])
    with WorkspaceProcessContext(instance, target, code_server_log_level="WARNING") as context:
        (location,) = context.create_request_context().code_locations
        (repository,) = location.get_repositories().values()
        yield repository
