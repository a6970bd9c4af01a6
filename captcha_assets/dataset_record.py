"""Which data set a home holds: recorded with its first batch, and compared by every command that writes.

The classes of a data set may change, and so may all that is only checked: what is stale then is materialized
again. Its name may not, nor the size and channels of its images, since an image's id is a hash of its pixels,
by which its split is kept.
"""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from captcha_assets.atomic_files import (
    MissingBucketError,
    create,
    fetched,
    json_text,
    missing_bucket_named,
    regular,
    write_json,
)
from captcha_assets.dataset import DatasetSpec
from captcha_assets.paths import Paths
from captcha_assets.sources.batch_registration import known_batches

#: What stays as it is as long as a home holds a data set.
_FIXED = ("name", "height", "width", "channels")


class _Record(BaseModel):
    """What `dataset.json` says."""

    model_config = ConfigDict(strict=True)

    name: str
    height: int
    width: int
    channels: int
    classes: list[str]


class OtherDatasetError(ValueError):
    """A home that holds another data set, or whose record cannot be read; the message says what to do."""


def hold(paths: Paths, spec: DatasetSpec) -> str | None:
    """Check that a home holds this data set or none, and record it once the home has a batch.

    Returns:
        The data set in words, where it was recorded for the first time.

    Raises:
        OtherDatasetError: it holds another one, or its record is damaged.
        MissingBucketError: the bucket of the artifacts does not exist.
    """
    check(paths, spec)
    held, now = _read(paths), _fields(spec)
    if held == now or (held is None and not known_batches(paths)):
        return None
    if held is not None:  # other classes
        write_json(paths.dataset_record, now)
        return None
    if create(paths.dataset_record, json_text(now)):
        return _in_words(now)
    check(paths, spec)  # another process came first
    return None


def check(paths: Paths, spec: DatasetSpec) -> None:
    """Check that a home holds this data set, or none that is recorded.

    Raises:
        OtherDatasetError: it holds another one, or its record is damaged.
        MissingBucketError: the bucket of the artifacts does not exist.
    """
    held, now = _read(paths), _fields(spec)
    if held is None:
        _check_images(paths, spec)
        return
    if all(held[name] == now[name] for name in _FIXED) and set(held["classes"]) & set(now["classes"]):
        return
    place = str(paths.home)
    if str(paths.artifacts) != str(paths.home / "artifacts"):
        place += f" with the artifacts in {paths.artifacts}"
    raise OtherDatasetError(
        f"the home {place} holds the data set {_in_words(held)}, not {_in_words(now)}: set "
        f"CAPTCHA_DATASET to the data set of the home; or, for {now['name']}, unset CAPTCHA_HOME and "
        "CAPTCHA_ARTIFACTS, or name its own home or a new folder there"
    )


def _check_images(paths: Paths, spec: DatasetSpec) -> None:
    """Check that the images of a home without a record may be those of a data set.

    Raises:
        OtherDatasetError: they have another size, or classes of which it has none.
    """
    for batch in known_batches(paths):
        if not paths.image_table(batch).exists():
            continue
        import polars as pl  # noqa: PLC0415 - a home without a record is rare

        with fetched(paths.image_table(batch)) as local:
            try:
                rows = pl.read_parquet(local, columns=["pixels", "label"], n_rows=1_000)
            except (pl.exceptions.PolarsError, OSError):
                continue  # damaged: it is materialized again
        if rows.is_empty():
            continue
        found, labels = len(rows["pixels"][0]), set(rows["label"])
        if found != spec.pixel_bytes or not labels & set(spec.classes):
            raise OtherDatasetError(
                f"the home {paths.home} holds images of {found:,} bytes and the classes "
                f"{', '.join(sorted(labels)[:5])}, ..., which are not those of {_in_words(_fields(spec))}: "
                "set CAPTCHA_DATASET to the data set of the home, or CAPTCHA_HOME to another one"
            )
        return


def _fields(spec: DatasetSpec) -> dict[str, Any]:
    return {**{name: getattr(spec, name) for name in _FIXED}, "classes": list(spec.classes)}


def _read(paths: Paths) -> dict[str, Any] | None:
    """Return the record; None where there is none."""
    record = paths.dataset_record
    unreadable = OtherDatasetError(
        f"{record} cannot be read: remove it, and the next command that writes records the data set again"
    )
    if isinstance(record, Path) and record.is_symlink():
        raise unreadable
    try:
        with missing_bucket_named(record):
            text = regular(record).read_text(encoding="utf-8")
        return _Record.model_validate_json(text).model_dump()
    except MissingBucketError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise unreadable from error


def _in_words(fields: dict[str, Any]) -> str:
    colour = "grayscale" if fields["channels"] == 1 else "RGB"
    size = f"{fields['width']}x{fields['height']}"
    return f"{fields['name']} ({len(fields['classes'])} classes, {size} {colour})"
