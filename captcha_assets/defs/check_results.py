"""How checks ended."""

import dagster as dg
from dagster._core.storage.asset_check_execution_record import (  # the public API has no way to ask for it
    AssetCheckExecutionRecord,
    AssetCheckExecutionRecordStatus,
)

_ENDED = frozenset({AssetCheckExecutionRecordStatus.SUCCEEDED, AssetCheckExecutionRecordStatus.FAILED})


def last_ended(instance: dg.DagsterInstance, check: dg.AssetCheckKey) -> AssetCheckExecutionRecord | None:
    """Return the last execution of a check that has come to an end; one under way says nothing yet."""
    found = instance.event_log_storage.get_asset_check_execution_history(check, limit=1, status=_ENDED)
    return next(iter(found), None)
