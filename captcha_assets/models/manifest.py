"""Local folders that are complete or absent, and know the hash of every file they hold.

The training process uses this module, so it needs nothing outside the standard library.
"""

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"


class ModelFolderError(RuntimeError):
    """A model folder that is damaged, incomplete or none at all; the message names the file."""


def json_text(value: Any) -> str:
    """Return `value` as JSON, always in the same bytes."""
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Wait until a file or folder lies on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _sweep(target: Path) -> None:
    """Remove what killed writers of `target` left behind."""
    for left in target.parent.glob(f".{target.name}.*.tmp"):
        pid = left.name.removeprefix(f".{target.name}.").split(".")[0]
        if pid.isdigit() and not _is_alive(int(pid)):
            shutil.rmtree(left, ignore_errors=True)


@contextmanager
def writing_folder(target: Path, **facts: Any) -> Iterator[Path]:
    """Yield an empty folder; when the block ends well it gets its manifest and becomes `target`.

    A `target` of old is replaced. When the block raises, it stays as it was.

    Args:
        target: the folder to make.
        facts: further entries of the manifest; a callable one is given the files' hashes.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    _sweep(target)
    name = f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}"
    part, old = target.with_name(f"{name}.tmp"), target.with_name(f"{name}.old.tmp")
    try:
        part.mkdir()
        yield part
        files = {file.name: sha256(file) for file in sorted(part.iterdir())}
        told = {key: fact(files) if callable(fact) else fact for key, fact in facts.items()}
        (part / MANIFEST).write_text(json_text({"files": files, **told}))
        for file in (*part.iterdir(), part):
            sync(file)
        if target.exists():
            target.rename(old)
        part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def read_json(path: Path) -> Any:
    """Read a JSON file of a model folder.

    Raises:
        ModelFolderError: the file is missing or no JSON.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise ModelFolderError(f"{path} is missing: {path.parent} is no complete model folder") from error
    except (ValueError, OSError) as error:
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


def verify_files(folder: Path) -> dict[str, Any]:
    """Return the manifest of `folder` after comparing every file with its hash.

    Raises:
        ModelFolderError: a file is missing or damaged; the message names it.
    """
    manifest = read_manifest(folder)
    for name, expected in manifest["files"].items():
        if not (folder / name).is_file():
            raise ModelFolderError(f"{folder / name} is missing: restore the folder or train again")
        if sha256(folder / name) != expected:
            raise ModelFolderError(
                f"{folder / name} is damaged (its SHA-256 is not the manifest's): restore the folder or "
                "train again"
            )
    return manifest
