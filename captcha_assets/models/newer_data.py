"""Whether one model was trained on data that another was not."""

import polars as pl

from captcha_assets.models.trained_images import Trained, trained
from captcha_assets.paths import Paths


def newer_data(paths: Paths, candidate: str, champion: str, splits_version: str) -> str | None:
    """Say what the candidate was trained on and the champion was not; None where there is nothing.

    New images come first. Where there are none, or it is not recorded which images the two were trained on,
    today's splits are newer than former ones: images may have been removed from them, or relabelled.

    Args:
        paths: where things are kept.
        candidate: id of a model of the registry.
        champion: likewise.
        splits_version: data version of today's splits.

    Raises:
        RegistryError: there is no such model.
        ModelFolderError: a configuration is damaged.
    """
    new, old = trained(paths, candidate), trained(paths, champion)
    images, before = _training_images(new), _training_images(old)
    if images is not None and before is not None:
        added = len(images.filter(~images.is_in(before.implode())))
        if added:
            return f"trained on {added:,} images that the champion was not trained on"
    if new.config.splits_version == splits_version != old.config.splits_version:
        return "trained on today's splits, the champion on former ones"
    return None


def _training_images(model: Trained) -> pl.Series | None:
    if model.splits is None:
        return None
    return model.splits.filter("seen", pl.col("split") == "train")["image_id"]
