"""The data version of a table is a hash of what it says, not of how it is stored."""

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from captcha_assets.images.content_hash import ContentHash, content_hash
from captcha_assets.images.table_files import repeated

TEXT = st.none() | st.text(max_size=3)
SOURCE = st.none() | st.fixed_dictionaries({"batch": TEXT, "label": TEXT})
ROW = st.fixed_dictionaries(
    {
        "id": TEXT,
        "data": st.none() | st.binary(max_size=3),
        "number": st.none() | st.integers(-5, 5),
        "real": st.none() | st.floats(width=32, allow_nan=False),
        "flag": st.none() | st.booleans(),
        "sources": st.none() | st.lists(SOURCE, max_size=2),
    }
)
SCHEMA = pa.schema(
    [
        pa.field("id", pa.string()),
        pa.field("data", pa.binary()),
        pa.field("number", pa.int64()),
        pa.field("real", pa.float32()),
        pa.field("flag", pa.bool_()),
        pa.field("sources", pa.list_(pa.struct([("batch", pa.string()), ("label", pa.string())]))),
    ]
)


def version(rows: list[dict]) -> str:
    content = ContentHash(SCHEMA)
    for batch in pa.Table.from_pylist(rows, SCHEMA).to_batches():
        content.update(batch)
    return content.hexdigest()


@given(st.lists(ROW, max_size=6), st.lists(ROW, max_size=6))
def test_tables_have_the_same_version_if_and_only_if_they_say_the_same(one, other):
    def said(rows):
        return pa.Table.from_pylist(rows, SCHEMA).to_pylist()

    assert (version(one) == version(other)) == (repr(said(one)) == repr(said(other)))


@given(st.lists(ROW, min_size=1, max_size=8), st.integers(1, 8))
def test_batches_and_slices_do_not_matter(rows, size):
    table = pa.Table.from_pylist(rows, SCHEMA)
    content = ContentHash(SCHEMA)
    for start in range(0, len(rows), size):
        for batch in table.slice(start, size).to_batches():
            content.update(batch)
    assert content.hexdigest() == version(rows)


@given(st.lists(ROW, min_size=1, max_size=8))
def test_storage_does_not_matter(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("stored") / "table.parquet"
    table = pa.Table.from_pylist(rows, SCHEMA)
    pq.write_table(table, path, compression="none", row_group_size=3, use_dictionary=False)
    assert content_hash(path) == version(rows)
    pq.write_table(table, path, compression="zstd")
    assert content_hash(path) == version(rows)
    pl.from_arrow(table).write_parquet(path)
    assert content_hash(path) == version(rows)


def test_a_null_is_not_an_empty_value():
    assert version([{"id": ""}]) != version([{"id": None}])
    assert version([{"number": 0}]) != version([{"number": None}])
    assert version([{"sources": []}]) != version([{"sources": None}])
    assert version([{"sources": [None]}]) != version([{"sources": [{"batch": None, "label": None}]}])


def test_names_and_types_matter(tmp_path):
    versions = set()
    for number, table in enumerate([{"a": [1]}, {"b": [1]}, {"a": [1.0]}, {"a": ["1"]}, {"a": [1, 1]}, {}]):
        path = tmp_path / f"{number}.parquet"
        pq.write_table(pa.table(table), path)
        versions.add(content_hash(path))
    assert len(versions) == 6


def test_an_object_store_gives_the_same_version(bucket, tmp_path):
    local, remote = tmp_path / "table.parquet", bucket / "table.parquet"
    pq.write_table(pa.table({"a": [1, 2]}), local)
    remote.write_bytes(local.read_bytes())
    assert content_hash(remote) == content_hash(local)


@given(st.lists(st.sampled_from(["a", "b", "c", "", None]), max_size=12))
def test_a_value_is_called_repeated_if_it_stands_there_more_than_once(values):
    found = repeated(pl.Series(values, dtype=pl.String)).to_list()
    assert found == [values.count(value) > 1 for value in values]
