"""Folders that know the hash of every file they hold.

The training process uses this module, so it needs nothing outside the standard library.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from captcha_assets.atomic_files import AnyPath, json_text, raise_if_passing, regular, replacing_folder

MANIFEST = "manifest.json"

#: At most so many damaged files of a folder are named; of the others, their number.
_NAMED = 5

#: What to do where the int8 export of a model is damaged.
QUANTIZE_AGAIN = "quantize the model again: captcha-assets update --select quantized_model"


class ModelFolderError(RuntimeError):
    """A model folder that is damaged, incomplete or none at all; the message names the file."""


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def how_to_export_again(export: Path) -> str:
    """Return what to do where the export of a model, a folder that has the name of the model, is damaged."""
    return f"export the model again: captcha-assets model export {export.name}"


@contextmanager
def writing_folder(target: AnyPath, **facts: Any) -> Iterator[Path]:
    """Yield an empty folder; when the block ends well it gets its manifest and becomes `target`.

    A `target` of old is replaced. When the block raises, it stays as it was.

    Args:
        target: the folder to write.
        facts: further entries of the manifest; a callable one is given the files' hashes.
    """
    with replacing_folder(target) as part:
        yield part
        files = {file.name: sha256(file) for file in sorted(part.iterdir())}
        evaluated = {key: fact(files) if callable(fact) else fact for key, fact in facts.items()}
        (part / MANIFEST).write_text(json_text({"files": files, **evaluated}))


def read_json(path: Path) -> Any:
    """Read a JSON file of a model folder.

    Raises:
        ModelFolderError: the file is missing or no JSON.
    """
    try:
        return json.loads(regular(path).read_text())
    except FileNotFoundError as error:
        raise ModelFolderError(f"{path} is missing: {path.parent} is no complete model folder") from error
    except (ValueError, OSError, RecursionError) as error:
        raise_if_passing(error)
        raise ModelFolderError(f"{path} is damaged: {error}") from error


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of `folder`: `files` (name to SHA-256) and further facts.

    Raises:
        ModelFolderError: there is none, or it is damaged.
    """
    manifest = read_json(folder / MANIFEST)
    files = manifest.get("files") if isinstance(manifest, dict) else None
    if not isinstance(files, dict) or not files:
        raise ModelFolderError(f"{folder / MANIFEST} is damaged: it lists no files")
    return manifest


def verify_files(folder: Path, advice: str = "restore the folder or train again") -> dict[str, Any]:
    """Return the manifest of `folder` after comparing every file with its hash.

    Args:
        folder: the folder.
        advice: what to do where a file is missing or damaged; empty where the reader of the message knows.

    Raises:
        ModelFolderError: files are missing or damaged; the message names them, and ends with the advice.
    """
    manifest = read_manifest(folder)
    problems = [problem for entry in manifest["files"].items() if (problem := _problem(folder, *entry))]
    if problems:
        to_do = f": {advice}" if advice else ""
        raise ModelFolderError(f"{'; '.join(first_of(problems, _NAMED))}{to_do}")
    return manifest


def _problem(folder: Path, name: str, expected: str) -> str | None:
    """Return what is wrong with a file, in words; None where it has the hash that is expected."""
    if not (folder / name).is_file():
        there = (folder / name).exists()
        return f"{folder / name} is no regular file" if there else f"{folder / name} is missing"
    damaged = sha256(folder / name) != expected
    return f"{folder / name} is damaged (its SHA-256 is not the manifest's)" if damaged else None


def first_of(problems: Sequence[str], bound: int) -> list[str]:
    """Return the first problems, and how many more there are in words."""
    more = len(problems) - bound
    return [*problems[:bound], *([f"and {more} more"] if more > 0 else [])]
