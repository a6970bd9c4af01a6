"""A home whose tables an earlier version of the code wrote: stale with a reason, and materialized again."""

from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from captcha_assets.atomic_files import remove
from captcha_assets.cli.orchestration import staleness
from captcha_assets.dataset import CAPTCHA
from captcha_assets.images.index import build_image_index
from captcha_assets.images.table import IMAGE_TABLE_SCHEMA
from captcha_assets.images.table_files import StaleTableError, scan_tables
from captcha_assets.images.table_parts import of_earlier_version
from captcha_assets.models import lineage
from captcha_assets.settings import Settings
from captcha_assets.stored_outputs import Output, StoredVersions
from captcha_assets_tests.defs.conftest import Home
from captcha_assets_tests.images.tables import rows_of

#: Whole pipelines, and processes of their own: CI runs them, `make test-all` here.
pytestmark = pytest.mark.slow

EARLIER = {"image_table": "1.2.0f3c2a11", "image_index": "1.0f3c2a11", "splits": "2.0f3c2a11"}
RENAMED = {"foreground_fraction": "ink", "exclusion_reason": "held_back"}


def _as_earlier(spec: dg.AssetSpec) -> dg.AssetSpec:
    version = EARLIER.get(spec.key.to_user_string())
    return spec.replace_attributes(code_version=version) if version else spec


@pytest.fixture
def earlier(home: Home) -> Home:
    """A home that the code of then materialized down to the splits."""
    home.add("first", "synthetic:60:1")
    now, home.definitions = home.definitions, home.definitions.map_asset_specs(func=_as_earlier)
    assert not [outcome.error for outcome in home.update("*splits") if outcome.error]
    home.definitions = now
    return home


def _as_then(settings: Settings) -> None:
    """Give the tables the files and the column names of then."""
    image_table = str(settings.paths.image_table("first"))
    pl.read_parquet(image_table).rename(RENAMED, strict=False).write_parquet(image_table)
    for table in (settings.paths.image_index, settings.paths.splits):
        rows = rows_of(table).rename(RENAMED, strict=False)
        remove(table)
        rows.write_parquet(str(of_earlier_version(table)))


def test_earlier_tables_are_stale_with_a_reason_and_are_materialized_again(
    earlier: Home, tmp_path: Path
) -> None:
    settings = earlier.settings
    planned = staleness.plan(earlier.definitions, earlier.instance, staleness.selected("*splits"))
    reasons = {str(step): why for step, why in planned}
    assert set(reasons) == {"image_table + rejected_images [first]", "image_index", "splits"}
    for step, why in reasons.items():
        assert any("code version" in reason for reason in why), (step, why)
    _as_then(settings)
    assert {table.name for table in settings.paths.artifact_root.glob("*.parquet")} == {
        "image_index.parquet",
        "splits.parquet",
    }
    status = StoredVersions(settings.paths).look(Output("splits"))
    assert "written by an earlier version, in one file" in str(status.problem)
    before = rows_of(settings.paths.splits).select("image_id", "label", "split")
    # before they are materialized again, their readers raise an error, or do without them
    with pytest.raises(StaleTableError, match="without foreground_fraction: materialize it again"):
        build_image_index({"first": settings.paths.image_table("first")}, tmp_path / "i.parquet", CAPTCHA)
    rows = scan_tables([settings.paths.image_table("first")], IMAGE_TABLE_SCHEMA).collect()
    assert len(rows) == 60
    assert rows["foreground_fraction"].is_null().all()
    assert before["image_id"][0] in str(lineage.trace(settings.paths, before["image_id"][0]))
    assert [outcome.error for outcome in earlier.update("*splits")] == [None, None, None]
    assert "foreground_fraction" in pl.read_parquet_schema(str(settings.paths.image_table("first")))
    assert "foreground_fraction" in rows_of(settings.paths.image_index).columns
    assert not list(settings.paths.artifact_root.glob("*.parquet"))
    after = rows_of(settings.paths.splits)
    assert "exclusion_reason" in after.columns
    assert after.select("image_id", "label", "split").equals(before)
    assert earlier.update("*splits") == []
