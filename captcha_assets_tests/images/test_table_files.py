"""Tables of several files are read together, whichever version of the code wrote each."""

from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from captcha_assets.images.table_files import repeated, scan_tables, shares_group

NOW = pa.schema(
    [
        pa.field("image_id", pa.string()),
        pa.field("file_bytes", pa.int64()),
        pa.field("foreground_fraction", pa.float64()),
    ]
)


def written(folder: Path, **tables: dict[str, list]) -> list[Path]:
    for name, columns in tables.items():
        pl.DataFrame(columns).write_parquet(folder / f"{name}.parquet")
    return [folder / f"{name}.parquet" for name in tables]


def test_a_table_of_an_earlier_version_is_read_with_those_of_now(tmp_path: Path) -> None:
    narrow = pl.Series([7], dtype=pl.Int32)
    files = written(
        tmp_path,
        earlier={"image_id": ["a"], "file_bytes": narrow, "ink": [0.5]},
        now={"image_id": ["b"], "file_bytes": [1 << 40], "foreground_fraction": [0.25]},
    )
    for order in (files, files[::-1]):
        rows = scan_tables(order, NOW).sort("image_id").collect()
        assert rows.columns == NOW.names
        assert rows.rows() == [("a", 7, None), ("b", 1 << 40, 0.25)]


def test_no_table_has_no_rows_and_the_columns_of_now(tmp_path: Path) -> None:
    rows = scan_tables(written(tmp_path), NOW).collect()
    assert rows.columns == NOW.names
    assert rows.is_empty()


def test_a_column_that_has_become_another_kind_of_value_is_an_error(tmp_path: Path) -> None:
    files = written(tmp_path, earlier={"image_id": [1]})
    with pytest.raises(pl.exceptions.SchemaError, match="image_id"):
        scan_tables(files, NOW).collect()


FEW = st.one_of(st.none(), st.sampled_from(["a", "b", "c", "d", "e"]))


@given(st.lists(FEW), st.booleans())
def test_values_that_stand_there_twice_are_found_in_any_order(
    values: list[str | None], in_order: bool
) -> None:
    column = pl.Series(values, dtype=pl.String)
    column = column.sort() if in_order else column
    assert repeated(column).to_list() == column.is_duplicated().to_list()


@given(st.lists(st.tuples(FEW, FEW)))
def test_rows_that_share_a_group_are_found_whatever_stands_there(
    rows: list[tuple[str | None, str | None]],
) -> None:
    table = pl.DataFrame(rows, {"image_id": pl.String, "group": pl.String}, orient="row")
    assert shares_group(table).to_list() == table["group"].is_duplicated().to_list()
