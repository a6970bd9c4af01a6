"""The tables that the suites validate: plain columns without pixels, and what other tables say of each row.

A stored table whose columns are not what they should be gives the columns that are, and nothing derived from
them: the expectations on the others then fail by themselves.
"""

from collections.abc import Mapping

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from captcha_assets.atomic_files import AnyPath
from captcha_assets.dataset import DatasetSpec
from captcha_assets.images import table_parts
from captcha_assets.images.index import INDEX_SCHEMA, LABEL_CONFLICT, USABLE
from captcha_assets.images.split_assignment import SPLITS_SCHEMA
from captcha_assets.images.table import IMAGE_TABLE_SCHEMA
from captcha_assets.images.table_files import polars_schema, repeated
from captcha_assets.quality import suites

#: Tables by the name of the suite that validates them.
DerivedTables = Mapping[str, pl.DataFrame]

#: Reading these costs more than all the others together.
_WIDE = {"pixels", "signature", "descriptors", "sources", "image"}


class ValidationError(ValueError):
    """A table that cannot be validated; the message names it and says what to do."""


def scan(path: AnyPath) -> pl.LazyFrame:
    """Open a Parquet table, in one file or in parts.

    Raises:
        ValidationError: there is none, or it cannot be read.
    """
    try:
        lazy = table_parts.scan(path)
        lazy.collect_schema()
    except FileNotFoundError as error:
        raise ValidationError(f"{path} does not exist: materialize it first") from error
    except (OSError, pl.exceptions.PolarsError) as error:
        raise ValidationError(f"{path} cannot be read as Parquet ({error}): materialize it again") from error
    return lazy


def row_count(lazy: pl.LazyFrame) -> int:
    """Return the number of rows of a table."""
    return int(lazy.select(pl.len()).collect().item())


def of_image_table(table: AnyPath, rejected: AnyPath, spec: DatasetSpec) -> DerivedTables:
    """Return what the suites of an image table validate.

    Args:
        table: the image table of a batch.
        rejected: its rejected members.
        spec: the classes and their known shares.

    Raises:
        ValidationError: a table is absent or cannot be read.
    """
    lazy, rejects = scan(table), scan(rejected).collect()
    columns = _columns(lazy, IMAGE_TABLE_SCHEMA)
    rows = _right_columns(lazy, columns)
    derived = {"columns": columns}
    if _all_right(columns):
        rows = rows.with_columns(_lengths(table, "pixels").alias("pixel_bytes"))
        derived["class_balance"] = _class_balance(rows, spec.class_shares or {})
    return dict(**derived, image_table=pl.concat([rows, _rejected(rejects)], how="diagonal"))


def of_image_index(index: AnyPath) -> DerivedTables:
    """Return what the suites of the image index validate.

    Raises:
        ValidationError: the table is absent or cannot be read.
    """
    lazy = scan(index)
    columns = _columns(lazy, INDEX_SCHEMA)
    rows = _right_columns(lazy, columns)
    if _all_right(columns):
        rows = rows.join(_claims(lazy), on="image_id", how="left", maintain_order="left")
        rows = rows.with_columns(shared_group=pl.when(pl.col("group") != pl.col("image_id")).then("group"))
        rows = rows.join(_groups_of_groups(rows), on="shared_group", how="left", maintain_order="left")
    return {"columns": columns, "image_index": rows}


def of_splits(
    splits: AnyPath, index: AnyPath, recorded: pl.DataFrame, wanted: Mapping[str, float]
) -> DerivedTables:
    """Return what the suites of the splits validate.

    Args:
        splits: the split of every image.
        index: the image index.
        recorded: the recorded split assignments.
        wanted: the share of each split.

    Raises:
        ValidationError: a table is absent or cannot be read.
    """
    lazy, images = scan(splits), scan(index)
    columns = _columns(lazy, SPLITS_SCHEMA)
    rows = _right_columns(lazy, columns)
    if not _all_right(columns):
        return {"columns": columns, "splits": rows}
    known = images.select("image_id", "label", "status", "group", "batch").collect(engine="streaming")
    rows = _with_recorded(_with_index(rows, known), recorded)
    shared = repeated(rows["group"])
    ratios = _split_ratios(rows, shared, wanted, _uneven_classes(rows, recorded))
    rows = _with_near_duplicates(_with_group_split(rows, shared), known)
    rows = rows.with_columns(split_or_reason=_split_or_reason())
    return {
        "columns": columns,
        "splits": pl.concat([rows, _missing_images(rows, known)], how="diagonal"),
        "split_ratios": ratios,
    }


def of_prediction_log(table: AnyPath, schema: pa.Schema, day: str) -> DerivedTables:
    """Return what the suites of a day's predictions validate.

    Args:
        table: the day's predictions.
        schema: the columns that it should have.
        day: `YYYY-MM-DD`.

    Raises:
        ValidationError: the table is absent or cannot be read.
    """
    lazy = scan(table)
    columns = _columns(lazy, schema)
    rows = _right_columns(lazy, columns)
    if _all_right(columns):
        highest = pl.col("probabilities").list.arg_max()
        rows = rows.with_columns(
            day=pl.lit(day),
            day_of_time=pl.col("time").dt.strftime("%Y-%m-%d"),
            probability_sum=pl.col("probabilities").list.sum(),
            highest_probability=pl.col("probabilities").list.max(),
            most_probable_class=pl.col("classes").list.get(highest, null_on_oob=True),
        )
    return {"columns": columns, "prediction_log": rows.select(pl.exclude("classes", "probabilities"))}


# --- the columns of any table


def _columns(lazy: pl.LazyFrame, wanted: pa.Schema) -> pl.DataFrame:
    """Return a row for each wanted column: its type, the type it should have, the number of empty values."""
    schema, types = lazy.collect_schema(), polars_schema(wanted)
    counted = [name for name in types if name in schema and name not in _WIDE]
    required = [name for name in counted if not wanted.field(name).nullable]
    counts = lazy.select(_empty(name, schema[name]).sum() for name in required)
    empty = counts.collect(engine="streaming").row(0, named=True)
    return pl.DataFrame(
        {
            "column": list(types),
            "type": [str(schema[name]) if name in schema else "missing" for name in types],
            "expected_type": [str(dtype) for dtype in types.values()],
            "empty_values": [empty.get(name, 0) for name in types],
        },
        schema_overrides={"empty_values": pl.Int64},
    )


def _empty(name: str, dtype: pl.DataType) -> pl.Expr:
    column = pl.col(name)
    return column.is_null() | column.is_nan() if dtype.is_float() else column.is_null()


def _all_right(columns: pl.DataFrame) -> bool:
    return columns.filter(pl.col("type") != pl.col("expected_type")).is_empty()


def _right_columns(lazy: pl.LazyFrame, columns: pl.DataFrame) -> pl.DataFrame:
    """Return the columns that are of their type, but for the wide ones."""
    right = columns.filter(pl.col("type") == pl.col("expected_type"))["column"]
    return lazy.select(name for name in right if name not in _WIDE).collect(engine="streaming")


# --- an image table


def _lengths(path: AnyPath, column: str) -> pl.Series:
    """Return the bytes of each value of a binary column, none for an empty one."""
    # One row group at a time: Polars and pyarrow's batches read ahead as far as the file goes.
    with path.open("rb") as opened:
        file = pq.ParquetFile(opened)
        groups = (file.read_row_group(group, [column]) for group in range(file.num_row_groups))
        lengths = [pc.binary_length(group[column]).to_numpy(zero_copy_only=False) for group in groups]
    return pl.Series(np.concatenate([*lengths, []])).fill_nan(0).cast(pl.Int32)


def _rejected(rejects: pl.DataFrame) -> pl.DataFrame:
    """Return the rejected members. A few of each reason come first: they say more than ten of the first."""
    nth = pl.int_range(pl.len()).over("reason")
    return rejects.sort(nth, "reason", "member").select("batch", "reason", "detail", rejected_member="member")


def _class_balance(rows: pl.DataFrame, shares: Mapping[str, float]) -> pl.DataFrame:
    """Return a row for each class that has images: how far their number is off, and how far it may be.

    The shares are those among the classes that are there: an absent one is another expectation's matter.
    """
    known = pl.DataFrame(
        {"label": list(shares), "share": list(shares.values())}, {"label": pl.String, "share": pl.Float64}
    )
    counted = known.join(rows.group_by("label").len("images"), on="label", maintain_order="left")
    share, images = pl.col("share") / pl.col("share").sum(), pl.col("images").cast(pl.Int64)
    expected = share * images.sum()
    chance = suites.CLASS_SIGMAS * (expected * (1 - share)).sqrt()
    return counted.select(
        "label",
        images,
        expected_images=expected.round(1),
        deviation=(images - expected).abs(),
        tolerance=pl.max_horizontal(suites.CLASS_TOLERANCE * expected, chance).ceil(),
    )


# --- the image index


def _claims(index: pl.LazyFrame) -> pl.DataFrame:
    """Return `image_id` and `sources` of the images in conflict: which file claims which label."""
    source = pl.element().struct
    claim = pl.format("{}/{}: {}", source.field("batch"), source.field("member"), source.field("label"))
    in_conflict = index.filter(pl.col("status") == LABEL_CONFLICT)
    claims = pl.col("sources").list.eval(claim).list.join("; ")
    return in_conflict.select("image_id", claims.alias("sources")).unique("image_id").collect()


def _groups_of_groups(rows: pl.DataFrame) -> pl.DataFrame:
    """Return `shared_group` and the group of the image that it is named after."""
    named = rows.select("shared_group").drop_nulls().unique()
    groups = rows.select(shared_group="image_id", group_of_group="group")
    return groups.join(named, on="shared_group", how="semi").unique("shared_group", keep="first")


# --- the splits


def _split_or_reason() -> pl.Expr:
    """The split, or why there is none; both where both are there, empty where neither is."""
    return pl.concat_str("split", "exclusion_reason", separator=" and ", ignore_nulls=True)


def _with_index(rows: pl.DataFrame, known: pl.DataFrame) -> pl.DataFrame:
    """Put what the index says of each image beside its row; null where it says nothing."""
    said = known.select("image_id", label_in_index="label", status_in_index="status")
    return _beside(rows, said)


def _beside(rows: pl.DataFrame, said: pl.DataFrame) -> pl.DataFrame:
    if rows["image_id"].equals(said["image_id"]):  # both tables are in order of their images
        return pl.concat([rows, said.drop("image_id")], how="horizontal")
    return rows.join(said.unique("image_id"), on="image_id", how="left", maintain_order="left")


def _with_recorded(rows: pl.DataFrame, recorded: pl.DataFrame) -> pl.DataFrame:
    """Put the recorded split beside the split of each image that has one, and the recorded label."""
    record = recorded.select("image_id", recorded_split="split", recorded_label="label")
    return _beside(rows, record).with_columns(
        recorded_split=pl.when(pl.col("split").is_not_null()).then("recorded_split")
    )


def _with_group_split(rows: pl.DataFrame, shared: pl.Series) -> pl.DataFrame:
    """Put the split of the first image of its group beside each image of a group of several rows."""
    numbered = rows.with_row_index("row")
    first = pl.col("split").drop_nulls().first().over("group")
    named = numbered.filter(shared).sort("image_id", "split").select("row", split_of_group=first)
    return numbered.join(named, on="row", how="left", maintain_order="left").drop("row")


def _with_near_duplicates(rows: pl.DataFrame, known: pl.DataFrame) -> pl.DataFrame:
    """Put the first image of its group, as the index groups them, beside each image that has a split.

    Groups that hold an excluded image are left out: without that image they are several groups.
    """
    shared = known.filter(repeated(known["group"])).select("image_id", index_group="group")
    here = rows.select("image_id", "split", "batch", "exclusion_reason")
    here = here.join(shared, on="image_id").sort("image_id", "split")
    excluded = here.filter(pl.col("exclusion_reason").is_not_null())
    assigned = here.drop_nulls("split").join(excluded, on="index_group", how="anti").unique("image_id")
    first = assigned.sort("image_id").unique("index_group", keep="first")
    named = assigned.select("image_id", "index_group").join(
        first.select(
            "index_group",
            near_duplicate="image_id",
            split_of_near_duplicate="split",
            batch_of_near_duplicate="batch",
        ),
        on="index_group",
    )
    others = named.filter(pl.col("image_id") != pl.col("near_duplicate")).drop("index_group")
    return rows.join(others, on="image_id", how="left", maintain_order="left")


def _missing_images(rows: pl.DataFrame, known: pl.DataFrame) -> pl.DataFrame:
    """Return a row for each usable image of the index that has no row in the splits."""
    here = _beside(known, rows.select("image_id", there=pl.lit(value=True)))
    missing = here.filter(pl.col("there").is_null() & (pl.col("status") == USABLE))
    return missing.select(
        "label", "batch", missing_image="image_id", label_in_index="label", status_in_index="status"
    )


def _uneven_classes(rows: pl.DataFrame, recorded: pl.DataFrame) -> list[str]:
    """Return the classes that lost or gained assigned images: by a removal, an exclusion, another label."""
    assigned = rows.filter(pl.col("split").is_not_null())
    relabelled = assigned.filter(pl.col("label") != pl.col("recorded_label"))
    kept = assigned.filter(pl.col("label") == pl.col("recorded_label")).group_by("label").len("kept")
    were = recorded.group_by("label").len("were")
    lost = were.join(kept, on="label", how="left").filter(pl.col("were").ne_missing(pl.col("kept")))
    return pl.concat([lost["label"], relabelled["label"]]).unique().sort().to_list()


def _split_ratios(
    rows: pl.DataFrame, shared: pl.Series, wanted: Mapping[str, float], uneven: list[str]
) -> pl.DataFrame:
    """Return a row for each class and split: how far its number of images is off, and how far it may be."""
    assigned = rows.select("label", "group", "split").drop_nulls(["label", "split"])
    together = rows.filter(shared).select("label", "group", "split").drop_nulls(["label", "split"])
    sizes = together.group_by("label", "group").len().group_by("label").agg(largest_group=pl.col("len").max())
    counted = assigned.group_by("label", "split").len("images")
    totals = counted.group_by("label").agg(of_class=pl.col("images").sum())
    totals = totals.join(sizes, on="label", how="left").with_columns(pl.col("largest_group").fill_null(1))
    shares = pl.DataFrame({"split": list(wanted), "wanted": list(wanted.values())})
    # in this order: of a single class on the left, Polars would make columns of length 1
    every = shares.join(totals, how="cross").join(counted, on=["label", "split"], how="left")
    expected, images = pl.col("wanted") * pl.col("of_class"), pl.col("images").fill_null(0).cast(pl.Int64)
    exact = _tolerance(suites.EXACT_IMAGES, suites.EXACT_SHARE)
    return every.sort("label", "split").select(
        "label",
        "split",
        images,
        expected_images=expected.round(2),
        deviation=(images - expected).abs(),
        tolerance=_tolerance(suites.ROUGH_IMAGES, suites.ROUGH_SHARE),
        exact_tolerance=pl.when(~pl.col("label").is_in(uneven)).then(exact),
    )


def _tolerance(images: float, share: float) -> pl.Expr:
    """Return so many images, or that share of the class, or its largest group, whichever is more."""
    largest = pl.max_horizontal(pl.lit(images), share * pl.col("of_class"), pl.col("largest_group"))
    return largest + 1e-6  # absorbs what the decimal shares lose as binary fractions
