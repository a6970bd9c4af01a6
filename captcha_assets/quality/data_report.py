"""The data report: what all batches together hold, as one page of HTML that needs nothing beside it.

It shows the way from files to splits, the classes with examples, the batches with their statistics, what was
rejected and why, and the largest groups of near-duplicates. It states the data versions of the index and the
splits that it was made of. The same tables give the same bytes.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import polars as pl

from captcha_assets.atomic_files import AnyPath, regular, replacing
from captcha_assets.dataset import DatasetSpec
from captcha_assets.images import table_parts
from captcha_assets.images.index import LABEL_CONFLICT
from captcha_assets.images.split_assignment import SPLITS
from captcha_assets.images.table import IMAGE_TABLE_SCHEMA, REJECTED_SCHEMA
from captcha_assets.images.table_files import scan_tables
from captcha_assets.paths import Paths
from captcha_assets.quality import example_images, report
from captcha_assets.quality.overview import BatchOverview, describe_batches

#: Images that are shown of each class, and of each group of near-duplicates.
EXAMPLES = 12
#: Row groups of the image tables that examples are taken from: all batches would be too much to read.
ROW_GROUPS = 40
#: Groups of near-duplicates, and rejected files, that are shown.
GROUPS, REJECTS = 6, 12
#: Batches that are shown at most; the page says how many there are.
BATCHES = 200

#: Bytes at the beginning of the page that state the data versions.
_HEAD = 2_000

#: The statistics of an image that are shown, and the greatest value of each.
STATISTICS = {"brightness": 255.0, "contrast": 127.5, "foreground_fraction": 1.0}


class Stage(NamedTuple):
    """One step from files to splits: what is left after it, and what it left out."""

    name: str
    left: int
    lost: int
    why: str


class Class(NamedTuple):
    """A class: its images in each split, and some of them as base64 PNG."""

    name: str
    splits: Mapping[str, int]
    images: Sequence[str]

    @property
    def total(self) -> int:
        """Number of its images that have a split."""
        return sum(self.splits.values())


class Range(NamedTuple):
    """A statistic of the images of a batch: the mean, and between which values nine of ten lie."""

    mean: float
    low: float
    high: float


class Batch(NamedTuple):
    """A batch: its counts and checks, and the range of each statistic, which an empty batch has none of."""

    counts: BatchOverview
    statistics: Mapping[str, Range]

    @property
    def level(self) -> str:
        """How its checks are coloured."""
        if self.counts.checks == "passed":
            return "passed"
        return "warning" if self.counts.checks.startswith("passed") else "failed"


class Group(NamedTuple):
    """A group of near-duplicates: its class, its size, and some of its images as base64 PNG."""

    label: str
    size: int
    images: Sequence[str]


@dataclass(frozen=True)
class DataReport:
    """A written report.

    Attributes:
        path: of the page.
        version: data version, a hash of the page.
        images: number of distinct images.
        classes: number of images with a split by class.
    """

    path: AnyPath
    version: str
    images: int
    classes: Mapping[str, int]


def write_data_report(paths: Paths, batches: Sequence[str], spec: DatasetSpec) -> DataReport:
    """Write the report of the tables of a home; it is complete or absent.

    Args:
        paths: where the tables lie.
        batches: the batches that are registered.
        spec: the classes, and what the images look like.

    Raises:
        MissingTableError: the index or the splits are not there.
        DamagedTableError: one of them cannot be read.
    """
    versions = _versions_now(paths, batches)
    there = [name for name in sorted(batches) if paths.image_table(name).exists()]
    tables = {name: paths.image_table(name) for name in there}
    overviews = describe_batches(paths, there)
    rejected = scan_tables([paths.rejected_images(name) for name in there], REJECTED_SCHEMA)
    splits, index = table_parts.scan(paths.splits), table_parts.scan(paths.image_index)
    classes = list(_classes(splits, tables, spec))
    stages = _stages(overviews, index, splits)
    page = report.template("data_report.html.jinja").render(
        spec=spec,
        versions=versions,
        stages=stages,
        classes=classes,
        largest=max((one.total for one in classes), default=1),
        splits=SPLITS,
        batches=list(_batches(overviews[:BATCHES], tables)),
        all_batches=len(there),
        statistics=STATISTICS,
        rejects=_rejects(rejected),
        rejected=_rejected(rejected),
        groups=_groups(index, tables, spec),
        shown_groups=GROUPS,
    )
    content = page.encode("utf-8", "backslashreplace")
    with replacing(paths.data_report) as part:
        part.write_bytes(content)
    images = index.select(pl.len()).collect().item()
    version = hashlib.sha256(content).hexdigest()
    return DataReport(paths.data_report, version, images, {one.name: one.total for one in classes})


def is_outdated(paths: Paths, batches: Sequence[str]) -> bool:
    """Return whether index, splits or batches with a table are others than those that the report was made of.

    It reads the head of the page and the manifests of the two tables. A report of an earlier version of the
    code states no versions, and counts as outdated.

    Args:
        paths: where the tables lie.
        batches: the batches that are registered.

    Raises:
        MissingTableError, DamagedTableError: there is no index or there are no splits.
        OSError, ValueError: the report or a table cannot be read.
    """
    with regular(paths.data_report).open("rb") as page:
        head = page.read(_HEAD).decode(errors="replace")
    stated = dict(re.findall(r'<meta name="data-version-([a-z_]+)" content="(\w+)">', head))
    return stated != _versions_now(paths, batches)


def _versions_now(paths: Paths, batches: Sequence[str]) -> dict[str, str]:
    tables = {path.stem for path in (paths.artifact_root / "image_table").glob("*.parquet")}
    names = "\n".join(sorted(tables & set(batches)))
    return {
        "image_index": table_parts.version_of(paths.image_index),
        "splits": table_parts.version_of(paths.splits),
        "batches": hashlib.sha256(names.encode()).hexdigest()[:32],
    }


def _stages(overviews: Sequence[BatchOverview], index: pl.LazyFrame, splits: pl.LazyFrame) -> list[Stage]:
    """Return the way from the files of all batches to the images of the splits."""
    files = sum(one.delivered or 0 for one in overviews)
    usable = sum(one.usable or 0 for one in overviews)
    indexed = index.select(pl.len(), copies=pl.col("copies").sum()).collect().row(0, named=True)
    conflicts = index.filter(pl.col("status") == LABEL_CONFLICT).select(pl.len()).collect().item()
    assigned = splits.select(pl.col("split").is_not_null().sum()).collect().item()
    distinct = indexed["len"]
    copies = indexed["copies"] or 0
    return [
        Stage("files", files, 0, ""),
        Stage("usable", usable, files - usable, "rejected, each with a reason"),
        Stage("of batches that passed", copies, usable - copies, "in quarantined batches"),
        Stage("distinct", distinct, copies - distinct, "exact copies of another file"),
        Stage("of one label", distinct - conflicts, conflicts, "labels contradict each other"),
        Stage("with a split", assigned, distinct - conflicts - assigned, "near-duplicates in two splits"),
    ]


def _classes(splits: pl.LazyFrame, tables: Mapping[str, AnyPath], spec: DatasetSpec) -> Iterator[Class]:
    """Yield every class, in the order of the data set, with images of any batch."""
    assigned = splits.filter(pl.col("split").is_not_null())
    counts: dict[tuple[str, str], int] = {
        (label, split): number
        for label, split, number in assigned.group_by("label", "split").len().collect().iter_rows()
    }
    looked_at = example_images.ids_spread_over(tables, ROW_GROUPS)
    first = (
        assigned.filter(pl.col("image_id").is_in(looked_at.implode()))
        .select("image_id", "label", "batch")
        .sort("image_id")
        .group_by("label", maintain_order=True)
        .head(EXAMPLES)
        .collect()
    )
    images = example_images.of_rows(first.to_dicts(), tables, spec)
    for name in spec.classes:
        ids = first.filter(pl.col("label") == name)["image_id"]
        shown = [images[one] for one in ids if one in images]
        yield Class(name, {split: counts.get((name, split), 0) for split in SPLITS}, shown)


def _batches(overviews: Sequence[BatchOverview], tables: Mapping[str, AnyPath]) -> Iterator[Batch]:
    for one in overviews:
        yield Batch(one, _statistics(tables[one.batch]) if one.usable else {})


def _statistics(table: AnyPath) -> dict[str, Range]:
    columns = [pl.col(name) for name in STATISTICS]
    found = (
        scan_tables([table], IMAGE_TABLE_SCHEMA)
        .select(
            *(one.mean().name.suffix("_mean") for one in columns),
            *(one.quantile(0.05).name.suffix("_low") for one in columns),
            *(one.quantile(0.95).name.suffix("_high") for one in columns),
        )
        .collect()
        .row(0, named=True)
    )
    return {
        name: Range(*(found[f"{name}_{part}"] for part in ("mean", "low", "high"))) for name in STATISTICS
    }


def _rejects(rejected: pl.LazyFrame) -> list[tuple[str, int]]:
    """Return how many files were rejected for each reason, the commonest first."""
    counts = rejected.group_by("reason").len().sort(["len", "reason"], descending=[True, False]).collect()
    return [(str(reason), int(number)) for reason, number in counts.iter_rows()]


def _rejected(rejected: pl.LazyFrame) -> list[dict[str, Any]]:
    """Return some rejected files: one of each batch and reason, then others."""
    number = pl.int_range(pl.len()).over("batch", "reason")
    rows = rejected.sort("batch", "member").with_columns(number=number).sort("number", "batch", "member")
    return rows.select("batch", "member", "reason", "detail").head(REJECTS).collect().to_dicts()


def _groups(index: pl.LazyFrame, tables: Mapping[str, AnyPath], spec: DatasetSpec) -> list[Group]:
    """Return the largest groups of near-duplicates."""
    sizes = index.group_by("group").agg(size=pl.len(), label=pl.col("label").first())
    largest = sizes.filter(pl.col("size") > 1).sort(["size", "group"], descending=[True, False])
    chosen = largest.head(GROUPS).collect()
    members = (
        index.filter(pl.col("group").is_in(chosen["group"].implode()))
        .select("image_id", "batch", "group")
        .sort("image_id")
        .collect()
    )
    first = members.group_by("group", maintain_order=True).head(EXAMPLES)
    images = example_images.of_rows(first.select("image_id", "batch").to_dicts(), tables, spec)
    return [
        Group(label, size, [images[one] for one in first.filter(group=group)["image_id"] if one in images])
        for group, size, label in chosen.iter_rows()
    ]
