"""What becomes of a day's corrected images: which are rejected, and whose label contradicts another one.

Both are known before the images are a batch: the archive is ingested as a batch is, into a temporary folder.
"""

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from captcha_assets.atomic_files import fetched
from captcha_assets.dataset import DatasetSpec
from captcha_assets.images import label_decisions, table_parts
from captcha_assets.images.table import build_image_table
from captcha_assets.paths import Paths
from captcha_assets.sources import correction_batches


@dataclass(frozen=True)
class RejectedImage:
    """A corrected image that no training can use.

    Attributes:
        inference_ids: the predictions that were corrected.
        label: the label that a person gave.
        reason: as in `rejected_images`.
        detail: one line for a person.
    """

    inference_ids: str
    label: str
    reason: str
    detail: str


@dataclass(frozen=True)
class LabelConflict:
    """A corrected image that has another label elsewhere, and waits for a decision.

    Attributes:
        inference_ids: the predictions that were corrected.
        image_id: names the image in `label_decisions.csv`.
        label: the label that a person gave.
        sources: which file states which label, in one line.
    """

    inference_ids: str
    image_id: str
    label: str
    sources: str


@dataclass(frozen=True)
class CorrectedImages:
    """The corrected images of a day that do not reach the splits."""

    rejected: tuple[RejectedImage, ...] = ()
    conflicts: tuple[LabelConflict, ...] = ()


def corrected_images(paths: Paths, day: str, spec: DatasetSpec) -> CorrectedImages:
    """Look at the archive of a day's corrected images as `image_table` and `image_index` will.

    Args:
        paths: where the archive, the predictions of the day and the index lie.
        day: YYYY-MM-DD.
        spec: what the images look like.
    """
    named = _inference_ids(paths, day)
    if not named:
        return CorrectedImages()
    with tempfile.TemporaryDirectory() as temporary:
        table, rejects = Path(temporary, "images.parquet"), Path(temporary, "rejected.parquet")
        batch = correction_batches.batch_name(day)
        with fetched(paths.corrections(day)) as archive:
            build_image_table(archive, batch, table, rejects, spec, processes=0)
        images = pl.read_parquet(table, columns=["image_id", "batch", "member", "label"])
        rejected = pl.read_parquet(rejects)
    return CorrectedImages(
        tuple(_rejected(rejected, named)), tuple(_conflicts(paths, batch, images, named, spec))
    )


def _inference_ids(paths: Paths, day: str) -> dict[str, str]:
    """Return the corrected predictions of each image, by the hash of its bytes."""
    rows = pl.scan_parquet(str(paths.prediction_log(day)), glob=False).drop_nulls("correction_id")
    found = rows.select("image_hash", "inference_id").group_by("image_hash", maintain_order=True).all()
    return {image: ", ".join(ids) for image, ids in found.collect().iter_rows()}


def _rejected(rejected: pl.DataFrame, named: Mapping[str, str]) -> Iterator[RejectedImage]:
    for member, reason, detail in rejected.select("member", "reason", "detail").iter_rows():
        label = correction_batches.label_of(member)
        yield RejectedImage(named[correction_batches.image_hash_of(member)], label, reason, detail)


def _conflicts(
    paths: Paths, batch: str, images: pl.DataFrame, named: Mapping[str, str], spec: DatasetSpec
) -> Iterator[LabelConflict]:
    """Yield the images whose label contradicts another one, and about which nobody has decided."""
    source = pl.struct("batch", "member", "label")
    own = images.select("image_id", source=source)
    sources = pl.concat([own, _known_sources(paths, batch, images)]).group_by("image_id").agg("source")
    labels = pl.col("source").list.eval(pl.element().struct.field("label")).list.n_unique()
    contradicting = sources.filter(labels > 1, ~pl.col("image_id").is_in(_decided(paths, spec)))
    for row in images.join(contradicting, on="image_id").sort("member").iter_rows(named=True):
        ids = named[correction_batches.image_hash_of(row["member"])]
        others = [one for one in row["source"] if (one["batch"], one["member"]) != (batch, row["member"])]
        yield LabelConflict(ids, row["image_id"], row["label"], label_decisions.claims(others))


def _known_sources(paths: Paths, batch: str, images: pl.DataFrame) -> pl.DataFrame:
    """Return `image_id` and `source` of what other batches state about some images."""
    if not table_parts.exists(paths.image_index):
        return images.clear().select("image_id", source=pl.struct("batch", "member", "label"))
    known = table_parts.scan(paths.image_index).select("image_id", source="sources")
    rows = known.join(images.lazy().select("image_id").unique(), on="image_id").explode("source")
    return rows.filter(pl.col("source").struct.field("batch") != batch).collect()


def _decided(paths: Paths, spec: DatasetSpec) -> list[str]:
    """Return the images that somebody decided about; none where the file cannot be followed."""
    if label_decisions.problem(paths.label_decisions, spec):
        return []  # `image_index` and the status say so
    return label_decisions.read_decisions(paths.label_decisions, spec)["image_id"].to_list()
