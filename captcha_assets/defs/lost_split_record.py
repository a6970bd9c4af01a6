"""The files of the split assignments as Dagster recorded them, to notice that the record is lost."""

from typing import Any, cast

import dagster as dg

from captcha_assets.defs.names import PLAIN, Names
from captcha_assets.images import table_parts
from captcha_assets.images.split_assignment import files_named_by
from captcha_assets.images.split_record import GO_ON, AssignmentError, AssignmentRecord
from captcha_assets.paths import Paths

_FILES = "split assignments"
#: Materializations that are searched for one that names the record's files; only reports lie between.
_LOOKED_AT = 100


def named(record: AssignmentRecord) -> dict[str, Any]:
    """Metadata of `splits` that names the files of the record."""
    return {_FILES: dg.MetadataValue.json(record.files())}


def require_known(
    instance: dg.DagsterInstance, paths: Paths, record: AssignmentRecord, names: Names = PLAIN
) -> None:
    """Raise an error if the record lacks a file that the last materialization of `splits` names.

    Raises:
        AssignmentError: assignments are lost.
    """
    record.require(files_named_by(paths.splits) or (), str(paths.splits))
    known = instance.fetch_materializations(names.key("splits"), limit=_LOOKED_AT).records
    for event in known:
        files = event.asset_materialization and event.asset_materialization.metadata.get(_FILES)
        if files:
            record.require(cast("list[str]", files.value), "the last materialization of splits")
            return
    if known and not table_parts.exists(paths.splits) and not record.files():
        raise AssignmentError(
            f"split assignments are lost: splits were materialized before, but neither {paths.splits} nor "
            f"{record.folder} is there. No image is assigned a new split: {record.how_to_restore}, {GO_ON}"
        )
