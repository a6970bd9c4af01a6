"""Files that are complete or absent: written beside their path, then renamed.

The same functions serve local folders and object stores: there a file is written on the local disk
first and uploaded in one request, which the store makes visible as a whole.

A writer works in a folder of its own beside the target and holds its lock. The system drops the lock
when the writer ends, however it ends, so the next writer can distinguish what was left behind from what is
still being written, in other processes and other containers too.
"""

import errno
import fcntl
import glob
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union

if TYPE_CHECKING:
    from upath import UPath

#: The errors of the clients of object stores that are no OSError; a client that is not loaded raises none.
CLIENT_ERRORS = (
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("aiohttp.client_exceptions", "ClientError"),
    ("gcsfs.retry", "HttpError"),
    ("google.auth.exceptions", "GoogleAuthError"),
)

#: A local path, or one on an object store. The name alone: the training process and the service do without.
AnyPath: TypeAlias = Union[Path, "UPath"]


class MissingBucketError(FileNotFoundError):
    """A bucket of an object store that does not exist; the message names it, and says how to create it."""


def path_of(location: str) -> AnyPath:
    """Return the path of a local folder, or of an address such as s3://bucket/folder."""
    if "://" not in location:
        return Path(location)
    from upath import UPath  # noqa: PLC0415 - local folders do without it

    # A listing remembered from before would hide what another process has stored since.
    return UPath(location, use_listings_cache=False)


def file_errors() -> tuple[type[Exception], ...]:
    """Return what reading or writing a path may raise: OSError, and the errors of the clients of stores."""
    found = (getattr(sys.modules.get(module), name, None) for module, name in CLIENT_ERRORS)
    return (OSError, *(one for one in found if one is not None))


#: Numbers of system errors that say nothing of the file: too many open files, no memory, no space for a copy,
#: a store or a network drive that does not answer.
_PASSING = {
    errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT, errno.EBUSY, errno.ESTALE,
    errno.ETIMEDOUT, errno.ECONNRESET, errno.EREMOTEIO,
}  # fmt: skip


def raise_if_passing(error: Exception) -> None:
    """Raise an error again that says nothing of the file, as when credentials have expired.

    What catches errors of damaged files calls this first: such a file is not damaged.
    """
    if isinstance(error, TimeoutError | ConnectionError):
        raise error
    if isinstance(error, OSError) and error.errno in _PASSING:
        raise error
    if isinstance(error, PermissionError) and error.errno is None:  # of the client of an object store
        raise error


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock of a file or folder; the system drops it when this process ends, however it ends.

    Raises:
        BlockingIOError: another process has it, and this one is not to wait.
    """
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def own_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """Yield a new folder, which is removed after the block; those of killed processes are removed first."""
    parent.mkdir(parents=True, exist_ok=True)
    with locked(parent):
        for folder in parent.glob(f"{prefix}*"):
            with suppress(BlockingIOError), locked(folder, wait=False):
                shutil.rmtree(folder)
        own = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        lock = ExitStack()
        lock.enter_context(locked(own))
    with lock:
        try:
            yield own
        finally:
            shutil.rmtree(own)


def _sweep(target: Path) -> None:
    """Remove what killed writers of `target` left behind; a living writer's folder is let be."""
    for left in target.parent.glob(f".{glob.escape(target.name)}.*.tmp"):
        # taken: its writer lives; not found: its writer has just ended well
        with suppress(BlockingIOError, FileNotFoundError), locked(left, wait=False):
            shutil.rmtree(left, ignore_errors=True)


@contextmanager
def _workshop(target: Path) -> Iterator[Path]:
    """Yield a writer's own folder beside `target`, holding an empty folder `new`; removed at the end."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        # Under the parent's lock no process deletes a folder that is created but not locked yet.
        with locked(target.parent):
            _sweep(target)
            folder = _created_beside(target)
            stack.enter_context(locked(folder))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        (folder / "new").mkdir()
        yield folder


def _created_beside(target: Path) -> Path:
    """Create an empty folder beside a target; an error names the target."""
    try:
        return Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
    except OSError as error:
        error.filename = str(target)
        raise


def sync(path: Path) -> None:
    """Have the disk keep what was written to a file or folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _full_disk_named(target: AnyPath) -> Iterator[None]:
    """Add the path and the advice to an error when the disk is full."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        words = "no space left on the disk or in the quota: free some and run it again"
        raise OSError(error.errno, words, str(target)) from None  # the cause says the same, without a place


@contextmanager
def missing_bucket_named(target: AnyPath) -> Iterator[None]:
    """Raise MissingBucketError where an object store says that it has no such bucket."""
    try:
        yield
    except OSError as error:
        words = "specified bucket does not exist"  # of S3 and of Google's store
        if isinstance(target, Path) or words not in str(error):
            raise
        bucket = f"{target.protocol}://{target.path.lstrip('/').partition('/')[0]}"
        how = f"gcloud storage buckets create {bucket}" if target.protocol == "gs" else f"aws s3 mb {bucket}"
        raise MissingBucketError(
            f"the bucket {bucket} does not exist: create it ({how}), or correct the address"
        ) from error


@contextmanager
def replacing(target: AnyPath) -> Iterator[Path]:
    """Yield a temporary local path of the same name; when the block ends well it becomes `target`.

    When the block raises, `target` stays as it was and the temporary file is removed. An OSError for want
    of space names `target` and says what to do.
    """
    if not isinstance(target, Path):
        with _full_disk_named(target), tempfile.TemporaryDirectory(prefix="captcha-assets-") as folder:
            part = Path(folder) / target.name
            yield part
            with missing_bucket_named(target):
                target.fs.put_file(str(part), target.path)
        return
    with _full_disk_named(target), _workshop(target) as workshop:
        part = workshop / "new" / target.name
        yield part
        sync(part)
        part.replace(target)
        sync(target.parent)


@contextmanager
def replacing_folder(target: AnyPath) -> Iterator[Path]:
    """Like `replacing`, for a folder: yield an empty local folder that becomes `target` as a whole.

    On an object store the file `manifest.json`, if the folder has one, is removed first and uploaded
    last, so that a folder with a manifest is a complete folder.
    """
    if not isinstance(target, Path):
        with _full_disk_named(target), tempfile.TemporaryDirectory(prefix="captcha-assets-") as name:
            yield Path(name)
            with missing_bucket_named(target):
                _upload_folder(Path(name), target)
        return
    with _full_disk_named(target), _workshop(target) as workshop:
        part = workshop / "new" / target.name
        part.mkdir()
        yield part
        for entry in (part, *part.rglob("*")):
            sync(entry)
        with locked(target.parent):
            if target.exists():
                target.rename(workshop / "old")
            part.rename(target)
            sync(target.parent)


def _upload_folder(folder: Path, target: "UPath") -> None:
    """Make `target` hold the files of `folder` and no others; it has no manifest until it is complete."""
    store, root = target.fs, target.path.rstrip("/")
    addresses = {
        f"{root}/{file.relative_to(folder).as_posix()}": file for file in folder.rglob("*") if file.is_file()
    }
    manifest = f"{root}/manifest.json"
    stale = [address for address in store.find(root) if address == manifest or address not in addresses]
    for address in sorted(stale, key=lambda address: address != manifest):
        store.rm_file(address)
    for address in sorted(addresses, key=lambda address: (address == manifest, address)):
        store.put_file(str(addresses[address]), address)


def move(source: Path, target: AnyPath) -> None:
    """Move a complete file to its place, on another file system too; `target` is replaced as a whole."""
    if not isinstance(target, Path):
        with missing_bucket_named(target):
            target.fs.put_file(str(source), target.path)
        source.unlink()
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        source.replace(target)
        sync(target.parent)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with replacing(target) as part:
            shutil.copyfile(source, part)
        source.unlink()


def json_text(value: Any) -> str:
    """Return `value` as indented JSON with sorted keys."""
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def write_json(target: AnyPath, value: Any) -> None:
    """Write `value` as indented JSON, complete or not at all."""
    with replacing(target) as part:
        part.write_text(json_text(value), encoding="utf-8")


def regular(path: AnyPath) -> AnyPath:
    """Return `path`, unless a folder or a pipe lies there: a reader of a pipe would wait for ever.

    Raises:
        ValueError: one does.
    """
    if isinstance(path, Path) and path.exists() and not path.is_file():
        raise ValueError("it is no regular file")
    return path


def contents(path: AnyPath) -> bytes:
    """Return the bytes of a file.

    An object store is asked for them by one request: they are those of one moment, whoever replaces them.
    """
    return path.read_bytes() if isinstance(path, Path) else bytes(path.fs.cat_file(path.path))


def create(target: AnyPath, content: str | bytes) -> bool:
    """Create a file, whole; return False, and change nothing, where there is one already.

    Of several processes that create the same file at once, exactly one gets True.
    """
    content = content.encode() if isinstance(content, str) else content
    if not isinstance(target, Path):
        try:
            with missing_bucket_named(target):
                target.fs.pipe_file(target.path, content, mode="create")
        except FileExistsError:
            return False
        return True
    with _full_disk_named(target), _workshop(target) as workshop:
        part = workshop / "new" / target.name
        part.write_bytes(content)
        sync(part)
        try:
            target.hardlink_to(part)
        except FileExistsError:
            return False
        sync(target.parent)
    return True


def remove(target: AnyPath) -> None:
    """Remove a file or folder, and what killed writers of it left behind; where there is none, nothing."""
    if not isinstance(target, Path):
        if target.exists():
            target.fs.rm(target.path, recursive=True)
        return
    if target.parent.is_dir():
        with locked(target.parent):
            _sweep(target)
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)
    else:
        target.unlink(missing_ok=True)


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
