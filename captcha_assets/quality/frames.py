"""What is measured of the tables: counts, shares, and the rows that are not as they should be.

Every row is looked at here, by Polars; what comes out is small, however large the table.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from captcha_assets.dataset import DatasetSpec
from captcha_assets.images.frames import repeated
from captcha_assets.images.index import LABEL_CONFLICT, USABLE
from captcha_assets.quality import thresholds
from captcha_assets.quality.verdict import MAX_EXAMPLES
from captcha_assets.storage import AnyPath

#: Reading these costs more than all the others together.
_WIDE = {"pixels", "signature", "sources"}


class QualityError(ValueError):
    """A table that cannot be judged at all; the message names it and says what to do."""


@dataclass(frozen=True)
class Unexpected:
    """Rows that are not as they should be.

    Attributes:
        total: how many there are.
        whole: of how many.
        unit: what a row is, in the plural.
        examples: the first of them.
    """

    total: int
    whole: int
    unit: str
    examples: pl.DataFrame


def unexpected(rows: pl.DataFrame, wrong: pl.Expr | pl.Series, shown: Sequence[str], unit: str) -> Unexpected:
    """Find the rows that are wrong (null counts as right); the columns `shown` say which they are."""
    found = rows.filter(wrong).select(shown)
    return Unexpected(len(found), len(rows), unit, found.head(MAX_EXAMPLES))


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


def rows(lazy: pl.LazyFrame) -> int:
    """Number of rows of a table."""
    return int(lazy.select(pl.len()).collect().item())


def columns(lazy: pl.LazyFrame, wanted: pa.Schema) -> pl.DataFrame:
    """One row for each wanted column: the type it has and should have, the number of its empty values."""
    schema, types = lazy.collect_schema(), polars_schema(wanted)
    counted = [name for name in types if name in schema and name not in _WIDE]
    filled = [name for name in counted if not wanted.field(name).nullable]
    counts = lazy.select(_empty(name, schema[name]).sum() for name in filled)
    empty = counts.collect(engine="streaming").row(0, named=True)
    return pl.DataFrame(
        {
            "column": list(types),
            "type": [str(schema[name]) if name in schema else "missing" for name in types],
            "expected": [str(dtype) for dtype in types.values()],
            "empty": [empty.get(name, 0) for name in types],
        },
        schema_overrides={"empty": pl.Int64},
    )


def polars_schema(schema: pa.Schema) -> dict[str, pl.DataType]:
    """The columns and types of a table as Polars names them."""
    return dict(pl.DataFrame(schema.empty_table()).schema)


def _empty(name: str, dtype: pl.DataType) -> pl.Expr:
    column = pl.col(name)
    return column.is_null() | column.is_nan() if dtype.is_float() else column.is_null()


def sound(described: pl.DataFrame) -> bool:
    """Whether the types are right (`columns`), so that anything else can be judged."""
    return described.filter(pl.col("type") != pl.col("expected")).is_empty()


def images(path: AnyPath) -> pl.DataFrame:
    """One row for each image of a delivery: names, label, number of pixels, statistics."""
    narrow = (
        scan(path)
        .select("image_id", "member", "label", "brightness", "contrast", "foreground_fraction")
        .collect()
    )
    return narrow.with_columns(_lengths(path, "pixels").alias("pixel_bytes"))


def _lengths(path: AnyPath, column: str) -> pl.Series:
    """Bytes of each value of a binary column, none for an empty one."""
    # One row group at a time: Polars and pyarrow's batches read ahead as far as the file goes.
    with path.open("rb") as opened:
        file = pq.ParquetFile(opened)
        groups = (file.read_row_group(group, [column]) for group in range(file.num_row_groups))
        lengths = [pc.binary_length(group[column]).to_numpy(zero_copy_only=False) for group in groups]
    return pl.Series(np.concatenate([*lengths, []])).fill_nan(0).cast(pl.Int32)


def classes(rows: pl.DataFrame, spec: DatasetSpec) -> pl.DataFrame:
    """One row for each known class: how many images it has, and the range that counts as balanced.

    Balanced among the classes that are there: an absent one is another check's matter.
    """
    shares = spec.class_shares or dict.fromkeys(spec.classes, 1 / len(spec.classes))
    known = pl.DataFrame({"label": list(shares), "known_share": list(shares.values())})
    counted = known.join(
        rows.group_by("label").len("images"), on="label", how="left", maintain_order="left"
    ).with_columns(pl.col("images").fill_null(0).cast(pl.Int64))
    total = pl.col("images").sum()
    present = pl.when(pl.col("images") > 0).then("known_share").otherwise(0.0)
    balanced = (present / present.sum()).fill_nan(0.0)
    expected = total * balanced
    chance = thresholds.CLASS_SIGMAS * (expected * (1 - balanced)).sqrt()
    slack = pl.max_horizontal(thresholds.CLASS_TOLERANCE * expected, chance)
    return counted.with_columns(
        balanced=balanced,
        share=(pl.col("images") / total).fill_nan(0.0),
        lowest=(expected - slack).floor().clip(0),
        highest=(expected + slack).ceil(),
    )


def index(table: pl.LazyFrame) -> pl.DataFrame:
    """One row for each image of the index."""
    narrow = table.select("image_id", "label", "status", "group", "batch", "member")
    return narrow.with_columns(label_as_judged=_label_as_judged()).collect(engine="streaming")


def grouped(rows: pl.DataFrame) -> pl.DataFrame:
    """One row for each image whose group is named after another one, with the group of that other one."""
    others = rows.filter(pl.col("group") != pl.col("image_id")).drop("label_as_judged")
    named = others.select(image_id="group").unique()
    roots = rows.select("image_id", group_of_root="group").join(named, on="image_id", how="semi")
    first = roots.unique("image_id", keep="first").rename({"image_id": "group"})
    return others.join(first, on="group", how="left", maintain_order="left")


def conflicts(table: pl.LazyFrame) -> pl.DataFrame:
    """The first images with contradicting labels; `sources` says which file claims which label."""
    source = pl.element().struct
    claim = pl.format("{}/{}: {}", source.field("batch"), source.field("member"), source.field("label"))
    some = table.filter(pl.col("status") == LABEL_CONFLICT).sort("image_id").head(MAX_EXAMPLES)
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


def known_images(index_table: pl.LazyFrame) -> pl.DataFrame:
    """What the index says of each image, as far as the splits are judged by it."""
    return index_table.select("image_id", "label", "status", "group", "batch").collect(engine="streaming")


def placed(splits: pl.LazyFrame, known: pl.DataFrame, recorded: pl.DataFrame) -> pl.DataFrame:
    """One row for each image of the splits, with what the index and the record of assignments say of it."""
    said = known.select("image_id", label_in_index="label", status_in_index="status")
    rows = splits.select("image_id", "label", "group", "split", "exclusion_reason", "batch")
    record = recorded.select("image_id", recorded_split="split", recorded_label="label")
    has_split, has_reason = pl.col("split").is_not_null(), pl.col("exclusion_reason").is_not_null()
    both = beside(rows.collect(engine="streaming"), said)
    return both.join(record, on="image_id", how="left", maintain_order="left").with_columns(
        places=has_split.cast(pl.Int8) + has_reason.cast(pl.Int8),
        status_of_placed=pl.when(has_split).then("status_in_index"),
        label_if_usable=pl.when(pl.col("status_in_index") == USABLE).then("label"),
    )


def beside(rows: pl.DataFrame, said: pl.DataFrame) -> pl.DataFrame:
    """Put what is said of each image beside its row; null where nothing is."""
    if rows["image_id"].equals(said["image_id"]):  # both tables are in order of their images
        return pl.concat([rows, said.drop("image_id")], how="horizontal")
    once = said.unique("image_id", keep="any")
    return rows.join(once, on="image_id", how="left", maintain_order="left")


def extremes(rows: pl.DataFrame, what: str) -> pl.DataFrame:
    """One row for each image or group (column `what`) of several rows: the first and last of its splits."""
    return (
        rows.filter(repeated(rows[what]) & rows["split"].is_not_null())
        .group_by(what)
        .agg(one_split=pl.col("split").min(), other_split=pl.col("split").max(), rows=pl.len())
        .filter(pl.col("rows") > 1)
        .sort(what)
    )


def uneven_classes(rows: pl.DataFrame, recorded: pl.DataFrame) -> list[str]:
    """The classes that lost or gained assigned images: by a removal, an exclusion or another label."""
    there = rows.filter(pl.col("split").is_not_null())
    moved = there.filter(pl.col("label") != pl.col("recorded_label"))
    lost = recorded.join(there, on=["image_id", "label"], how="anti")
    return pl.concat([lost["label"], moved["label"]]).unique().sort().to_list()


def ratios(rows: pl.DataFrame, wanted: Mapping[str, float], uneven: Sequence[str] = ()) -> pl.DataFrame:
    """One row for each class and split: how many images, how many there should be, what is allowed.

    Of the classes in `uneven`, nothing exact is expected: `allowed_exactly` is null.
    """
    placed_rows = rows.select("label", "group", "split").drop_nulls(["label", "split"])
    shared = placed_rows.filter(repeated(placed_rows["group"]))
    sizes = shared.group_by("label", "group").len().group_by("label").agg(largest_group=pl.col("len").max())
    counted = placed_rows.group_by("label", "split").len("images")
    totals = counted.group_by("label").agg(of_class=pl.col("images").sum())
    totals = totals.join(sizes, on="label", how="left").with_columns(pl.col("largest_group").fill_null(1))
    shares = pl.DataFrame({"split": list(wanted), "wanted": list(wanted.values())})
    # in this order: of a single class on the left, Polars would make columns of length 1
    every = shares.join(totals, how="cross").join(counted, on=["label", "split"], how="left")
    should = pl.col("wanted") * pl.col("of_class")
    promised = pl.when(~pl.col("label").is_in(list(uneven))).then("allowed_exactly")
    return _with_slack(every, should).with_columns(allowed_exactly=promised).sort("label", "split")


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


def missing_images(rows: pl.DataFrame, known: pl.DataFrame) -> pl.DataFrame:
    """One row for each usable image of the index that has no row in the splits."""
    here = beside(known, rows.select("image_id", there=pl.lit(value=True)))
    absent = here.filter(pl.col("there").is_null() & (pl.col("status") == USABLE))
    return absent.select("image_id", "label", "batch")


def near_duplicates(rows: pl.DataFrame, known: pl.DataFrame) -> pl.DataFrame:
    """One row for each placed image of a near-duplicate group, beside the first placed image of its group.

    Groups that hold an excluded image are left out: without that image they are several groups.
    """
    shared = known.filter(repeated(known["group"])).select("image_id", "label", "group")
    here = rows.join(shared, on="image_id", how="semi")
    place = here.select("image_id", "split", "batch").drop_nulls("split").unique("image_id", keep="any")
    ties = here.filter(pl.col("exclusion_reason").is_not_null())
    tied = shared.join(ties, on="image_id", how="semi")
    members = shared.join(tied, on="group", how="anti").join(place, on="image_id").sort("image_id")
    first = members.unique("group", keep="first").drop("label")
    return (
        first.join(members, on="group", suffix="_of_near_duplicate")
        .rename({"image_id_of_near_duplicate": "near_duplicate"})
        .filter(pl.col("image_id") != pl.col("near_duplicate"))
        .sort("image_id", "near_duplicate")
    )
