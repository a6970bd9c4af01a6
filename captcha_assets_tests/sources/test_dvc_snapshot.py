"""DVC's record of the batches."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from captcha_assets.dataset import CAPTCHA
from captcha_assets.images.index import build_image_index
from captcha_assets.images.split_assignment import update_splits
from captcha_assets.images.split_record import AssignmentRecord
from captcha_assets.images.table import build_image_table
from captcha_assets.paths import REPOSITORY, Paths
from captcha_assets.settings import Settings
from captcha_assets.sources import synthetic_batches
from captcha_assets.sources.dvc_snapshot import SnapshotError, default_remote, recorded_md5s, take_snapshot


def dvc(home: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(command, cwd=home, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def home(tmp_path: Path) -> Path:
    raw = tmp_path / "home" / "data" / "raw"
    raw.mkdir(parents=True)
    (raw / "one.zip").write_bytes(b"first")
    return tmp_path / "home"


def test_a_home_that_is_not_the_repository_becomes_a_dvc_project_of_its_own(home: Path) -> None:
    taken = take_snapshot(home)
    assert (taken.files, taken.size, taken.remote) == (1, 5, None)
    assert taken.md5 in (home / "data.dvc").read_text()
    assert "up to date" in dvc(home, "status")


def test_the_same_data_has_the_same_version_and_other_data_another(home: Path) -> None:
    first = take_snapshot(home)
    assert take_snapshot(home) == first
    (home / "data" / "raw" / "two.zip").write_bytes(b"second")
    assert take_snapshot(home).md5 != first.md5


def test_the_data_is_pushed_where_a_remote_is_configured_and_comes_back_from_there(
    home: Path, tmp_path: Path
) -> None:
    take_snapshot(home)
    dvc(home, "remote", "add", "--default", "store", str(tmp_path / "store"))
    assert take_snapshot(home).remote == f"store ({tmp_path / 'store'})"
    (home / "data" / "raw" / "one.zip").unlink()
    subprocess.run(["rm", "-rf", str(home / ".dvc" / "cache")], check=True)
    dvc(home, "pull")
    assert (home / "data" / "raw" / "one.zip").read_bytes() == b"first"


def test_a_password_in_the_address_of_a_remote_is_not_shown(home: Path) -> None:
    take_snapshot(home)
    dvc(home, "remote", "add", "--default", "web", "https://somebody:hush@example.com/store")
    assert default_remote(home) == "web (https://example.com/store)"


def test_the_files_that_are_recorded_are_known_where_dvc_has_the_list(home: Path, tmp_path: Path) -> None:
    assert recorded_md5s(home) is None
    take_snapshot(home)
    (home / "data" / "raw" / "one.zip").unlink()
    assert recorded_md5s(home).keys() == {"raw/one.zip"}
    subprocess.run(["rm", "-rf", str(home / ".dvc" / "cache")], check=True)
    assert recorded_md5s(home) is None


def test_a_remote_that_cannot_be_reached_is_one_clear_error(home: Path, tmp_path: Path) -> None:
    take_snapshot(home)
    (tmp_path / "file").touch()
    dvc(home, "remote", "add", "--default", "store", str(tmp_path / "file"))
    with pytest.raises(SnapshotError, match="DVC could not record"):
        take_snapshot(home)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            "<<<<<<< HEAD\n{record}=======\n{record}>>>>>>> other\n",
            "holds two versions.*git checkout --ours data.dvc",
        ),
        ("outs: []\n", "is damaged: restore it, or delete it"),
        ("", "is damaged: restore it, or delete it"),
    ],
)
def test_a_record_that_is_damaged_or_in_conflict_is_named_with_what_to_do(
    home: Path, content: str, words: str
) -> None:
    take_snapshot(home)
    record = home / "data.dvc"
    written = content.format(record=record.read_text())
    record.write_text(written)
    with pytest.raises(SnapshotError, match=words):
        take_snapshot(home)
    assert record.read_text() == written
    record.unlink()
    take_snapshot(home)


def test_a_home_without_data_is_told_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match="there is no batch yet"):
        take_snapshot(tmp_path)


def test_the_committed_record_is_that_of_the_starter_batch_and_its_split_assignments(tmp_path: Path) -> None:
    settings = Settings(paths=Paths(home=tmp_path / "home"))
    archive = settings.paths.raw / "starter.zip"
    synthetic_batches.write_archive(archive, 3000, seed=1)
    table = settings.paths.image_table("starter")
    build_image_table(archive, "starter", table, settings.paths.rejected_images("starter"), CAPTCHA)
    build_image_index({"starter": table}, settings.paths.image_index, CAPTCHA)
    record = AssignmentRecord(settings.paths.split_assignments, settings.paths.scratch)
    update_splits(
        settings.paths.image_index, settings.paths.splits, record, CAPTCHA, settings.paths.image_table
    )
    recorded = yaml.safe_load((REPOSITORY / "data.dvc").read_text())["outs"][0]
    if recorded["nfiles"] > 2:
        pytest.skip("this repository's data.dvc records other batches")
    assert take_snapshot(settings.paths.home).md5 == recorded["md5"]
