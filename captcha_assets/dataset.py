"""What is particular to CAPTCHA characters: classes, size, label rule, known figures.

Everything else in the library works for any set of small labelled images: another image
classification is another version of this file (and of the generator, `sources/generator.py`).
"""

import re

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
