"""Corrected images as a batch: an archive of images with the labels that people gave to served predictions.

An image is stored as it was received, under its label and the hash of its bytes, which leads back to the
prediction. One in a format that the data set does not take is stored as PNG, with the same pixels.
"""

import re
import zipfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import polars as pl

from captcha_assets.atomic_files import AnyPath, replacing
from captcha_assets.dataset import DatasetSpec

#: Equal corrections make equal bytes.
_TIME = (1980, 1, 1, 0, 0, 0)
_PREFIX = "corrections-"
_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"


@dataclass(frozen=True)
class Corrections:
    """What the archive of a day holds.

    Attributes:
        images: its members.
        by_label: number of members of each label.
        correction_ids: the corrections, each the latest of its prediction.
    """

    images: int
    by_label: dict[str, int]
    correction_ids: list[int]


def batch_name(day: str) -> str:
    """Return the name of the batch of a day's corrected images."""
    return f"{_PREFIX}{day}"


def day_of(batch: str) -> str | None:
    """Return the day whose corrected images a batch holds; None for any other batch."""
    day = batch.removeprefix(_PREFIX)
    return day if batch != day and re.fullmatch(r"\d{4}-\d{2}-\d{2}", day) else None


def image_hash_of(member: str) -> str:
    """Return the hash of the bytes that the service received, from the image's path in the archive."""
    return Path(member).stem.rpartition("_")[2]


def label_of(member: str) -> str:
    """Return the label that a person gave to an image, from the image's path in the archive."""
    return member[: max(member.rfind("/"), member.rfind("_"))]


def days_to_register(day: str, waiting: Mapping[str, int], enough: int, *, registered: bool) -> list[str]:
    """Return the days whose corrections become batches now.

    Args:
        day: the day whose corrections are new. A batch that it has already takes them at once.
        waiting: how many corrections of each day are in no batch yet.
        enough: so many of them, over all days, become batches.
        registered: whether the day has a batch already.
    """
    due = set(waiting) if sum(waiting.values()) >= enough else set()
    return sorted(due | {day} if registered else due)


def write_archive(predictions: AnyPath, archive: AnyPath, spec: DatasetSpec) -> Corrections:
    """Write the corrected images of a day as a zip archive, complete or not at all.

    Args:
        predictions: the day's table of the asset `prediction_log`.
        archive: where the archive goes; without corrections it is empty.
        spec: how images are labelled, and in which formats.
    """
    columns = ["correction_id", "corrected_label", "image", "image_hash"]
    rows = pl.scan_parquet(str(predictions), glob=False).select(columns).drop_nulls("correction_id").collect()
    images: dict[str, bytes] = {}
    labels: dict[str, str] = {}
    for label, image, image_hash in rows.select("corrected_label", "image", "image_hash").iter_rows():
        member = _member(spec, label, image_hash, image)
        images[member], labels[member] = image, label
    with replacing(archive) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as out:
        for member in sorted(images):
            out.writestr(zipfile.ZipInfo(member, _TIME), _readable(spec, images[member]))
    counted = Counter(labels.values())
    by_label = {name: counted[name] for name in spec.classes if name in counted}
    return Corrections(len(images), by_label, sorted(rows["correction_id"].to_list()))


def _member(spec: DatasetSpec, label: str, image_hash: str, image: bytes) -> str:
    """Return the path of an image in the archive, which states its label."""
    separator = "/" if spec.label_from == "folder" else "_"
    suffix = ".jpg" if _is_kept_as_jpeg(spec, image) else ".png"
    return f"{label}{separator}{image_hash}{suffix}"


def _is_kept_as_jpeg(spec: DatasetSpec, image: bytes) -> bool:
    return "jpeg" in spec.formats and image.startswith(_JPEG)


def _readable(spec: DatasetSpec, image: bytes) -> bytes:
    """Return an image in a format of the data set."""
    if _is_kept_as_jpeg(spec, image) or image.startswith(_PNG):
        return image
    mode = cv2.IMREAD_GRAYSCALE if spec.channels == 1 else cv2.IMREAD_COLOR
    pixels = cv2.imdecode(np.frombuffer(image, np.uint8), mode)
    return image if pixels is None else bytes(cv2.imencode(".png", pixels)[1])
