"""Whether the summary of a model's training images is whole. Light to import: `quality.drift` reads it."""

import zipfile
from pathlib import Path


def check(path: Path) -> None:
    """Check that a `.npz` file is whole.

    Raises:
        ValueError: it is damaged; the message names it.
    """
    try:
        with zipfile.ZipFile(path) as file:
            damaged = file.testzip()
    except (zipfile.BadZipFile, EOFError, OSError, RuntimeError) as error:
        raise ValueError(f"{path} ({error})") from error
    if damaged:
        raise ValueError(f"{path} (the checksum of {damaged} is wrong)")
