"""The Kaggle data set: which version is published, and its archive exactly as Kaggle serves it.

kagglehub's public functions unpack what they download and delete the archive, so this drives the two
parts below them: its API client and its resumable download. The client takes a second to import, which
loading this module must not cost: it is imported where it is used.
"""

import base64
import fcntl
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests
from requests.adapters import HTTPAdapter

from captcha_assets.images.archive_reader import ArchiveError, open_archive
from captcha_assets.images.rejection import Reason, Rejection
from captcha_assets.sources import archives
from captcha_assets.sources.archives import BatchError

if TYPE_CHECKING:
    from kagglehub.config import KaggleApiCredentials
    from kagglehub.handle import DatasetHandle
    from kagglesdk import KaggleClient

#: Seconds to wait for a connection, and for the next byte.
_TIMEOUT = (10, 60)
#: What requests raises when a connection breaks, or the server falls silent.
_BROKEN = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
#: Times that a broken download is taken up again within one call, and that a corrupt one is repeated.
_RESUMES = 6
_REPEATS = 1

_HOW_TO_SIGN_IN = (
    "set KAGGLE_API_TOKEN (created at https://www.kaggle.com/settings/api), or KAGGLE_USERNAME and "
    "KAGGLE_KEY, or put kaggle.json into ~/.kaggle"
)


class KaggleError(BatchError):
    """A request to Kaggle failed; one line says why and what to do."""


class KaggleCredentialsError(KaggleError):
    """There are no credentials for Kaggle, or it rejected them."""


class KaggleNotFoundError(KaggleError):
    """Kaggle has no such data set or version."""


class _CorruptError(Exception):
    """What arrived is not what was announced."""


@dataclass(frozen=True)
class KaggleVersion:
    """One version of a data set.

    Attributes:
        dataset: `owner/slug`.
        bytes: size; of the unpacked files as published, of the archive as downloaded.
        updated: day of publication, ISO 8601, where Kaggle says so.
    """

    dataset: str
    version: int
    bytes: int | None = None
    updated: str | None = None


def published_version(dataset: str) -> KaggleVersion:
    """Ask Kaggle which version of a data set (`owner/slug`) is the newest.

    Raises:
        KaggleCredentialsError: no credentials, or rejected.
        KaggleError: no such data set, or Kaggle cannot be asked now.
    """
    from kagglesdk.datasets.types.dataset_api_service import ApiGetDatasetRequest  # noqa: PLC0415

    handle = _handle(dataset, None)
    request = ApiGetDatasetRequest()
    request.owner_slug, request.dataset_slug = handle.owner, handle.dataset
    with _plain_errors(handle), _client() as client:
        found = client.datasets.dataset_api_client.get_dataset(request)
    if not found.current_version_number:
        raise KaggleError(f"Kaggle names no version of {_name(handle)}: look at {handle.to_url()}")
    updated = found.last_updated.date().isoformat() if found.last_updated else None
    return KaggleVersion(_name(handle), found.current_version_number, found.total_bytes or None, updated)


def download(
    dataset: str, version: int | None, target: Path, scratch: Path, progress: Callable[[str], None]
) -> KaggleVersion:
    """Download the archive of one version (the newest by default) and check it.

    What a broken or killed download has received stays in `scratch` and the next call resumes from there.

    Args:
        dataset: `owner/slug`.
        version: number of the version.
        target: where the complete, checked archive is put.
        scratch: folder of what is not complete; on the file system of `target`.
        progress: is handed one line at a time, from another thread too.

    Raises:
        KaggleCredentialsError: no credentials, or rejected.
        KaggleError: no such data set or version, Kaggle cannot be asked now, or the archive is corrupt.
        OSError: the disk is full, say.
    """
    version = version or published_version(dataset).version
    handle = _handle(dataset, version)
    part = scratch / f"{handle.owner}--{handle.dataset}--{version}.zip"
    with _alone(part), _plain_errors(handle), _client() as client:
        _persist(client, handle, part, progress)
        size = _size(part)
        part.replace(target)
    return KaggleVersion(_name(handle), version, size)


def _handle(dataset: str, version: int | None) -> "DatasetHandle":
    from kagglehub.handle import parse_dataset_handle  # noqa: PLC0415

    try:
        handle = parse_dataset_handle(dataset)
    except ValueError as error:
        raise KaggleError(f"{dataset!r} does not name a Kaggle data set: write owner/slug") from error
    return handle if version is None else handle.with_version(version)


def _name(handle: "DatasetHandle") -> str:
    return f"{handle.owner}/{handle.dataset}"


class _Patient(HTTPAdapter):
    """Gives up on a silent server; the client itself would wait for ever."""

    def send(self, *args: Any, **options: Any) -> requests.Response:
        return super().send(*args, **{**options, "timeout": options.get("timeout") or _TIMEOUT})


def credentials_problem() -> str | None:
    """Return why nothing can be fetched from Kaggle, and what to do; None where there are credentials."""
    try:
        _credentials()
    except KaggleCredentialsError as error:
        return str(error)
    return None


def _credentials() -> "KaggleApiCredentials":
    from kagglehub.config import get_kaggle_credentials  # noqa: PLC0415

    logging.getLogger("kagglehub").setLevel(logging.WARNING)  # it would write on standard output
    try:
        credentials = get_kaggle_credentials()
    except (ValueError, OSError) as error:
        raise KaggleCredentialsError(f"{error}: repair it, or {_HOW_TO_SIGN_IN}") from error
    if credentials is None:
        raise KaggleCredentialsError(f"no credentials for Kaggle: {_HOW_TO_SIGN_IN}")
    return credentials


@contextmanager
def _client() -> "Iterator[KaggleClient]":
    """Yield a signed-in client. kagglehub's own would print whole responses in its test environment."""
    from kagglehub import __version__  # noqa: PLC0415
    from kagglesdk import KaggleClient  # noqa: PLC0415
    from kagglesdk.kaggle_env import get_env  # noqa: PLC0415

    credentials = _credentials()
    with KaggleClient(
        env=get_env(),
        username=credentials.username,
        password=credentials.key,
        api_token=credentials.api_key,
        user_agent=f"kagglehub/{__version__}",
    ) as client:
        session = client.http_client()._session  # noqa: SLF001 - it offers no other way to a timeout
        for scheme in ("https://", "http://"):
            session.mount(scheme, _Patient())
        yield client


@contextmanager
def _alone(part: Path) -> Iterator[None]:
    """Let one process at a time write to `part`; on a full disk what it has is given up."""
    part.parent.mkdir(parents=True, exist_ok=True)
    with part.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield
        except OSError:
            part.unlink(missing_ok=True)
            raise


def _persist(
    client: "KaggleClient", handle: "DatasetHandle", part: Path, progress: Callable[[str], None]
) -> None:
    """Download into `part` until it is complete and right, or there is no hope."""
    begun, repeats = _size(part), 0
    for attempt in range(_RESUMES + 1):
        time.sleep(min(30, 2**attempt - 1))
        try:
            _receive(client, handle, part, progress)
            break
        except _CorruptError as error:
            part.unlink(missing_ok=True)
            if repeats == _REPEATS:
                raise KaggleError(f"{_what(handle)} arrived corrupt ({error}): try again later") from error
            repeats += 1
            progress(f"{_what(handle)}: {error}; starting over")
        except _BROKEN:
            if attempt == _RESUMES or _size(part) == begun:
                raise
            progress(f"{_what(handle)}: connection lost after {_size(part):,} bytes; resuming from there")


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _receive(
    client: "KaggleClient", handle: "DatasetHandle", part: Path, progress: Callable[[str], None]
) -> None:
    """One request: begin or go on with `part`, and check it when it is complete."""
    from kagglehub.clients import download_file  # noqa: PLC0415
    from kagglehub.exceptions import DataCorruptionError  # noqa: PLC0415
    from kagglehub.integrity import get_md5_checksum_from_response  # noqa: PLC0415
    from kagglesdk.datasets.types.dataset_api_service import ApiDownloadDatasetRequest  # noqa: PLC0415

    request = ApiDownloadDatasetRequest()
    request.owner_slug, request.dataset_slug = handle.owner, handle.dataset
    request.dataset_version_number = handle.version
    with client.datasets.dataset_api_client.download_dataset(request) as response:
        length = response.headers.get("Content-Length")
        size = None if length is None else int(length)
        with _reporting(_what(handle), part, size, progress):
            try:
                download_file(response, os.fspath(part), handle)
            except DataCorruptionError as error:
                raise _CorruptError("its md5 is not the one announced") from error
        _verify(part, size, get_md5_checksum_from_response(response))


@contextmanager
def _reporting(what: str, part: Path, size: int | None, progress: Callable[[str], None]) -> Iterator[None]:
    """Report each tenth of the download while the block runs."""
    done = threading.Event()

    def watch() -> None:
        tenth = 0
        while size and not done.wait(0.2):
            now = _size(part) * 10 // size
            if now > tenth:
                tenth = now
                progress(f"{what}: {tenth * 10} % of {size:,} bytes")

    begun = _size(part)
    progress(
        f"{what}: {f'{size:,} bytes' if size else 'size unknown'}"
        + (f", {begun:,} are here" if begun else "")
    )
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def _verify(part: Path, size: int | None, md5: str | None) -> None:
    """Check size and md5 where announced, the archive's directory, and the members' checksums without md5.

    kagglehub checks the md5 only of what it has just received, and neither size nor status of a resumption.
    """
    digest = archives.digest_of(part)
    if size not in (None, digest.bytes):
        raise _CorruptError(f"it has {digest.bytes:,} bytes instead of {size:,}")
    if md5 is not None and base64.b64encode(bytes.fromhex(digest.md5)).decode() != md5:
        raise _CorruptError("its md5 is not the one announced")
    try:
        damaged = _damaged_member(part)
    except ArchiveError as error:
        raise _CorruptError(f"it is not a complete zip archive: {error}") from error
    if damaged is not None and md5 is None:  # with the announced md5, it was published like that
        raise _CorruptError(f"its member {damaged} is damaged")


def _damaged_member(archive: Path) -> str | None:
    with open_archive(archive) as members:
        for name, data in members:
            if isinstance(data, Rejection) and data.reason is Reason.CORRUPT:
                return name
    return None


def _what(handle: "DatasetHandle") -> str:
    return f"Kaggle {_name(handle)}" + (f" version {handle.version}" if handle.version else "")


@contextmanager
def _plain_errors(handle: "DatasetHandle") -> Iterator[None]:
    """Say in one line why Kaggle did not answer as hoped."""
    try:
        yield
    except requests.HTTPError as error:
        raise _explained(handle, error) from error
    except (requests.RequestException, json.JSONDecodeError) as error:
        raise KaggleError(
            f"{_what(handle)}: no answer that can be used ({type(error).__name__}); check the network and"
            " run it again: a download resumes where it was"
        ) from error


def _explained(handle: "DatasetHandle", error: requests.HTTPError) -> KaggleError:
    assert error.response is not None
    status, what = _status(error.response), _what(handle)
    if status == 401:
        return KaggleCredentialsError(f"{what}: Kaggle rejected the credentials (401): {_HOW_TO_SIGN_IN}")
    if status == 403:
        return KaggleError(
            f"{what}: this account may not read it (403): accept its terms at {handle.to_url()}, or"
            f" {_HOW_TO_SIGN_IN}"
        )
    if status == 404:
        return KaggleNotFoundError(
            f"{what}: there is none (404): look up name and version at {handle.to_url()}"
        )
    if status == 429:
        pause = error.response.headers.get("Retry-After")
        return KaggleError(
            f"{what}: too many requests (429): try again " + (f"in {pause} seconds" if pause else "later")
        )
    return KaggleError(f"{what}: Kaggle answered with an error ({status}): try again later")


def _status(response: requests.Response) -> int:
    """The status, which the API sometimes states in the body of an answer that claims success."""
    return response.status_code if response.status_code >= 400 else int(response.json()["code"])
