"""What no update can compute again survives the loss of a home: backed up by one command, restored by one."""

import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
from upath import UPath

from captcha_assets import backup
from captcha_assets.atomic_files import fetched
from captcha_assets.backup import LOG
from captcha_assets.locks import locked_file
from captcha_assets.models import registry
from captcha_assets.paths import Paths
from captcha_assets.serving.prediction_log import open_prediction_log
from captcha_assets_tests.commands import run, succeeded
from captcha_assets_tests.defs.conftest import Home
from captcha_assets_tests.images.tables import content
from captcha_assets_tests.models.conftest import make_model
from captcha_assets_tests.serving.predictions import prediction

DATABASE = ".serving/predictions.db"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with a registered batch, some predictions and a correction."""
    home = tmp_path / "home"
    succeeded(home, "batch", "add", "a", "synthetic:20:1")
    with open_prediction_log(f"sqlite:///{home / DATABASE}") as log:
        for number in range(5):
            log.record(prediction(number))
        log.correct("id-3", "w")
    return home


def backed_up(home: Path, *options: str) -> Path:
    target = home.parent / "backup.zip"
    succeeded(home, "backup", "create", str(target), *options)
    return target


@pytest.mark.parametrize("folder", ["data/raw", "artifacts/models", "inbox", ".dagster", ".serving"])
def test_a_backup_into_a_folder_that_is_backed_up_is_refused(home: Path, folder: str) -> None:
    (home / folder).mkdir(parents=True, exist_ok=True)
    before = files(home)
    target = home / folder / ".." / Path(folder).name / "backup.zip"
    line = fails(home, "backup", "create", str(target))
    kept = home / Path(folder).parts[0]
    assert line == f"Error: {target} lies in {kept}, which is backed up: name a file outside of it"
    assert {name for name in files(home) if name.endswith(".zip")} == set()
    assert before.keys() <= files(home).keys()


def test_a_backup_beside_what_is_backed_up_is_made(home: Path) -> None:
    (home / "backups").mkdir()
    before = files(home)
    target = home / "backups" / "backup.zip"
    succeeded(home, "backup", "create", str(target))
    with zipfile.ZipFile(target) as made:
        assert made.testzip() is None
        assert set(made.namelist()) & before.keys()


def test_a_backup_says_that_the_history_of_the_champion_is_lost(home: Path) -> None:
    models = Paths(home=home).models
    make_model(home.parent / "model", 1)
    registry.promote(models, registry.add_candidate(models, home.parent / "model"), "the first")
    lost = registry.record_path(models, 1)
    lost.unlink()
    said = succeeded(home, "backup", "create", str(home.parent / "backup.zip"))
    assert f"not in it: the whole history of the champion: {lost} is missing" in said


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fails(home: Path, *arguments: str) -> str:
    done = run(home, *arguments)
    assert done.returncode == 1, done.stdout
    (line,) = done.stderr.strip().splitlines()
    return line


@pytest.mark.slow
def test_a_home_that_is_lost_comes_back_with_its_runs_models_and_predictions(
    finished: Home, tmp_path: Path
) -> None:
    home = finished.settings.paths.home
    finished.instance.dispose()
    log = f"sqlite:///{home / DATABASE}"
    with open_prediction_log(log) as service:
        service.record(prediction(1))
        service.flush()
        before = {
            "model": succeeded(home, "model", "show", "champion"),
            "list": succeeded(home, "model", "list"),
        }
        saved = backed_up(home, "--archives")  # the log is in use
    splits = content(home / "artifacts" / "splits")
    runs = len(files(home / ".dagster" / "history"))
    shutil.rmtree(home)

    succeeded(home, "status")  # whoever wonders what is left
    said = succeeded(home, "backup", "restore", str(saved))
    assert f"{home} is as {home} was at 20" in said
    assert "dvc pull" not in said, "the archives are in it"
    assert len(files(home / ".dagster" / "history")) >= runs
    updated = succeeded(home, "update")
    assert "materializing image_index: missing" in updated
    assert "materializing resnet18" not in updated
    assert content(home / "artifacts" / "splits") == splits
    assert succeeded(home, "model", "show", "champion") == before["model"]
    assert succeeded(home, "model", "list") == before["list"]
    assert "everything is up to date" in succeeded(home, "update")
    with open_prediction_log(log) as restored:
        assert [one.inference_id for one in restored.recent(10)] == ["id-1"]


def test_predictions_corrections_and_registrations_are_restored(home: Path, tmp_path: Path) -> None:
    saved = backed_up(home)
    said = succeeded(tmp_path / "other", "backup", "restore", str(saved))
    assert "the update fetches the archives from their sources" in said
    assert "dvc pull" not in said, "there is no remote"
    assert not (tmp_path / "other" / ".restoring").exists()
    with open_prediction_log(f"sqlite:///{tmp_path / 'other' / DATABASE}") as log:
        assert len(log.recent(10)) == 5
        assert [one.label for one in log.corrections("id-3")] == ["w"]
    (batch,) = succeeded(tmp_path / "other", "batch", "list", "--json").splitlines()
    assert json.loads(batch)["batch"] == "a"


def test_a_backup_is_not_restored_over_a_home_that_was_used(home: Path) -> None:
    saved = backed_up(home)
    before = files(home / "artifacts")
    said = fails(home, "backup", "restore", str(saved))
    assert "a backup is restored into a home that was not used yet" in said
    assert files(home / "artifacts") == before


def test_a_restoration_that_was_killed_is_said_by_every_command_until_it_is_run_again(
    home: Path, tmp_path: Path
) -> None:
    saved, other = backed_up(home), tmp_path / "other"
    (other / ".restoring").mkdir(parents=True)  # it was killed while it unpacked
    again = tmp_path / "of_a_part.zip"
    for command in (
        ["status"],
        ["update", "--dry-run"],
        ["batch", "add", "x", "synthetic:50:3"],
        ["backup", "create", str(again)],
    ):
        assert "only in part: run captcha-assets backup restore PATH again" in fails(other, *command)
    assert not again.exists()
    succeeded(other, "backup", "restore", str(saved))
    succeeded(other, "status")


def test_a_backup_into_a_folder_that_is_not_there_is_rejected(home: Path, tmp_path: Path) -> None:
    said = fails(home, "backup", "create", str(tmp_path / "disk" / "backup.zip"))
    assert said == f"Error: {tmp_path / 'disk'} is not there: create the folder, or give another one"
    assert not (tmp_path / "disk").exists()


def test_a_backup_of_the_other_profile_is_rejected(home: Path, tmp_path: Path) -> None:
    saved = backed_up(home)
    with zipfile.ZipFile(saved) as source, zipfile.ZipFile(tmp_path / "shared.zip", "w") as target:
        for name in source.namelist():
            content = source.read(name)
            target.writestr(
                name, content.replace(b'"local"', b'"shared"') if name == "manifest.json" else content
            )
    said = fails(tmp_path / "other", "backup", "restore", str(tmp_path / "shared.zip"))
    assert "is of a home with the profile shared: set CAPTCHA_PROFILE=shared" in said
    assert not (tmp_path / "other" / ".dagster").exists()


def test_a_full_disk_under_a_restoration_is_one_line_and_it_goes_on_when_there_is_room(
    home: Path, small_disk: Path
) -> None:
    saved = backed_up(home)
    filling = small_disk / "filling"
    filling.write_bytes(b"x" * 280_000)
    said = fails(small_disk / "home", "backup", "restore", str(saved))
    assert "free some and" in said
    filling.unlink()
    subprocess.run(["mount", "-o", "remount,size=50m", str(small_disk)], check=True)
    succeeded(small_disk / "home", "backup", "restore", str(saved))


def test_a_backup_is_not_written_over_a_file(home: Path) -> None:
    saved = backed_up(home)
    before = saved.read_bytes()
    assert fails(home, "backup", "create", str(saved)) == f"Error: {saved} is there already: give a new name"
    assert saved.read_bytes() == before


def test_a_damaged_backup_restores_nothing(home: Path, tmp_path: Path) -> None:
    saved = backed_up(home)
    with zipfile.ZipFile(saved) as source, zipfile.ZipFile(tmp_path / "changed.zip", "w") as target:
        for name in source.namelist():
            content = source.read(name)
            target.writestr(name, content + b" " if name.endswith("deliveries/a.json") else content)
    whole = saved.read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "flipped.zip").write_bytes(whole[:200] + bytes([whole[200] ^ 255]) + whole[201:])
    (tmp_path / "text.zip").write_text("no zip")
    for name in ("changed.zip", "cut.zip", "flipped.zip", "text.zip", "absent.zip"):
        other = tmp_path / f"of {name}"
        said = fails(other, "backup", "restore", str(tmp_path / name))
        assert name in said
        left = set(files(other)) - {".dagster/dagster.yaml", ".scratch/locks/_restoring.lock"}
        assert not left, name


@pytest.mark.parametrize(
    "name",
    [
        "../outside", "home/../../outside", "home/data/splits/../../../../outside", "/outside",
        "elsewhere/file", "home/captcha_assets/backup.py", "home/.git/hooks/pre-commit",
        "home/.dagster/../.envrc", "artifacts/image_table/a.parquet",
    ],
)  # fmt: skip
def test_a_backup_that_names_what_none_holds_is_rejected(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as target:
        target.writestr(name, "x")
        said = {"format": 1, "made": "now", "home": "h", "files": {name: "0"}, "left_out": []}
        target.writestr("manifest.json", json.dumps(said))
    assert "is damaged: it names" in fails(tmp_path / "home", "backup", "restore", str(tmp_path / "bad.zip"))
    assert not (tmp_path / "outside").exists()


@pytest.mark.parametrize(
    "manifest",
    [
        "[]",
        "{}",
        '{"format": 1, "files": 3, "left_out": []}',
        "no json",
        pytest.param(100_000 * "[", id="nested"),
    ],
)
def test_a_zip_that_is_no_backup_is_called_so(tmp_path: Path, manifest: str) -> None:
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as target:
        target.writestr("manifest.json", manifest)
    said = fails(tmp_path / "home", "backup", "restore", str(tmp_path / "other.zip"))
    assert said == f"Error: {tmp_path / 'other.zip'} is no backup: it has no manifest.json, or another one"


def test_a_device_is_no_backup(tmp_path: Path) -> None:
    said = fails(tmp_path / "home", "backup", "restore", "/dev/zero")
    assert said == "Error: /dev/zero is no backup: it is no regular file"


def test_a_backup_is_not_restored_among_other_files(home: Path, tmp_path: Path) -> None:
    saved = backed_up(home)
    (tmp_path / "documents").mkdir()
    (tmp_path / "documents" / "letter.txt").write_text("hello")
    said = fails(tmp_path / "documents", "backup", "restore", str(saved))
    assert "it holds other files, and none of a home. Give an empty folder" in said
    assert set(files(tmp_path / "documents")) == {"letter.txt"}


def test_a_damaged_log_is_named_and_no_backup_is_left(home: Path, tmp_path: Path) -> None:
    database = home / DATABASE
    content = bytearray(database.read_bytes())
    content[4096:12288] = b"\xff" * 8192
    database.write_bytes(content)
    for beside in database.parent.glob("predictions.db-*"):
        beside.unlink()
    assert str(database) in fails(home, "backup", "create", str(tmp_path / "backup.zip"))
    assert not (tmp_path / "backup.zip").exists()


def test_a_restoration_that_was_killed_goes_on(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = backed_up(home)
    paths = Paths(home=tmp_path / "other")
    log = f"sqlite:///{paths.home / DATABASE}"
    copies, copyfile = [], shutil.copyfile

    def killed_at_the_third(source: Path, target: Path) -> None:
        copies.append(source)
        if len(copies) == 3:
            raise KeyboardInterrupt
        copyfile(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "copyfile", killed_at_the_third)
        with pytest.raises(KeyboardInterrupt):
            backup.restore(paths, paths.dagster_home, log, saved)
    restored = backup.restore(paths, paths.dagster_home, log, saved)
    for name in restored.files:
        if name.startswith("home/"):
            assert (paths.home / name.removeprefix("home/")).exists()
    with open_prediction_log(log) as found:
        assert len(found.recent(10)) == 5


def test_with_the_profile_shared_each_file_comes_back_to_the_home_or_to_the_store(
    bucket: UPath, tmp_path: Path
) -> None:
    homes = [
        Paths(
            home=tmp_path / name,
            profile="shared",
            database="postgresql://user@localhost/unused",
            artifacts=str(bucket / name / "artifacts"),
        )
        for name in ("first", "second")
    ]
    first, second = homes
    first.home.mkdir()
    (first.home / "alerts.jsonl").write_text("of the time when its profile was local\n")
    (first.shared_root / "alerts" / "one.json").write_text("{}")
    backup.create(first, first.dagster_home, None, tmp_path / "backup.zip")
    backup.restore(second, second.dagster_home, None, tmp_path / "backup.zip")
    assert (second.home / "alerts.jsonl").read_text() == "of the time when its profile was local\n"
    assert not (second.shared_root / "alerts.jsonl").exists()
    assert (second.shared_root / "alerts" / "one.json").read_text() == "{}"
    assert not (second.home / "alerts").exists()


def test_a_restoration_that_is_killed_while_it_removes_its_folder_is_complete(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved, paths = backed_up(home), Paths(home=tmp_path / "other")
    rmtree = shutil.rmtree

    def killed_after_the_list(folder: Path, ignore_errors: bool = False) -> None:
        if (Path(folder) / "manifest.json").exists():
            (Path(folder) / "manifest.json").unlink()
            raise KeyboardInterrupt
        rmtree(folder, ignore_errors=ignore_errors)

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", killed_after_the_list)
        with pytest.raises(KeyboardInterrupt):
            backup.restore(paths, paths.dagster_home, f"sqlite:///{paths.home / DATABASE}", saved)
    assert [
        json.loads(line)["batch"] for line in succeeded(paths.home, "batch", "list", "--json").splitlines()
    ] == ["a"]
    assert "a home that was not used yet" in fails(paths.home, "backup", "restore", str(saved))
    assert not (paths.home / ".restored").exists()
    assert not (paths.home / ".restoring").exists()


@pytest.mark.parametrize("damaged", ["manifest.json", LOG])
def test_what_a_killed_restoration_left_damaged_is_unpacked_again(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: str
) -> None:
    saved, paths = backed_up(home), Paths(home=tmp_path / "other")
    log = f"sqlite:///{paths.home / DATABASE}"

    def killed(_source: Path, _target: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "copyfile", killed)
        with pytest.raises(KeyboardInterrupt):
            backup.restore(paths, paths.dagster_home, log, saved)
    unpacked = paths.unfinished_restoration / damaged
    unpacked.write_bytes(unpacked.read_bytes()[:100])  # what the disk had of it
    succeeded(paths.home, "backup", "restore", str(saved))
    with open_prediction_log(log) as found:
        assert len(found.recent(10)) == 5


def test_two_restorations_into_one_home_come_one_after_the_other(home: Path, tmp_path: Path) -> None:
    saved, other = backed_up(home), tmp_path / "other"
    command = [sys.executable, "-m", "captcha_assets.cli", "backup", "restore", str(saved)]
    environment = os.environ | {"CAPTCHA_HOME": str(other), "PYTHONUNBUFFERED": "1"}
    with locked_file(other / ".scratch", "_restoring"):  # as another restoration holds it
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        assert process.stdout
        assert process.stdout.readline() == "waiting for another restoration into this home\n"
        assert not (other / ".restoring").exists()
    said, _errors = process.communicate(timeout=120)
    assert process.returncode == 0
    assert f"{other} is as {home} was at" in said


def test_a_backup_is_compressed_and_needs_no_room_for_copies_of_all_files(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths, target = Paths(home=tmp_path / "home"), tmp_path / "backup.zip"
    large = paths.artifact_root / "evaluation" / "large.json"
    large.parent.mkdir(parents=True)
    large.write_bytes(b"1, " * 1_000_000)
    (paths.dagster_home / "history").mkdir(parents=True)
    for number in range(10):
        with closing(sqlite3.connect(paths.dagster_home / "history" / f"{number}.db")) as database:
            database.execute("CREATE TABLE events AS SELECT zeroblob(100000) AS event")
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))  # a disk of 300 KB
    made = backup.create(paths, paths.dagster_home, None, target)
    assert len([name for name in made.files if name.endswith(".db")]) == 10
    with zipfile.ZipFile(target) as zipped:
        assert zipped.testzip() is None
        assert {one.compress_type for one in zipped.infolist()} == {zipfile.ZIP_DEFLATED}
        content = zipped.read("artifacts/evaluation/large.json")
        assert content == large.read_bytes()
        assert hashlib.sha256(content).hexdigest() == made.files["artifacts/evaluation/large.json"]
    assert target.stat().st_size < 100_000


def test_a_file_that_is_replaced_or_removed_meanwhile_ends_no_backup(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = Paths(home=home)
    folder = paths.artifact_root / "evaluation" / "model"
    folder.mkdir(parents=True)
    for name in ("first.json", "removed.json", "replaced.json"):
        (folder / name).write_text(name)

    @contextmanager
    def meanwhile(path: Path) -> Iterator[Path]:
        if path.name == "first.json":
            (folder / "removed.json").unlink()
            (folder / "replaced.json").rename(tmp_path / "replaced.json")
        with fetched(path) as local:
            yield local

    def put_back(_seconds: float) -> None:
        with suppress(FileNotFoundError):
            (tmp_path / "replaced.json").rename(folder / "replaced.json")

    monkeypatch.setattr(backup, "fetched", meanwhile)
    monkeypatch.setattr(time, "sleep", put_back)
    made = backup.create(paths, paths.dagster_home, None, tmp_path / "backup.zip")
    kept = {name for name in made.files if name.startswith("artifacts/evaluation/")}
    assert kept == {f"artifacts/evaluation/model/{name}" for name in ("first.json", "replaced.json")}
    with zipfile.ZipFile(tmp_path / "backup.zip") as zipped:
        assert zipped.testzip() is None
        assert set(zipped.namelist()) == {*made.files, "manifest.json"}


def test_a_record_of_the_registry_that_is_removed_meanwhile_ends_the_backup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = Paths(home=tmp_path / "home")
    for seed in (1, 2):
        make_model(tmp_path / "model", seed)
        registry.promote(
            paths.models, registry.add_candidate(paths.models, tmp_path / "model"), "it is better"
        )
    second = registry.record_path(paths.models, 2)
    assert second.exists()

    @contextmanager
    def meanwhile(path: Path) -> Iterator[Path]:
        if path == registry.record_path(paths.models, 1):
            second.unlink()
        with fetched(path) as local:
            yield local

    monkeypatch.setattr(backup, "fetched", meanwhile)
    with pytest.raises(FileNotFoundError, match=second.name):
        backup.create(paths, paths.dagster_home, None, tmp_path / "backup.zip")
    assert not (tmp_path / "backup.zip").exists()


def test_a_database_that_is_removed_meanwhile_is_left_out_and_not_created_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = Paths(home=tmp_path / "home")
    runs = paths.dagster_home / "history" / "runs"
    runs.mkdir(parents=True)
    for name in ("a", "b"):
        with closing(sqlite3.connect(runs / f"{name}.db")) as database:
            database.execute("CREATE TABLE events (event)")

    @contextmanager
    def meanwhile(path: Path) -> Iterator[Path]:
        (runs / "b.db").unlink()
        with fetched(path) as local:
            yield local

    monkeypatch.setattr(backup, "fetched", meanwhile)
    made = backup.create(paths, paths.dagster_home, None, tmp_path / "backup.zip")
    assert list(made.files) == ["home/.dagster/history/runs/a.db"]
    assert [path.name for path in runs.iterdir()] == ["a.db"]
