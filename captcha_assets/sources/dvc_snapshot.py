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
from typing import TYPE_CHECKING, Any

import yaml

from captcha_assets.atomic_files import AnyPath, replacing
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
    _check_record(home / "data.dvc")
    try:
        # DVC's hints about git would stand between the platform's own lines.
        with redirect_stdout(io.StringIO()), _project(home) as repo:
            if remote and default_remote(home, remote) != default_remote(home):
                _configure(repo, remote)
            repo.add(str(home / "data"))
            name = repo.config["core"].get("remote")
            if name:
                repo.push(targets=[str(home / "data.dvc")])
                _push_lost(repo, _md5(home))
                _lost_objects(home).unlink(missing_ok=True)
    except (DvcException, OSError) as error:
        raise SnapshotError(f"DVC could not record {home / 'data'}: {error}") from error
    recorded = recorded_folder(home / "data.dvc")
    pushed_to = name and (default_remote(home) or name)
    return Snapshot(recorded["md5"], recorded["size"], recorded["nfiles"], pushed_to)


def _check_record(record: Path) -> None:
    """Raise an error for a record that DVC cannot read, such as one that a merge of git left in conflict."""
    try:
        recorded_folder(record)["md5"]
    except FileNotFoundError:
        return
    except (yaml.YAMLError, ValueError, TypeError, LookupError):
        conflict = record.is_file() and "<<<<<<<" in record.read_text(encoding="utf-8", errors="replace")
        raise SnapshotError(
            f"{record} holds two versions, since a merge of git met a conflict: take one of them (git "
            "checkout --ours data.dvc, or --theirs), bring its files (dvc pull), add the batches that it "
            "lacks, and run it again"
            if conflict
            else f"{record} is damaged: restore it, or delete it, and run it again"
        ) from None


def recorded_folder(record: AnyPath) -> dict[str, Any]:
    """Return what `data.dvc` records of `data/`: md5, size and nfiles above all.

    Args:
        record: path of `data.dvc`.

    Raises:
        FileNotFoundError: there is no such file.
        YAMLError, ValueError, TypeError, LookupError: it is damaged.
    """
    return dict(yaml.safe_load(record.read_text(encoding="utf-8"))["outs"][0])


def _md5(home: Path) -> str:
    return str(recorded_folder(home / "data.dvc")["md5"])


def _listed(repo: "Repo", md5: str) -> dict[str, str]:
    """Return the MD5 of each file of a folder, from DVC's cache, by its path in the folder."""
    listed = json.loads(Path(repo.cache.local.oid_to_path(md5)).read_text())
    return {entry["relpath"]: entry["md5"] for entry in listed}


def _lost(repo: "Repo", md5: str) -> set[str]:
    """Return the objects of a folder that the default remote does not have.

    DVC itself takes a folder for whole as long as the remote has its list.
    """
    objects = {md5, *_listed(repo, md5).values()}
    return objects - set(repo.cloud.get_remote_odb().oids_exist(sorted(objects)))


def _push_lost(repo: "Repo", md5: str) -> None:
    """Push the objects that the default remote had once, and has no more."""
    from dvc_data.hashfile.hash_info import HashInfo  # noqa: PLC0415
    from dvc_data.hashfile.transfer import transfer  # noqa: PLC0415

    if lost := _lost(repo, md5):
        remote = repo.cloud.get_remote_odb()
        transfer(repo.cache.local, remote, {HashInfo("md5", name) for name in lost})


def _lost_objects(home: Path) -> Path:
    """Return the file that says what the remote lacks, as it was looked at last; absent where nothing."""
    return home / ".scratch" / "dvc_remote.txt"


def verify_remote(home: Path, remote: str | None = None) -> None:
    """Ask the default remote for every object of `data.dvc`; `missing_on_remote` then says what it lacks."""
    from dvc.exceptions import DvcException  # noqa: PLC0415

    if default_remote(home, remote) is None or not (home / ".dvc").is_dir():
        return
    said = ""
    try:
        with redirect_stdout(io.StringIO()), _project(home) as repo:
            lost = sorted(_lost(repo, _md5(home)))
        if lost:
            said = f"the DVC remote lacks {len(lost)} of our objects, or they are damaged; {lost[0]} is one"
    except (DvcException, OSError, ValueError, TypeError, LookupError, yaml.YAMLError) as error:
        said = f"the DVC remote cannot be looked at: {' '.join(str(error).split())}"
    if said:
        with replacing(_lost_objects(home)) as part:
            part.write_text(said)
    else:
        _lost_objects(home).unlink(missing_ok=True)


def missing_on_remote(home: Path) -> str | None:
    """Return what the remote lacked when it was asked last, in words; None where it had everything."""
    try:
        return _lost_objects(home).read_text()
    except OSError:
        return None


def recorded_md5s(home: Path) -> dict[str, str] | None:
    """Return the MD5 of each file of `home`/data that `data.dvc` records, by its path relative to it.

    Returns:
        None where that is not known here: nothing was recorded, or DVC's cache does not have the list.
    """
    if not (home / ".dvc").is_dir():
        return None
    from dvc.exceptions import DvcException  # noqa: PLC0415

    try:
        with _project(home) as repo:
            return _listed(repo, _md5(home))
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
