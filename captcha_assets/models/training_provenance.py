"""The provenance of a training, recorded so that the model can be traced and trained again.

All of it goes into the model's folder (`provenance` in `config.json`) and is no part of its identity.
"""

import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from captcha_assets.images.content_hash import content_hash
from captcha_assets.paths import REPOSITORY, Paths
from captcha_assets.sources import archives, batch_registration, dvc_snapshot


@dataclass(frozen=True)
class Origin:
    """A batch as a training found it.

    Attributes:
        batch: its name.
        source: where it was registered from.
        dataset: `owner/slug`, for a batch from Kaggle.
        kaggle_version: the version that was fetched.
        sha256: hash of its archive; `md5` likewise, which is what DVC records (None where the archive is
            not on this machine).
        image_table: data version of its images.
    """

    batch: str
    source: str
    dataset: str | None
    kaggle_version: int | None
    sha256: str | None
    md5: str | None
    image_table: str


def trained_batches(recorded: Mapping[str, Any]) -> list[str]:
    """Return the names of the batches that a model was trained on, from its recorded provenance."""
    return list(recorded.get("batches") or recorded.get("deliveries") or ())  # models of earlier versions


@dataclass(frozen=True)
class Commit:
    """The code as git knows it: the commit, and whether the package differs from it."""

    id: str
    modified: bool


def recorded(paths: Paths, batches: Iterable[str]) -> dict[str, Any]:
    """Return what to record with a model that is about to be trained on these batches."""
    commit = code_commit()
    return {
        "sources": [asdict(origin(paths, batch)) for batch in batches],
        "dvc_md5": dvc_md5(paths),
        "commit": commit.id if commit else None,
        "commit_modified": commit.modified if commit else None,
    }


def origins(provenance: dict[str, Any]) -> list[Origin]:
    """Return the batches that `recorded` gave a model; none for a model older than that."""
    return [Origin(**row) for row in provenance.get("sources", ())]


def origin(paths: Paths, batch: str) -> Origin:
    """Describe a batch from its registration, its archive and its image table."""
    known, archive = (
        batch_registration.registration(paths, batch),
        batch_registration.archive_path(paths, batch),
    )
    digest = archives.digest_of(archive) if archive.exists() else None
    return Origin(
        batch=batch,
        source=str(known.source) if known else batch_registration.FOUND,
        dataset=known.dataset if known else None,
        kaggle_version=known.kaggle_version if known else None,
        sha256=digest.sha256 if digest else known.sha256 if known else None,
        md5=digest.md5 if digest else None,
        image_table=content_hash(paths.image_table(batch)),
    )


def dvc_md5(paths: Paths) -> str | None:
    """Return DVC's hash of `data/` as `data.dvc` of the home has it; None where there is no such file."""
    if not paths.data_record.is_file():
        return None
    try:
        return dvc_snapshot.recorded_folder(paths.data_record).get("md5")
    except (TypeError, LookupError):
        return None  # it records nothing


def code_commit(repository: Path = REPOSITORY) -> Commit | None:
    """Return the commit that the package's code is checked out from; None where it is no git checkout."""
    head = _git(repository, "rev-parse", "HEAD")
    if head is None:
        return None
    return Commit(head, bool(_git(repository, "status", "--porcelain", "--", "captcha_assets")))


def same_code(one: str, other: str, repository: Path = REPOSITORY) -> bool:
    """Say whether two commits hold the same package, whatever else they change."""
    trees = [_git(repository, "rev-parse", f"{commit}:captcha_assets") for commit in (one, other)]
    return one == other or (trees[0] is not None and trees[0] == trees[1])


def _git(repository: Path, *arguments: str) -> str | None:
    if not (repository / ".git").exists():  # a package installed somewhere inside another checkout
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(repository), *arguments], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
