"""Files that are complete or absent: written beside their place, then renamed.

The same functions serve local folders and object stores: there a file is written on the local disk
first and uploaded in one request, which the store makes visible as a whole.
"""

import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from upath import UPath

#: A local path, or one on an object store.
AnyPath = Path | UPath

#: Temporary files that this process is writing now.
_WRITING: set[Path] = set()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _sweep(target: Path) -> None:
    """Remove what killed writers of `target` left behind; a living writer's file is let be."""
    for left in target.parent.glob(f".{target.name}.*.tmp"):
        pid = left.name.removeprefix(f".{target.name}.").split(".")[0]
        writing = left in _WRITING if pid == str(os.getpid()) else _alive(int(pid))
        if not writing:
            _remove(left)


@contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """Yield a new name beside `target`; what still bears it at the end is removed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    _WRITING.add(part)
    try:
        yield part
    finally:
        _remove(part)
        _WRITING.discard(part)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def replacing(target: AnyPath) -> Iterator[Path]:
    """Yield a temporary local path to write to; when the block ends well it becomes `target`.

    When the block raises, `target` stays as it was and the temporary file is removed.
    """
    if not isinstance(target, Path):
        with tempfile.TemporaryDirectory(prefix="captcha-assets-") as folder:
            part = Path(folder) / target.name
            yield part
            target.fs.put_file(str(part), target.path)
        return
    _sweep(target)
    with _beside(target) as part:
        yield part
        _sync(part)
        part.replace(target)


@contextmanager
def replacing_folder(target: AnyPath) -> Iterator[Path]:
    """Like `replacing`, for a folder: yield an empty local folder that becomes `target` as a whole.

    On an object store the file `manifest.json`, if the folder has one, is uploaded last, so that a
    folder with a manifest is a complete folder.
    """
    if not isinstance(target, Path):
        with tempfile.TemporaryDirectory(prefix="captcha-assets-") as name:
            yield Path(name)
            _upload_folder(Path(name), target)
        return
    _sweep(target)
    with _beside(target) as part, _beside(target) as old:
        part.mkdir()
        yield part
        for file in filter(Path.is_file, part.rglob("*")):
            _sync(file)
        if target.exists():
            target.rename(old)
        part.rename(target)


def _upload_folder(folder: Path, target: UPath) -> None:
    files = sorted(
        filter(Path.is_file, folder.rglob("*")), key=lambda file: (file.name == "manifest.json", file)
    )
    for file in files:
        place = target / file.relative_to(folder).as_posix()
        place.fs.put_file(str(file), place.path)


def write_json(target: AnyPath, value: Any) -> None:
    """Write `value` as indented JSON, complete or not at all."""
    with replacing(target) as part:
        part.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


@contextmanager
def fetched(path: AnyPath) -> Iterator[Path]:
    """Yield a local copy of a file or folder; what is local already is yielded as it is."""
    if isinstance(path, Path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="captcha-assets-") as name:
        copy = Path(name) / path.name
        path.fs.get(path.path, str(copy), recursive=path.is_dir())
        yield copy
