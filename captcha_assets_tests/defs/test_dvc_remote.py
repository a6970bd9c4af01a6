"""The DVC remote of a home: what is pushed to it brings another machine to the same data versions."""

import json
import subprocess
from pathlib import Path

import pytest
from upath import UPath

from captcha_assets_tests.commands import run, succeeded
from captcha_assets_tests.defs.test_batches_come_and_go import (
    THROUGH_SPLITS,
    archive,
    brought_to,
    index_of,
)
from captcha_assets_tests.images.tables import content

pytestmark = pytest.mark.slow


def updated(home: Path, remote: str) -> str:
    return succeeded(home, "update", "--select", THROUGH_SPLITS, CAPTCHA_DVC_REMOTE=remote)


@pytest.fixture
def pushed(tmp_path: Path, bucket: UPath) -> Path:
    """A home with one batch, whose data was pushed to a bucket by a setting."""
    home = tmp_path / "home"
    succeeded(home, "batch", "add", "a", str(archive(tmp_path / "a.zip", 60, seed=1)))
    updated(home, str(bucket / "dvc"))
    return home


def test_a_fresh_home_pulls_and_one_update_gives_the_same_tables(
    pushed: Path, tmp_path: Path, bucket: UPath
) -> None:
    brought_to(tmp_path / "fresh", pushed)
    updated(tmp_path / "fresh", str(bucket / "dvc"))
    here, there = (home / "artifacts" for home in (pushed, tmp_path / "fresh"))
    for table in ("image_index", "splits"):
        assert content(here / table) == content(there / table)
    table = "image_table/a.parquet"
    assert (here / table).read_bytes() == (there / table).read_bytes()
    assert (tmp_path / "fresh" / "data.dvc").read_bytes() == (pushed / "data.dvc").read_bytes()


def test_a_removed_batch_leaves_the_record_and_another_remote_gets_all_that_is_left(
    pushed: Path, tmp_path: Path
) -> None:
    succeeded(pushed, "batch", "add", "b", str(archive(tmp_path / "b.zip", 40, seed=2)))
    succeeded(pushed, "batch", "remove", "a")
    other = str(tmp_path / "other remote")
    planned = succeeded(pushed, "update", "--dry-run", CAPTCHA_DVC_REMOTE=other)
    assert f"data_snapshot: not pushed yet to the DVC remote captcha-assets ({other})" in planned
    updated(pushed, other)
    brought_to(tmp_path / "fresh", pushed)
    assert [path.name for path in (tmp_path / "fresh" / "data" / "raw").iterdir()] == ["b.zip"]
    updated(tmp_path / "fresh", other)
    assert index_of(tmp_path / "fresh").equals(index_of(pushed))


def test_an_object_that_the_remote_has_lost_is_named_by_the_pull(
    pushed: Path, tmp_path: Path, bucket: UPath
) -> None:
    objects = [path for path in (bucket / "dvc").rglob("*") if path.is_file()]
    largest = max(objects, key=lambda path: path.stat().st_size)
    largest.unlink()
    with pytest.raises(subprocess.CalledProcessError) as failed:
        brought_to(tmp_path / "fresh", pushed)
    assert largest.parent.name + largest.name in failed.value.stderr, "the object, by its MD5"
    assert "Traceback" not in failed.value.stderr


def test_an_archive_that_the_remote_has_damaged_is_not_taken_for_the_batch(
    pushed: Path, tmp_path: Path, bucket: UPath
) -> None:
    objects = [path for path in (bucket / "dvc").rglob("*") if path.is_file()]
    largest = max(objects, key=lambda path: path.stat().st_size)
    largest.write_bytes(archive(tmp_path / "other.zip", 20, seed=9).read_bytes())
    brought_to(tmp_path / "fresh", pushed)
    done = run(tmp_path / "fresh", "update", "--select", THROUGH_SPLITS)
    assert done.returncode == 1
    assert "a.zip is not what data.dvc records" in done.stdout
    assert "so that DVC's remote is damaged: bring the archive from another copy" in done.stdout


def test_what_the_remote_has_lost_is_found_by_verify_and_pushed_again(
    pushed: Path, tmp_path: Path, bucket: UPath
) -> None:
    objects = [path for path in (bucket / "dvc").rglob("*") if path.is_file()]
    max(objects, key=lambda path: path.stat().st_size).unlink()
    select = ("--select", THROUGH_SPLITS)
    found = succeeded(pushed, "update", "--verify", "--dry-run", *select)
    assert "would materialize data_snapshot: the DVC remote lacks 1 of our objects" in found
    assert "data_snapshot" in succeeded(pushed, "update", "--dry-run", *select), "it is not forgotten"
    updated(pushed, str(bucket / "dvc"))
    assert "everything is up to date" in succeeded(pushed, "update", "--verify", *select)
    brought_to(tmp_path / "fresh", pushed)


def test_a_remote_that_does_not_exist_fails_the_snapshot_in_one_line(pushed: Path, bucket: UPath) -> None:
    done = run(pushed, "update", CAPTCHA_DVC_REMOTE="s3://no-such-bucket/dvc")
    failed = [line for line in done.stdout.splitlines() if "DVC could not record" in line]
    assert done.returncode == 1
    assert len(failed) == 1
    assert "Traceback" not in done.stdout + done.stderr
    # The data itself is as it was, and the right remote takes it.
    updated(pushed, str(bucket / "dvc"))
    assert json.loads(succeeded(pushed, "batch", "list", "--json").splitlines()[0])["batch"] == "a"


@pytest.mark.parametrize("remote", ["http://host/x", "s3://", "s3://me:secret@bucket/x"])
def test_a_remote_that_cannot_be_used_is_rejected_and_no_secret_shown(tmp_path: Path, remote: str) -> None:
    done = run(tmp_path / "home", "status", CAPTCHA_DVC_REMOTE=remote)
    assert done.returncode == 1
    assert "CAPTCHA_DVC_REMOTE" in done.stderr
    assert "secret" not in done.stderr
