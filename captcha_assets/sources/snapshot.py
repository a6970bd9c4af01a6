"""DVC's record of the deliveries: `data.dvc` says which bytes `data/` holds."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import yaml


class SnapshotError(RuntimeError):
    """DVC refused; the message is its own last word."""


@dataclass(frozen=True)
class Snapshot:
    """What `data.dvc` records after a snapshot.

    Attributes:
        md5: DVC's hash of the folder (`….dir`).
        size: bytes.
        files: number of files.
        remote: the remote that the data was pushed to, None where none is configured.
    """

    md5: str
    size: int
    files: int
    remote: str | None


def _dvc(home: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(command, cwd=home, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise SnapshotError(f"`dvc {' '.join(arguments)}` failed in {home}: {' '.join(reason)}")
    return done.stdout


def take_snapshot(home: Path) -> Snapshot:
    """Record `home`/data with DVC, and push it where a default remote is configured.

    A home that is not a DVC project yet becomes one of its own, without git.

    Raises:
        SnapshotError: DVC refused to add or to push.
    """
    if not (home / ".dvc").is_dir():
        _dvc(home, "init", "--no-scm", "--quiet")
        _dvc(home, "config", "core.analytics", "false")
    _dvc(home, "add", "--quiet", "data")
    remote = _default_remote(home)
    if remote:
        _dvc(home, "push", "--quiet", "data.dvc")
    recorded = yaml.safe_load((home / "data.dvc").read_text())["outs"][0]
    return Snapshot(recorded["md5"], recorded["size"], recorded["nfiles"], remote)


def _default_remote(home: Path) -> str | None:
    listed = _dvc(home, "config", "--list").splitlines()
    return next((line.partition("=")[2] for line in listed if line.startswith("core.remote=")), None)
