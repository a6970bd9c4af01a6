"""The place of every image: train, validation or test, once and for ever.

Whoever has a place keeps it; only new images are placed, so that each class comes as near to the
ratios as it can. Near-duplicates go together. The order among new images is that of their `image_id`,
a hash: as good as random, and the same on every machine.
"""

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from captcha_assets.dataset import CLASSES
from captcha_assets.images.frames import repeated, write_frame
from captcha_assets.images.index import LABEL_CONFLICT, USABLE
from captcha_assets.storage import AnyPath, fetched

SPLITS = ("train", "validation", "test")

#: Why an image has no place.
CONFLICT = LABEL_CONFLICT
TIES_SPLITS = "near_duplicate_of_two_splits"

_TEXT = pa.string()
SPLITS_SCHEMA = pa.schema(
    [
        pa.field("image_id", _TEXT, nullable=False),
        pa.field("label", _TEXT),
        pa.field("group", _TEXT, nullable=False),
        pa.field("split", _TEXT),
        pa.field("held_back", _TEXT),
        pa.field("batch", _TEXT, nullable=False),
        pa.field("sample_key", pa.float64()),
    ]
)
COLUMN_DESCRIPTIONS: dict[str, str] = {
    "image_id": "The image's identity: hash of its pixels and size, 32 hex digits.",
    "label": "Its class; empty where its sources contradict each other.",
    "group": "Near-duplicate group, by its smallest image_id; a group never lies in two splits.",
    "split": "train, validation or test; empty for an image held back.",
    "held_back": "Why it has no split: label_conflict, or near_duplicate_of_two_splits.",
    "batch": "The delivery its pixels are taken from.",
    "sample_key": "The images with the smallest keys are a stratified sample; empty where there is no split.",
}
#: The columns of other assets that each column is made from: (asset, column). Places given before are kept.
COLUMN_ORIGINS: dict[str, list[tuple[str, str]]] = {
    "image_id": [("image_index", "image_id")],
    "label": [("image_index", "label")],
    "group": [("image_index", "group")],
    "split": [("image_index", name) for name in ("image_id", "label", "group", "status")],
    "held_back": [("image_index", name) for name in ("status", "label", "group")],
    "batch": [("image_index", "batch"), ("image_index", "sources")],
    "sample_key": [("image_index", name) for name in ("image_id", "label")],
}


_SPLIT = pl.Enum(SPLITS)
_EARLIER = dict.fromkeys(["image_id", "split", "old_label", "old_batch"], pl.String)


class SplitError(ValueError):
    """Ratios or tables that splits cannot be made from."""


@dataclass(frozen=True)
class SplitRatios:
    """Share of each split; they sum to 1."""

    train: float = 0.7
    validation: float = 0.2
    test: float = 0.1

    def __post_init__(self) -> None:
        shares = self.shares
        if shares.min() < 0 or abs(shares.sum() - 1) > 1e-9:
            raise SplitError(f"split ratios {shares.tolist()} must be 0 or more and sum to 1")

    @property
    def shares(self) -> npt.NDArray[np.float64]:
        """The shares in the order of `SPLITS`."""
        return np.array([getattr(self, field.name) for field in fields(self)], np.float64)


DEFAULT_RATIOS = SplitRatios()


@dataclass(frozen=True)
class SplitSummary:
    """What the splits hold.

    Attributes:
        train: images in it; so `validation` and `test`.
        held_back: images without a split.
        by_class: class to split to number of images.
        new: images that have a split now and had none before.
        removed: images that had a split and are no longer in the index.
        version: data version of the splits.
    """

    train: int
    validation: int
    test: int
    held_back: int
    by_class: dict[str, dict[str, int]]
    new: int
    removed: int
    version: str


def assign_splits(
    index: pl.DataFrame | pl.LazyFrame,
    previous: pl.DataFrame | None,
    ratios: SplitRatios = DEFAULT_RATIOS,
) -> pl.DataFrame:
    """Give every image of the index its place.

    Args:
        index: `image_id`, `label`, `status`, `group`, `batch` and `sources` of every image, in any order.
        previous: the splits before, or None; whoever has a split there keeps it.
        ratios: what each class comes as near to as its groups and earlier places allow.

    Returns:
        The splits (`SPLITS_SCHEMA`), a row per image of the index, in order of `image_id`.
    """
    images = _with_places(index.lazy(), previous)
    # most images are alone in their group: only the others need to know of each other
    shared = repeated(images["group"])
    images = pl.concat([_undecided(images.filter(~shared)), _with_ties(images.filter(shared))])
    counts = _counts(images)
    new = images.filter("undecided")
    places = new.join(_place_new(new, counts, ratios), on=["label", "group"]).select("image_id", "new_place")
    images = (
        images.join(places, on="image_id", how="left")
        .with_columns(place=pl.coalesce("place", "new_place"))
        .sort("number")
    )
    images = _with_group_names(images).with_columns(split=pl.col("place").cast(_SPLIT).cast(pl.String))
    return _with_sample_keys(images).select(SPLITS_SCHEMA.names)


def _with_group_names(images: pl.DataFrame) -> pl.DataFrame:
    """Name each group in each place after its smallest image; the images are in order of `image_id`."""
    shared = images.select("number", "image_id", "group", "place").filter(repeated(images["group"]))
    name = pl.col("image_id").first().over("group", "place")
    named = shared.select("number", name=name)
    return (
        images.join(named, on="number", how="left", maintain_order="left")
        .with_columns(group=pl.coalesce("name", "image_id"))
        .drop("name")
    )


def _with_places(index: pl.LazyFrame, previous: pl.DataFrame | None) -> pl.DataFrame:
    """Return the index with each image's earlier `place` (its split's number) and label, and its `number`.

    Conflicts have no place.
    """
    images = index.select("image_id", "label", "group", "batch", "status").collect()
    if not images["image_id"].is_sorted():
        images = images.sort("image_id")
    images = images.with_row_index("number")
    earlier = pl.DataFrame(schema=_EARLIER)
    if previous is not None:
        earlier = previous.select("image_id", "split", old_label="label", old_batch="batch")
    images = images.join(earlier, on="image_id", how="left", maintain_order="left")
    usable = pl.col("status") == USABLE
    return images.join(
        _brought_earlier(index, images), on="image_id", how="left", maintain_order="left"
    ).with_columns(
        place=pl.when(usable).then(pl.col("split").cast(_SPLIT).to_physical()),
        held_back=pl.when(~usable).then(pl.lit(CONFLICT)),
        batch=pl.coalesce("earlier_batch", "batch"),
    )


def _brought_earlier(index: pl.LazyFrame, images: pl.DataFrame) -> pl.DataFrame:
    """Return `image_id`, `earlier_batch` of images that another delivery than now named brought first.

    Another delivery of the same image, whatever its name, is no reason to train again: who brought it
    first stays named as long as that delivery is there.
    """
    renamed = images.filter(pl.col("old_batch") != pl.col("batch"))
    renamed = renamed.select("image_id", earlier_batch="old_batch")
    if renamed.is_empty():
        return renamed
    batches = pl.col("sources").list.eval(pl.element().struct.field("batch"))
    return (
        index.select("image_id", "sources")
        .join(renamed.lazy(), on="image_id")
        .filter(batches.list.contains(pl.col("earlier_batch")))
        .select("image_id", "earlier_batch")
        .collect()
    )


def _with_ties(images: pl.DataFrame) -> pl.DataFrame:
    """Hold back who ties images of two splits together; whoever joins a placed group gets its split.

    Afterwards `undecided` marks the images of groups that have no place yet.
    """
    usable = pl.col("status") == USABLE
    first, last = pl.col("place").min().over("group"), pl.col("place").max().over("group")
    torn = (first != last).fill_null(value=False)
    # a relabelled image is new to its class: it is the one that ties, so it is the one that yields
    relabelled = pl.col("place").is_not_null() & (pl.col("label") != pl.col("old_label"))
    images = images.with_columns(place=pl.when(~(torn & relabelled)).then("place"))
    ties = usable & pl.col("place").is_null() & torn
    images = images.with_columns(
        held_back=pl.when(ties).then(pl.lit(TIES_SPLITS)).otherwise("held_back"),
        place=pl.when(usable & ~ties).then(pl.coalesce("place", first)),
    )
    return _undecided(images)


def _undecided(images: pl.DataFrame) -> pl.DataFrame:
    return images.with_columns(undecided=pl.col("place").is_null() & pl.col("held_back").is_null())


def _counts(images: pl.DataFrame) -> dict[str, npt.NDArray[np.int64]]:
    """Return how many images of each class each split holds already."""
    counts = {label: np.zeros(len(SPLITS), np.int64) for label in images["label"].drop_nulls().unique()}
    for label, place, number in images.drop_nulls("place").group_by("label", "place").len().iter_rows():
        counts[label][place] = number
    return counts


def _place_new(
    images: pl.DataFrame, counts: dict[str, npt.NDArray[np.int64]], ratios: SplitRatios
) -> pl.DataFrame:
    """Return `label`, `group`, `new_place` of the groups of these images.

    Large groups are placed first: the small ones even out what they leave uneven.
    """
    groups = (
        images.group_by("label", "group")
        .agg(size=pl.len())
        .sort("label", "size", "group", descending=[False, True, False])
    )
    final = dict(images.group_by("label").len().iter_rows())
    targets = {label: _targets(counts[label], new, ratios) for label, new in final.items()}
    placed = []
    for (label, size), same in groups.group_by("label", "size", maintain_order=True):
        count = counts[str(label)]
        share = _divide(len(same), (targets[str(label)] - count) / int(str(size)))
        count += share * int(str(size))
        places = pl.Series(np.repeat(np.arange(len(SPLITS)), share), dtype=pl.UInt8)
        placed.append(same.select("label", "group", new_place=places))
    nothing = groups.select("label", "group", new_place=pl.lit(None, pl.UInt8)).clear()
    return pl.concat([nothing, *placed])


def _targets(counts: npt.NDArray[np.int64], new: int, ratios: SplitRatios) -> npt.NDArray[np.float64]:
    """Return how many images each split should hold after `new` more, given that none can leave."""
    shares = ratios.shares
    open_splits = np.ones(len(SPLITS), bool)
    while True:
        total = counts.sum() + new - counts[~open_splits].sum()
        weights = np.where(open_splits, shares, 0)
        targets = np.where(open_splits, total * weights / max(weights.sum(), 1e-12), counts)
        overfull = open_splits & (counts > targets)
        if not overfull.any():
            return targets
        open_splits &= ~overfull


def _divide(number: int, wanted: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Divide `number` things as near to `wanted` as whole numbers allow (largest remainder)."""
    wanted = np.maximum(wanted, 0)
    if wanted.sum() == 0:
        wanted[0] = 1.0
    exact = wanted * (number / wanted.sum())
    share = np.floor(exact + 1e-9).astype(np.int64)
    order = np.argsort(-(exact - share), kind="stable")
    share[order[: number - share.sum()]] += 1
    return share


def _with_sample_keys(images: pl.DataFrame) -> pl.DataFrame:
    """Spread the images of each split and class evenly over [0, 1), in order of `image_id`."""
    stratum = ["place", "label"]
    key = (pl.int_range(pl.len()).over(stratum) + 0.5) / pl.len().over(stratum)
    return images.with_columns(sample_key=pl.when(pl.col("place").is_not_null()).then(key))


def take_sample(splits: pl.DataFrame, size: int | None) -> pl.DataFrame:
    """Return the placed images, or a stratified sample of `size` of them; a larger one contains it.

    The rows stay in their order.
    """
    placed = splits.filter(pl.col("split").is_not_null())
    if size is None or size >= len(placed):
        return placed
    chosen = placed.select("image_id", "sample_key").sort("sample_key", "image_id").head(size)
    return placed.join(chosen, on="image_id", how="semi", maintain_order="left")


def update_splits(index: AnyPath, target: AnyPath, ratios: SplitRatios = DEFAULT_RATIOS) -> SplitSummary:
    """Place the images of an index that have no place yet; the splits are complete or absent.

    Args:
        index: the image index.
        target: where the splits lie and go.
        ratios: share of each split.
    """
    previous = _read_previous(target)
    splits = assign_splits(pl.scan_parquet(str(index)), previous, ratios)
    version = write_frame(splits, SPLITS_SCHEMA, target, ["label", "split", "held_back", "batch"])
    return _summarize(splits, previous, version)


def _read_previous(target: AnyPath) -> pl.DataFrame | None:
    if not target.exists():
        return None
    with fetched(target) as local:
        return pl.read_parquet(local, columns=["image_id", "label", "split", "batch"])


def _summarize(splits: pl.DataFrame, previous: pl.DataFrame | None, version: str) -> SplitSummary:
    placed = splits.drop_nulls("split")
    labels = set(splits["label"].unique())
    by_class = {name: dict.fromkeys(SPLITS, 0) for name in CLASSES if name in labels}
    for label, split, number in placed.group_by("label", "split").len().iter_rows():
        by_class[label][split] = number
    before = splits.clear() if previous is None else previous.drop_nulls("split")
    kept = splits.select("image_id", "split").join(before, on="image_id", how="semi")
    return SplitSummary(
        **{name: sum(counts[name] for counts in by_class.values()) for name in SPLITS},
        held_back=len(splits) - len(placed),
        by_class=by_class,
        new=len(placed) - kept["split"].count(),
        removed=len(before) - len(kept),
        version=version,
    )
