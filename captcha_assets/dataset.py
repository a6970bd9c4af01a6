"""What is particular to CAPTCHA characters: classes, size, label rule, known figures.

Everything else in the library works for any set of small labelled images: another image
classification is another version of this file (and of the generator, `sources/generator.py`).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

#: Name of the Kaggle data set, `owner/slug`.
KAGGLE_DATASET = "tahabakhtari/captcha-characters-dataset-118k-images"

#: Size of an image in pixels. Images are 8-bit grayscale, dark characters on a light ground.
WIDTH = 32
HEIGHT = 52

#: The classes in their canonical order: a model's output *i* is `CLASSES[i]`.
CLASSES: tuple[str, ...] = (
    "2", "3", "4", "5", "6", "7", "8",
    "a", "b", "c", "d", "e", "f", "g", "m", "n", "p", "w", "x", "y",
)  # fmt: skip

#: Expected share of each class. The alphabet of the Java library Kaptcha, `abcde2345678gfynmnpwx`,
#: holds n twice, and so does every data set made with it.
CLASS_SHARES: dict[str, float] = {name: (2 if name == "n" else 1) / 21 for name in CLASSES}


@dataclass(frozen=True)
class DatasetSpec:
    """One image-classification data set: what its images look like and how they are labelled.

    Attributes:
        name: lower case letters, digits and underscores.
        classes: in their canonical order; a model's output *i* is `classes[i]`.
        height: of an image, in pixels.
        width: of an image, in pixels.
        channels: 1 for grayscale, 3 for RGB.
        formats: image formats that are read, of "png" and "jpeg".
        label_from: "file_name" for `<label>_<n>.<suffix>`, "folder" for `<label>/<any name>`.
        other_sizes: what becomes of an image of another size: "reject" it, or "resize" it.
        class_shares: expected share of each class; None where nothing is known.
        brightness: lowest and highest plausible mean gray level of an image, 0 to 255; None: not checked.
        contrast: the same for the standard deviation of its gray levels.
        foreground_fraction: the same for its share of dark pixels, 0 to 1.
        near_duplicate_correlation: correlation of smoothed pixels from which two images of a class are
            near-duplicates.
        kaggle_dataset: `owner/slug`; None where the data set is not on Kaggle.
    """

    name: str
    classes: tuple[str, ...]
    height: int
    width: int
    channels: Literal[1, 3] = 1
    formats: tuple[Literal["png", "jpeg"], ...] = ("png",)
    label_from: Literal["file_name", "folder"] = "file_name"
    other_sizes: Literal["reject", "resize"] = "reject"
    class_shares: Mapping[str, float] | None = None
    brightness: tuple[float, float] | None = None
    contrast: tuple[float, float] | None = None
    foreground_fraction: tuple[float, float] | None = None
    near_duplicate_correlation: float = 0.996
    kaggle_dataset: str | None = None


#: CAPTCHA characters of the Java library Kaptcha: dark characters on a light ground.
#: 935 real characters have a brightness of 110 to 188, a contrast of 73 to 105 and a foreground fraction of
#: 0.18 to 0.56, generated ones alike; outside of the ranges below nothing can be read.
CAPTCHA = DatasetSpec(
    name="captcha_characters",
    classes=CLASSES,
    height=HEIGHT,
    width=WIDTH,
    class_shares=CLASS_SHARES,
    brightness=(40.0, 240.0),
    contrast=(15.0, 127.5),
    foreground_fraction=(0.01, 0.85),
    kaggle_dataset=KAGGLE_DATASET,
)

_NAME = re.compile(r"(?P<label>[^_]+)_(?P<number>[^_]+)\.png", re.IGNORECASE)


class LabelError(ValueError):
    """A file name that carries no label of this data set."""


def label_of(member: str) -> str:
    """Return the class that a file's name states.

    Args:
        member: path of the file inside its delivery, with forward slashes; only the last part counts.

    Raises:
        LabelError: the name is not `<label>_<n>.png`, or the label is not one of `CLASSES`.
    """
    name = member.rpartition("/")[2]
    match = _NAME.fullmatch(name)
    if match is None:
        raise LabelError(f"{name!r} is not named <label>_<n>.png")
    label = match["label"]
    if label not in CLASSES:
        raise LabelError(f"label {label!r} is not one of {''.join(CLASSES)}")
    return label
