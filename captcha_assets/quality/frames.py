"""What the expectations look at: narrow frames made of the tables, never the pixels themselves."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from captcha_assets.dataset import CLASS_SHARES
from captcha_assets.images.index import LABEL_CONFLICT, USABLE
from captcha_assets.images.splits import TIES_SPLITS
from captcha_assets.quality import thresholds
from captcha_assets.storage import AnyPath

#: Reading these costs more than all the others together.
_WIDE = {"pixels", "signature", "sources"}


class QualityError(ValueError):
    """A table that cannot be judged at all; the message names it and says what to do."""


@dataclass(frozen=True)
class Frame:
    """What one suite judges.

    Attributes:
        rows: a narrow table.
        key: the columns that say which row is meant.
        unit: what a row is, in the plural.
    """

    rows: pl.DataFrame
    key: tuple[str, ...]
    unit: str


def scan(path: AnyPath) -> pl.LazyFrame:
    """Open a Parquet table.

    Raises:
        QualityError: there is none, or it cannot be read.
    """
    try:
        lazy = pl.scan_parquet(str(path), glob=False)
        lazy.collect_schema()
    except FileNotFoundError as error:
        raise QualityError(f"{path} does not exist: materialize it first") from error
    except (OSError, pl.exceptions.PolarsError) as error:
        raise QualityError(f"{path} cannot be read as Parquet ({error}): materialize it again") from error
    return lazy


def columns(lazy: pl.LazyFrame, wanted: pa.Schema) -> Frame:
    """One row for each wanted column: the type it has and should have, the number of its empty values."""
    schema, types = lazy.collect_schema(), polars_schema(wanted)
    counted = [name for name in types if name in schema and name not in _WIDE]
    filled = [name for name in counted if not wanted.field(name).nullable]
    empty = lazy.select(_empty(name, schema[name]).sum() for name in filled).collect().row(0, named=True)
    rows = pl.DataFrame(
        {
            "column": list(types),
            "type": [str(schema[name]) if name in schema else "missing" for name in types],
            "expected": [str(dtype) for dtype in types.values()],
            "empty": [empty.get(name, 0) for name in types],
        },
        schema_overrides={"empty": pl.Int64},
    )
    return Frame(rows, ("column", "type", "expected", "empty"), "columns")


def polars_schema(schema: pa.Schema) -> dict[str, pl.DataType]:
    """The columns and types of a table as Polars names them."""
    return dict(pl.DataFrame(schema.empty_table()).schema)


def _empty(name: str, dtype: pl.DataType) -> pl.Expr:
    column = pl.col(name)
    return column.is_null() | column.is_nan() if dtype.is_float() else column.is_null()


def sound(frame: Frame) -> bool:
    """Whether the types are right (`columns`), so that anything else can be judged."""
    return frame.rows.filter(pl.col("type") != pl.col("expected")).is_empty()


def images(path: AnyPath) -> Frame:
    """One row for each image of a delivery: names, label, number of pixels, statistics."""
    narrow = scan(path).select("image_id", "member", "label", "brightness", "contrast", "ink").collect()
    rows = narrow.with_columns(_lengths(path, "pixels").alias("pixel_bytes"))
    return Frame(rows, ("image_id", "member", "label"), "images")


def _lengths(path: AnyPath, column: str) -> pl.Series:
    """Bytes of each value of a binary column, none for an empty one."""
    # One row group at a time: Polars and pyarrow's batches read ahead as far as the file goes.
    with path.open("rb") as opened:
        file = pq.ParquetFile(opened)
        groups = (file.read_row_group(group, [column]) for group in range(file.num_row_groups))
        lengths = [pc.binary_length(group[column]).to_numpy(zero_copy_only=False) for group in groups]
    return pl.Series(np.concatenate([*lengths, []])).fill_nan(0).cast(pl.Int32)


def delivery(usable: int, rejected: int) -> Frame:
    """One row: how many members a delivery has, how many of them are usable and refused."""
    members = usable + rejected
    share = rejected / members if members else 0.0
    rows = pl.DataFrame(
        {"members": [members], "usable": [usable], "rejected": [rejected], "share_rejected": [share]}
    )
    return Frame(rows, ("members", "usable", "rejected"), "deliveries")


def classes(rows: pl.DataFrame) -> Frame:
    """One row for each known class: how many images it has, and the range that counts as balanced.

    Balanced among the classes that are there: an absent one is another check's matter.
    """
    known = pl.DataFrame({"label": list(CLASS_SHARES), "known_share": list(CLASS_SHARES.values())})
    counted = known.join(
        rows.group_by("label").len("images"), on="label", how="left", maintain_order="left"
    ).with_columns(pl.col("images").fill_null(0).cast(pl.Int64))
    total = pl.col("images").sum()
    present = pl.when(pl.col("images") > 0).then("known_share").otherwise(0.0)
    balanced = (present / present.sum()).fill_nan(0.0)
    expected = total * balanced
    chance = thresholds.CLASS_SIGMAS * (expected * (1 - balanced)).sqrt()
    slack = pl.max_horizontal(thresholds.CLASS_TOLERANCE * expected, chance)
    with_range = counted.with_columns(
        balanced=balanced,
        share=(pl.col("images") / total).fill_nan(0.0),
        lowest=(expected - slack).floor().clip(0),
        highest=(expected + slack).ceil(),
    )
    return Frame(with_range, ("label", "images", "share", "known_share"), "classes")


def index(table: pl.LazyFrame) -> Frame:
    """One row for each image of the index."""
    narrow = table.select("image_id", "label", "status", "group", "batch", "member")
    rows = narrow.with_columns(label_as_judged=_label_as_judged()).collect(engine="streaming")
    return Frame(rows, ("image_id", "batch", "member"), "images")


def grouped(rows: pl.DataFrame) -> Frame:
    """One row for each image whose group is named after another one, with the group of that other one."""
    others = rows.filter(pl.col("group") != pl.col("image_id")).drop("label_as_judged")
    roots = rows.select(group="image_id", group_of_root="group").unique("group", keep="first")
    joined = others.join(roots, on="group", how="left", maintain_order="left")
    return Frame(joined, ("image_id", "batch", "member"), "images in groups of others")


def conflicts(table: pl.LazyFrame, at_most: int) -> pl.DataFrame:
    """The first images with contradicting labels; `sources` says which file claims which label."""
    source = pl.element().struct
    claim = pl.format("{}/{}: {}", source.field("batch"), source.field("member"), source.field("label"))
    some = table.filter(pl.col("status") == LABEL_CONFLICT).sort("image_id").head(at_most)
    claims = pl.col("sources").list.eval(claim).list.join("; ")
    return some.select("image_id", "batch", "copies", claims.alias("sources")).collect()


def _label_as_judged() -> pl.Expr:
    """What the label is, or why it is wrong that it is there or not."""
    usable, label = pl.col("status") == USABLE, pl.col("label")
    return (
        pl.when(usable)
        .then(label.fill_null("(no label)"))
        .otherwise(pl.when(label.is_null()).then(pl.lit("none")).otherwise(pl.lit("(label in conflict)")))
    )


def placed(splits: pl.LazyFrame, index_table: pl.LazyFrame) -> Frame:
    """One row for each image of the splits, with what the index says of it."""
    known = index_table.select(
        "image_id", pl.col("label").alias("label_in_index"), pl.col("status").alias("status_in_index")
    ).unique("image_id", keep="any")
    rows = splits.select("image_id", "label", "group", "split", "held_back", "batch", "sample_key")
    has_split, has_reason = pl.col("split").is_not_null(), pl.col("held_back").is_not_null()
    joined = rows.join(known, on="image_id", how="left", maintain_order="left").with_columns(
        places=has_split.cast(pl.Int8) + has_reason.cast(pl.Int8),
        status_of_placed=pl.when(has_split).then("status_in_index"),
        label_if_usable=pl.when(pl.col("status_in_index") == USABLE).then("label"),
    )
    return Frame(joined.collect(engine="streaming"), ("image_id", "label", "split", "batch"), "images")


def extremes(rows: pl.DataFrame, what: str) -> Frame:
    """One row for each image or group (column `what`) of several rows: the first and last of its splits."""
    spread = (
        rows.lazy()
        .filter(pl.col("split").is_not_null())
        .group_by(what)
        .agg(one_split=pl.col("split").min(), other_split=pl.col("split").max(), rows=pl.len())
        .filter(pl.col("rows") > 1)
        .sort(what)
    )
    return Frame(spread.collect(), (what, "one_split", "other_split"), f"{what}s")


def share(part: int, whole: int, unit: str) -> Frame:
    """One row: the share that `part` is of `whole`."""
    return Frame(pl.DataFrame({"share": [part / whole if whole else 0.0]}), ("share",), unit)


def ratios(rows: pl.DataFrame, wanted: Mapping[str, float]) -> Frame:
    """One row for each class and split: how many images, how many there should be, what is allowed."""
    placed_rows = rows.filter(pl.col("split").is_not_null(), pl.col("label").is_not_null())
    groups = (
        placed_rows.group_by("label", "group").len().group_by("label").agg(largest_group=pl.col("len").max())
    )
    totals = placed_rows.group_by("label").len("of_class").join(groups, on="label")
    counted = placed_rows.group_by("label", "split").len("images")
    shares = pl.DataFrame({"split": list(wanted), "wanted": list(wanted.values())})
    every = totals.join(shares, how="cross").join(counted, on=["label", "split"], how="left")
    should = pl.col("wanted") * pl.col("of_class")
    return Frame(
        _with_slack(every, should).sort("label", "split"), ("label", "split", "images", "should"), "places"
    )


def _with_slack(every: pl.DataFrame, should: pl.Expr) -> pl.DataFrame:
    def slack(images: float, share: float) -> pl.Expr:
        return pl.max_horizontal(pl.lit(images), share * pl.col("of_class"), pl.col("largest_group"))

    # A millionth absorbs what the decimal shares lose as binary fractions.
    return every.with_columns(
        pl.col("images").fill_null(0).cast(pl.Int64), should=should.round(2)
    ).with_columns(
        off=(pl.col("images") - should).abs(),
        allowed_exactly=slack(thresholds.EXACT_IMAGES, thresholds.EXACT_SHARE) + 1e-6,
        allowed_roughly=slack(thresholds.ROUGH_IMAGES, thresholds.ROUGH_SHARE) + 1e-6,
    )


def missing_images(splits: pl.LazyFrame, index_table: pl.LazyFrame) -> Frame:
    """One row for each usable image of the index that has no row in the splits."""
    usable = index_table.filter(pl.col("status") == USABLE).select("image_id", "label", "batch")
    absent = usable.join(splits.select("image_id"), on="image_id", how="anti", maintain_order="left")
    return Frame(absent.collect(engine="streaming"), ("image_id", "label", "batch"), "images")


def near_duplicates(rows: pl.DataFrame, index_table: pl.LazyFrame) -> Frame:
    """One row for each placed image of a near-duplicate group, beside the first placed image of its group.

    Groups that hold an image held back for tying two splits are left out: without that image they are
    several groups.
    """
    place = (
        rows.lazy().select("image_id", "split", "batch").drop_nulls("split").unique("image_id", keep="any")
    )
    grouped = index_table.select("image_id", "label", "group")
    ties = rows.lazy().filter(pl.col("held_back") == TIES_SPLITS).select("image_id")
    tied = grouped.join(ties, on="image_id", how="semi").select("group")
    members = grouped.join(tied, on="group", how="anti").join(place, on="image_id").sort("image_id")
    first = members.unique("group", keep="first").drop("label")
    pairs = (
        first.join(members, on="group", suffix="_of_near_duplicate")
        .rename({"image_id_of_near_duplicate": "near_duplicate"})
        .filter(pl.col("image_id") != pl.col("near_duplicate"))
        .sort("image_id", "near_duplicate")
    )
    return Frame(
        pairs.collect(), ("image_id", "near_duplicate", "label", "batch", "batch_of_near_duplicate"), "pairs"
    )
