"""DVC's record of the batches: `data.dvc` says which bytes `data/` holds."""

import configparser
import hashlib
import io
import json
import logging
import re
import shutil
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from captcha_assets.atomic_files import replacing
from captcha_assets.paths import Paths
from captcha_assets.sources import archives

if TYPE_CHECKING:
    from dvc.repo import Repo


#: What stands before the host of an address, a password perhaps: it is never shown.
_CREDENTIALS = re.compile(r"://[^/]*@")

#: The name of the remote that the settings give.
_REMOTE = "captcha-assets"


class SnapshotError(RuntimeError):
    """DVC failed; the message is the last line of its output."""


@dataclass(frozen=True)
class Snapshot:
    """What `data.dvc` records after a snapshot.

    Attributes:
        md5: DVC's hash of the folder (`….dir`).
        size: bytes.
        files: number of files.
        remote: the remote that the data was pushed to, name and address; None where none is configured.
    """

    md5: str
    size: int
    files: int
    remote: str | None


def snapshot(paths: Paths) -> Snapshot:
    """Record the `data` of a home: with DVC, or where it lies on an object store, as DVC would.

    Raises:
        SnapshotError: there is no data, or DVC failed to add or to push.
    """
    if isinstance(paths.data, Path):
        return take_snapshot(paths.home, paths.dvc_remote)
    folder = f"{paths.data.path.rstrip('/')}/"
    names = [name.removeprefix(folder) for name in paths.data.fs.find(folder)]
    if not names:
        raise SnapshotError("there is no batch yet: captcha-assets batch add NAME SOURCE")
    found = {name: archives.digest_of(paths.data / name) for name in sorted(names)}
    size = sum(digest.bytes for digest in found.values())
    md5 = _md5_of_folder({name: digest.md5 for name, digest in found.items()})
    out = {"md5": md5, "size": size, "nfiles": len(found), "hash": "md5", "path": "data"}
    with replacing(paths.data_record) as part:
        part.write_text(yaml.safe_dump({"outs": [out]}, sort_keys=False))
    return Snapshot(md5, size, len(found), remote=None)


def _md5_of_folder(files: Mapping[str, str]) -> str:
    """Return DVC's hash of a folder from the MD5 of each of its files."""
    listed = [{"md5": files[name], "relpath": name} for name in sorted(files)]
    text = json.dumps(listed, sort_keys=True)
    return f"{hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()}.dir"


def take_snapshot(home: Path, remote: str | None = None) -> Snapshot:
    """Record `home`/data with DVC, and push it where a remote is given, or a default one is configured.

    A home that is not a DVC project yet becomes one of its own, without git. A remote that is given becomes
    the default one in `.dvc/config`, so that `dvc pull` finds it.

    Args:
        home: the folder of `data/`.
        remote: a folder, or an address that DVC knows, without secrets.

    Raises:
        SnapshotError: there is no data, or DVC failed to add or to push.
    """
    from dvc.exceptions import DvcException  # noqa: PLC0415  (DVC takes seconds to import)

    if not (home / "data").is_dir():
        raise SnapshotError("there is no batch yet: captcha-assets batch add NAME SOURCE")
    try:
        # DVC's hints about git would stand between the platform's own lines.
        with redirect_stdout(io.StringIO()), _project(home) as repo:
            if remote and default_remote(home, remote) != default_remote(home):
                _configure(repo, remote)
            repo.add(str(home / "data"))
            name = repo.config["core"].get("remote")
            if name:
                repo.push(targets=[str(home / "data.dvc")])
    except (DvcException, OSError) as error:
        raise SnapshotError(f"DVC could not record {home / 'data'}: {error}") from error
    recorded = yaml.safe_load((home / "data.dvc").read_text())["outs"][0]
    pushed_to = name and (default_remote(home) or name)
    return Snapshot(recorded["md5"], recorded["size"], recorded["nfiles"], pushed_to)


def recorded_files(home: Path) -> frozenset[str] | None:
    """Return the files of `home`/data that `data.dvc` records, as paths relative to it.

    Returns:
        None where that is not known here: nothing was recorded, or DVC's cache does not have the list.
    """
    if not (home / ".dvc").is_dir():
        return None
    from dvc.exceptions import DvcException  # noqa: PLC0415

    try:
        md5 = yaml.safe_load((home / "data.dvc").read_text())["outs"][0]["md5"]
        with _project(home) as repo:
            listed = json.loads(Path(repo.cache.local.oid_to_path(md5)).read_text())
        return frozenset(entry["relpath"] for entry in listed)
    except (DvcException, OSError, ValueError, TypeError, LookupError, yaml.YAMLError):
        return None


def _configure(repo: "Repo", remote: str) -> None:
    """Make an address the default remote of a project."""
    with repo.config.edit() as config:
        config["remote"][_REMOTE] = {"url": remote}
        config["core"]["remote"] = _REMOTE


def default_remote(home: Path, remote: str | None = None) -> str | None:
    """Return the default remote of `home`, its name and address; None where none is configured.

    User name and password of the address are left out. Read without DVC, which takes seconds to import; a
    remote of the user's or the machine's own configuration is not seen.

    Args:
        home: the folder of `data/`.
        remote: the address that the settings give, which the next snapshot configures.
    """
    if remote:
        return f"{_REMOTE} ({remote})"
    config = configparser.ConfigParser(interpolation=None)
    try:
        config.read([home / ".dvc" / "config", home / ".dvc" / "config.local"])
    except (configparser.Error, UnicodeDecodeError):
        return None  # DVC itself reports it
    name = config.get("core", "remote", fallback=None)
    if name is None:
        return None
    address = config.get(f"'remote \"{name}\"'", "url", fallback="no address")
    return f"{name} ({_CREDENTIALS.sub('://', address)})"


def restore(home: Path, md5: str, target: Path) -> bool:
    """Bring back a file of `home`/data by its MD5, from DVC's cache or else from the default remote.

    What is in `data/` now is of no matter: DVC finds its files by their hashes.

    Returns:
        Whether DVC had it; `target` is then the file, complete.

    Raises:
        SnapshotError: the remote cannot be read.
    """
    if not (home / ".dvc").is_dir():
        return False
    from dvc.exceptions import DvcException  # noqa: PLC0415
    from dvc_data.hashfile.hash_info import HashInfo  # noqa: PLC0415

    try:
        with redirect_stdout(io.StringIO()), _project(home) as repo:
            kept = Path(repo.cache.local.oid_to_path(md5))
            if not kept.exists() and repo.config["core"].get("remote"):
                repo.cloud.pull([HashInfo("md5", md5)])
            if kept.exists():
                with replacing(target) as part:
                    shutil.copyfile(kept, part)
            return kept.exists()
    except (DvcException, OSError) as error:
        raise SnapshotError(f"DVC could not bring back the file of MD5 {md5}: {error}") from error


def _project(home: Path) -> "Repo":
    from dvc.repo import Repo  # noqa: PLC0415

    logging.getLogger("dvc").setLevel(logging.WARNING)
    if (home / ".dvc").is_dir():
        return Repo(str(home))
    repo = Repo.init(str(home), no_scm=True)
    with repo.config.edit() as config:
        config["core"].update(analytics=False, check_update=False)
    return repo
