"""Why a member of a delivery cannot be used."""

from enum import StrEnum


class Reason(StrEnum):
    """Machine-readable reasons; `rejected_images.reason` holds one of them."""

    # what the archive says about the member, before a byte of it is unpacked
    NAME_NOT_UTF8 = "name_not_utf8"
    UNSAFE_PATH = "unsafe_path"
    SPECIAL_FILE = "special_file"
    DUPLICATE_NAME = "duplicate_name"
    ENCRYPTED = "encrypted"
    NESTED_ARCHIVE = "nested_archive"
    UNSUPPORTED_COMPRESSION = "unsupported_compression"
    TOO_LARGE = "too_large"
    UNREADABLE = "unreadable"
    # what its bytes are
    EMPTY = "empty"
    NOT_AN_IMAGE = "not_an_image"
    UNSUPPORTED_FORMAT = "unsupported_format"
    CORRUPT = "corrupt"
    WRONG_SIZE = "wrong_size"
    SIXTEEN_BIT = "sixteen_bit"
    ANIMATED = "animated"
    TRANSPARENT = "transparent"
    # what the image and its name say
    BLANK = "blank"
    BAD_LABEL = "bad_label"
    BAD_NAME = "bad_name"


class Rejection(ValueError):  # noqa: N818 - a result that is stored and counted
    """One member that cannot be used.

    Attributes:
        reason: machine-readable.
        detail: one line for a person.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type["Rejection"], tuple[Reason, str]]:
        """Pickle by the two arguments, so that worker processes can hand rejections over."""
        return type(self), (self.reason, self.detail)
