"""What an image-classification data set is: its classes, its images, its label rule. And CAPTCHA characters.

The library takes any data set whose `DatasetSpec` it is given. `CAPTCHA` is the one that comes with it; only
`definitions.py` and `cli/` choose it.
"""

import hashlib
import importlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Literal, get_args

Format = Literal["png", "jpeg"]

#: How files of a format are named.
_SUFFIXES: dict[Format, tuple[str, ...]] = {"png": (".png",), "jpeg": (".jpg", ".jpeg")}
#: Near-duplicates are searched for among images of at least so many pixels a side.
_SMALLEST = 8
#: So many classes are named in a message.
_NAMED = 30
#: What decides nothing, and is only shown to people.
_SHOWN_ONLY = ("description", "license")
_NAME = re.compile(r"[a-z][a-z0-9_]*")
#: What a module raises that has a mistake.
_OF_A_MODULE = (
    ArithmeticError, AssertionError, AttributeError, LookupError, NameError, OSError, RuntimeError,
    SyntaxError, TypeError, ValueError,
)  # fmt: skip
#: Where a data set is defined: `module:NAME`.
_ADDRESS = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


class DatasetError(ValueError):
    """A data set that cannot be described so, or is not there; the message says what is wrong."""


class LabelError(ValueError):
    """A file that carries no label of this data set."""


@dataclass(frozen=True)
class DatasetSpec:
    """One image-classification data set: what its images look like and how they are labelled.

    Attributes:
        name: lower case letters, digits and underscores.
        classes: in their canonical order; a model's output *i* is `classes[i]`.
        height: of an image, in pixels; 8 or more.
        width: of an image, in pixels; 8 or more.
        channels: 1 for grayscale, 3 for RGB.
        formats: image formats that are read, of "png" and "jpeg".
        label_from: "file_name" for `<label>_<n>.<suffix>`, "folder" for `<label>/<any name>`.
        other_sizes: what becomes of an image of another size: "reject" it, or "resize" it.
        largest_file: size in bytes from which a file is rejected.
        class_shares: expected share of each class; None where nothing is known.
        brightness: lowest and highest plausible mean gray level of an image, 0 to 255; None: not checked.
        contrast: the same for the standard deviation of its gray levels.
        foreground_fraction: the same for its share of dark pixels, 0 to 1.
        near_duplicate_correlation: correlation of smoothed pixels from which two images of a class are
            near-duplicates.
        kaggle_dataset: `owner/slug`; None where the data set is not on Kaggle.
        description: what the images show and where they come from, for people: the data report states it.
        license: what the images may be used for, such as "CC BY 4.0"; the data report states it. Empty where
            it is not known.

    Raises:
        DatasetError: a value cannot be used.
    """

    name: str
    classes: tuple[str, ...]
    height: int
    width: int
    channels: int = 1
    formats: tuple[Format, ...] = ("png",)
    label_from: Literal["file_name", "folder"] = "file_name"
    other_sizes: Literal["reject", "resize"] = "reject"
    largest_file: int = 1 << 20
    class_shares: Mapping[str, float] | None = None
    brightness: tuple[float, float] | None = None
    contrast: tuple[float, float] | None = None
    foreground_fraction: tuple[float, float] | None = None
    near_duplicate_correlation: float = 0.996
    kaggle_dataset: str | None = None
    description: str = ""
    license: str = ""

    def __post_init__(self) -> None:
        for conditions in (self._types, self._conditions):  # the second ones rest on the first
            for holds, problem in conditions():
                if not holds:
                    raise DatasetError(f"data set {self.name!r}: {problem}")

    def _types(self) -> Iterator[tuple[bool, str]]:
        """Yield whether each value is of its type, and what it has to be."""
        for name in ("name", "description", "license"):
            yield isinstance(getattr(self, name), str), f"{name} is text"
        for name in ("height", "width", "channels", "largest_file"):
            yield type(getattr(self, name)) is int, f"{name} is a whole number"
        for name in ("classes", "formats"):
            values = getattr(self, name)
            texts = isinstance(values, tuple) and all(isinstance(one, str) for one in values)
            yield texts, f"{name} is a tuple of texts"
        for name in ("brightness", "contrast", "foreground_fraction"):
            bounds = getattr(self, name)
            yield (
                bounds is None or _is_range(bounds),
                f"{name} is a tuple of the lowest and the highest value",
            )
        shares, kaggle = self.class_shares, self.kaggle_dataset
        are_shares = shares is None or (isinstance(shares, Mapping) and all(map(_is_number, shares.values())))
        yield are_shares, "class_shares maps a class to a number"
        yield _is_number(self.near_duplicate_correlation), "near_duplicate_correlation is a number"
        yield kaggle is None or isinstance(kaggle, str), "kaggle_dataset is text"

    def _conditions(self) -> list[tuple[bool, str]]:
        """Return what must hold, each with what is wrong where it does not."""
        shares = self.class_shares
        known = set(get_args(Format))
        return [
            (_NAME.fullmatch(self.name) is not None, "its name has lower case letters, digits, underscores"),
            (len(self.classes) >= 2, "it needs two classes or more"),
            (len(set(self.classes)) == len(self.classes), "a class stands among its classes twice"),
            (all(map(_is_plain, self.classes)), "a class is empty, or holds a slash or a control character"),
            (min(self.height, self.width) >= _SMALLEST, f"its images have {_SMALLEST} pixels a side or more"),
            (self.channels in {1, 3}, "channels is 1 (grayscale) or 3 (RGB)"),
            (bool(self.formats) and known >= set(self.formats), "formats names png, jpeg, or both"),
            (self.label_from in {"file_name", "folder"}, "label_from is file_name or folder"),
            (self.other_sizes in {"reject", "resize"}, "other_sizes is reject or resize"),
            (self.largest_file > 0, "largest_file is a number of bytes above 0"),
            (shares is None or set(shares) == set(self.classes), "class_shares names each class once"),
            (min((shares or {}).values(), default=0) >= 0, "a share of class_shares is below 0"),
            (0 < self.near_duplicate_correlation <= 1, "near_duplicate_correlation is above 0, at most 1"),
        ]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of an image: (height, width) of a gray one, (height, width, 3) of an RGB one."""
        return (self.height, self.width) if self.channels == 1 else (self.height, self.width, self.channels)

    @property
    def size(self) -> str:
        """Width and height in words, as image viewers show them: "32x52"."""
        return f"{self.width}x{self.height}"

    @property
    def pixel_bytes(self) -> int:
        """Bytes of an image's pixels."""
        return self.height * self.width * self.channels

    @property
    def mode(self) -> str:
        """Colour mode of its images, as Pillow names it: "L" or "RGB"."""
        return "L" if self.channels == 1 else "RGB"

    @cached_property
    def suffixes(self) -> tuple[str, ...]:
        """How its files end, in lower case."""
        return tuple(suffix for name in self.formats for suffix in _SUFFIXES[name])

    @property
    def layout(self) -> str:
        """How its files are named, for messages: "<label>_<n>.png"."""
        if self.label_from == "folder":
            return "<label>/<any name>"
        return " or ".join(f"<label>_<n>{suffix}" for suffix in self.suffixes)

    @property
    def classes_in_words(self) -> str:
        """Its classes for messages; of many the first and the last."""
        if len(self.classes) > _NAMED:
            return f"{len(self.classes)} classes, {self.classes[0]} to {self.classes[-1]}"
        return ("" if max(map(len, self.classes)) == 1 else ", ").join(self.classes)

    @property
    def version(self) -> str:
        """A hash of everything that decides what becomes of a file: 8 hex digits."""
        decides = {name: value for name, value in asdict(self).items() if name not in _SHOWN_ONLY}
        return _hash(decides)

    @property
    def shown_version(self) -> str:
        """A hash of what is only shown to people: 8 hex digits."""
        return _hash({name: getattr(self, name) for name in _SHOWN_ONLY})

    def label_of(self, member: str) -> str:
        """Return the class that a file's path states.

        Args:
            member: path of the file inside its batch, with forward slashes.

        Raises:
            LabelError: the path is not as `label_from` says, or the label is none of `classes`.
        """
        folder, _, name = member.rpartition("/")
        label: str | None = folder.rpartition("/")[2]
        if self.label_from == "file_name":
            label = self._label_in(name)
            if label is None:
                raise LabelError(f"{name!r} is not named {self.layout}")
        elif not label:
            raise LabelError(f"{name!r} lies in no folder that is named after its class")
        if label not in self.classes:
            raise LabelError(f"label {label!r} is not one of {self.classes_in_words}")
        return label

    def _label_in(self, name: str) -> str | None:
        """Return the label of `<label>_<n>.<suffix>`, None where a name is otherwise."""
        stem, dot, suffix = name.rpartition(".")
        label, separator, number = stem.rpartition("_")
        named = label and separator and number and f"{dot}{suffix.lower()}" in self.suffixes
        return label if named else None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_range(value: object) -> bool:
    return (
        isinstance(value, tuple) and len(value) == 2 and all(map(_is_number, value)) and value[0] <= value[1]
    )


def _hash(values: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]


def _is_plain(name: str) -> bool:
    return bool(name) and name.isprintable() and "/" not in name and "\\" not in name


#: CAPTCHA characters of the Java library Kaptcha: dark characters on a light ground. Its alphabet,
#: `abcde2345678gfynmnpwx`, holds n twice, and so does every data set drawn with it.
#: 935 real characters have a brightness of 110 to 188, a contrast of 73 to 105 and a foreground fraction of
#: 0.18 to 0.56, generated ones alike; outside of the ranges below nothing can be read.
#: Copies (shift, brightness, JPEG 50, noise of 10, resize and back) stay above a correlation of 0.9985 on
#: real and on generated characters, resized to three quarters and back above 0.995. Of 24,000 pairs of
#: distinct real images none exceeds 0.978, of 16 million generated ones none 0.980.
CAPTCHA = DatasetSpec(
    name="captcha_characters",
    classes=tuple("2345678abcdefgmnpwxy"),
    height=52,
    width=32,
    class_shares={name: (2 if name == "n" else 1) / 21 for name in "2345678abcdefgmnpwxy"},
    brightness=(40.0, 240.0),
    contrast=(15.0, 127.5),
    foreground_fraction=(0.01, 0.85),
    near_duplicate_correlation=0.996,
    kaggle_dataset="tahabakhtari/captcha-characters-dataset-118k-images",
    description="Single characters of CAPTCHA images as the Java library Kaptcha draws them. Batches from "
    "synthetic: are generated to look like them.",
)


def load_dataset(address: str | None, setting: str = "CAPTCHA_DATASET") -> DatasetSpec:
    """Return the data set at `module:name`, CAPTCHA characters for None.

    The module is imported, and so executed.

    Args:
        address: where it is.
        setting: what gives the address, for messages.

    Raises:
        DatasetError: the address is none, the module cannot be imported, or nothing of this name in it is a
            `DatasetSpec`.
    """
    if address is None:
        return CAPTCHA
    rejected = f"{setting}={address!r} cannot be used:"
    if not _ADDRESS.fullmatch(address):
        raise DatasetError(f"{rejected} give module:NAME of a DatasetSpec, such as my_images.dataset:DATASET")
    module, _, name = address.partition(":")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ImportError as error:
        raise DatasetError(f"{rejected} {error}") from error
    except SystemExit as error:
        raise DatasetError(f"{rejected} the import of {module} ends the program") from error
    except _OF_A_MODULE as error:
        words = " ".join(f"{type(error).__name__}: {error}".split())
        raise DatasetError(f"{rejected} the import of {module} raises {words}") from error
    if found is None:
        raise DatasetError(f"{rejected} the module {module} has no {name}")
    if not isinstance(found, DatasetSpec):
        raise DatasetError(f"{rejected} {name} is no DatasetSpec")
    return found
