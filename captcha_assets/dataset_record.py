"""Which data set a home holds: recorded with its first batch, and compared by every command that writes.

The classes of a data set may change, and so may all that is only checked: what is stale then is materialized
again. Its name may not, nor the size and channels of its images, since an image's id is a hash of its pixels,
by which its split is kept.
"""

import json
from typing import Any

from captcha_assets.atomic_files import (
    MissingBucketError,
    create,
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


class OtherDatasetError(ValueError):
    """A home that holds another data set, or whose record cannot be read; the message says what to do."""


def hold(paths: Paths, spec: DatasetSpec) -> None:
    """Check that a home holds this data set or none, and record it once the home has a batch.

    Raises:
        OtherDatasetError: it holds another one, or its record is damaged.
        MissingBucketError: the bucket of the artifacts does not exist.
    """
    check(paths, spec)
    held, now = _read(paths), _fields(spec)
    if held == now or (held is None and not known_batches(paths)):
        return
    if held is not None:  # other classes
        write_json(paths.dataset_record, now)
    elif not create(paths.dataset_record, json_text(now)):
        check(paths, spec)  # another process came first


def check(paths: Paths, spec: DatasetSpec) -> None:
    """Check that a home holds this data set, or none that is recorded.

    Raises:
        OtherDatasetError: it holds another one, or its record is damaged.
        MissingBucketError: the bucket of the artifacts does not exist.
    """
    held, now = _read(paths), _fields(spec)
    if held is None:
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


def _fields(spec: DatasetSpec) -> dict[str, Any]:
    return {**{name: getattr(spec, name) for name in _FIXED}, "classes": list(spec.classes)}


def _read(paths: Paths) -> dict[str, Any] | None:
    """Return the record; None where there is none."""
    try:
        with missing_bucket_named(paths.dataset_record):
            held = json.loads(regular(paths.dataset_record).read_text(encoding="utf-8"))
        return {**{name: held[name] for name in _FIXED}, "classes": list(map(str, held["classes"]))}
    except MissingBucketError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, TypeError, KeyError) as error:
        raise OtherDatasetError(
            f"{paths.dataset_record} cannot be read: remove it, and the next command that writes records the "
            "data set again"
        ) from error


def _in_words(fields: dict[str, Any]) -> str:
    colour = "grayscale" if fields["channels"] == 1 else "RGB"
    size = f"{fields['width']}x{fields['height']}"
    return f"{fields['name']} ({len(fields['classes'])} classes, {size} {colour})"
