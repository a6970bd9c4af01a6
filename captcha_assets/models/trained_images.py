"""Which images a model saw, and as what: from the splits as its training found them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import polars as pl

from captcha_assets.atomic_files import AnyPath
from captcha_assets.images.split_assignment import take_sample
from captcha_assets.images.table_parts import scan, version_of
from captcha_assets.models import registry
from captcha_assets.models.folder import ModelConfig
from captcha_assets.paths import Paths

#: What an image of a split is to the model.
AS: Mapping[str, str] = {
    "train": "trained on it",
    "validation": "used for its validation and its temperature scaling",
    "test": "kept for its test",
}
NOT_SAMPLED = "known, but not in its sample"
NOT_THERE = "not there when it was trained"
NOT_RECORDED = "not recorded: which images it saw"


@dataclass(frozen=True)
class Trained:
    """A model of the registry, and what its training had before it.

    Attributes:
        splits: `image_id` and `split` of all images that there were, `seen` for those in its sample; None
            where the splits of then were not kept.
    """

    model_id: str
    config: ModelConfig
    splits: pl.DataFrame | None

    def saw(self, image_id: str) -> str:
        """Say what an image is to the model."""
        if self.splits is None:
            return NOT_RECORDED
        rows = self.splits.filter(pl.col("image_id") == image_id)
        if rows.is_empty() or rows["split"][0] is None:
            return NOT_THERE
        return AS[rows["split"][0]] if rows["seen"][0] else NOT_SAMPLED

    def counts(self, image_ids: pl.Series | None = None) -> dict[str, int] | None:
        """Count the images that the model saw, by split: all, or those among `image_ids`."""
        if self.splits is None:
            return None
        seen = self.splits.filter("seen")
        if image_ids is not None:
            seen = seen.filter(pl.col("image_id").is_in(image_ids.implode()))
        found = dict(seen.group_by("split").len().iter_rows())
        return {split: int(found.get(split, 0)) for split in AS}


def trained_models(paths: Paths) -> Iterator[Trained]:
    """Yield every model of the registry, in order of their ids; equal splits are read once."""
    read: dict[tuple[str, int | None], pl.DataFrame | None] = {}
    for model_id in registry.list_models(paths.models):
        config = registry.config(paths.models, model_id)
        key = config.splits_version, config.settings.get("sample_size")
        if read.get(key) is None:
            read[key] = _splits(paths, model_id, config)
        yield Trained(model_id, config, read[key])


def trained(paths: Paths, model_id: str) -> Trained:
    """Return one model and what its training had before it."""
    config = registry.config(paths.models, model_id)
    return Trained(model_id, config, _splits(paths, model_id, config))


def splits_of(paths: Paths, model_id: str, config: ModelConfig) -> AnyPath | None:
    """Return where the splits lie that a model was trained with; None where they were not kept.

    Today's serve where they are the very same.
    """
    for path in (paths.training_splits(model_id), paths.splits):
        if path.exists() and version_of(path) == config.splits_version:
            return path
    return None


def _splits(paths: Paths, model_id: str, config: ModelConfig) -> pl.DataFrame | None:
    path = splits_of(paths, model_id, config)
    if path is None:
        return None
    frame = scan(path).select("image_id", "label", "split").collect()
    sample = take_sample(frame, config.settings.get("sample_size"))["image_id"]
    seen = pl.col("image_id").is_in(sample.implode())
    return frame.select("image_id", "split", seen=seen)
