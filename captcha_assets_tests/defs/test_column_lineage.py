"""Every column of a table says where it comes from, and what it means."""

import dagster as dg
import pytest

from captcha_assets.definitions import defs
from captcha_assets.images import index, split_assignment
from captcha_assets.images.label_decisions import _COLUMNS
from captcha_assets.images.table import IMAGE_TABLE_SCHEMA

COLUMNS = {
    "image_table": set(IMAGE_TABLE_SCHEMA.names),
    "image_index": set(index.INDEX_SCHEMA.names),
    "splits": set(split_assignment.SPLITS_SCHEMA.names),
    "label_decisions": set(_COLUMNS),
}


@pytest.fixture(scope="module")
def graph() -> object:
    return defs().resolve_asset_graph()


@pytest.mark.parametrize("table", ["image_index", "splits"])
def test_each_column_names_columns_of_its_inputs(graph, table: str) -> None:
    node = graph.get(dg.AssetKey(table))
    lineage = node.metadata["dagster/column_lineage"]
    assert set(lineage.deps_by_column) == COLUMNS[table]
    for column, sources in lineage.deps_by_column.items():
        assert sources, column
        for source in sources:
            assert source.asset_key in node.parent_keys, column
            assert source.column_name in COLUMNS[source.asset_key.to_user_string()], column


@pytest.mark.parametrize("table", ["image_table", "rejected_images", "image_index", "splits"])
def test_each_column_says_what_it_means(graph, table: str) -> None:
    schema = graph.get(dg.AssetKey(table)).metadata["dagster/column_schema"]
    assert schema.columns
    assert all(column.description and column.type for column in schema.columns)
