"""A home knows which data set it holds: a command that writes there with another one is refused."""

import json
from pathlib import Path

import pytest
from upath import UPath

from captcha_assets.cli.orchestration.console_logger import with_quiet_console
from captcha_assets.cli.orchestration.execution import materialize
from captcha_assets.cli.orchestration.instance import open_instance
from captcha_assets.cli.orchestration.staleness import Step
from captcha_assets.definitions import build_definitions
from captcha_assets.paths import REPOSITORY
from captcha_assets.settings import load_settings
from captcha_assets_tests.commands import run, succeeded
from captcha_assets_tests.defs.digits import DATASET as DIGITS

OTHER = {"PYTHONPATH": str(REPOSITORY), "CAPTCHA_DATASET": "captcha_assets_tests.defs.digits:DATASET"}
SPEC = """
from captcha_assets.dataset import DatasetSpec
DATASET = DatasetSpec(name="digits", classes=tuple("{classes}"), height={height}, width=8)
"""
WRITING = (
    ("batch", "add", "more", "synthetic:3"),
    ("batch", "remove", "first"),
    ("update",),
    ("update", "--dry-run"),
    ("backfill", "raw_batch"),
    ("automation", "on"),
    ("model", "rollback", "--reason", "test"),
    ("serve",),
    ("ui",),
)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home of CAPTCHA characters, with a batch."""
    succeeded(tmp_path / "home", "batch", "add", "first", "synthetic:40:1")
    return tmp_path / "home"


def project(folder: Path, classes: str = "0123456789", height: int = 8) -> Path:
    """Make a project of digits."""
    (folder / "digits").mkdir(parents=True, exist_ok=True)
    (folder / "digits" / "dataset.py").write_text(SPEC.format(classes=classes, height=height))
    (folder / "digits" / "__init__.py").touch()
    (folder / "pyproject.toml").write_text(
        '[tool.captcha-assets]\ndataset = "digits.dataset:DATASET"\n'
        '[tool.dg.project]\nroot_module = "digits"\n'
        'code_location_target_module = "captcha_assets.definitions"\n'
    )
    return folder


def digits(path: Path) -> Path:
    """A folder of files that are named as digits are, and hold none."""
    path.mkdir()
    for number in range(10):
        (path / f"{number}_1.png").write_bytes(b"none")
    return path


@pytest.mark.parametrize("arguments", WRITING)
def test_a_command_that_writes_is_refused_in_a_home_of_another_data_set(
    home: Path, arguments: tuple[str, ...]
) -> None:
    before = files(home)
    done = run(home, *arguments, **OTHER)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"Error: the home {home} holds the data set captcha_characters (20 classes, 32x52 grayscale), not "
        "digits (10 classes, 8x8 grayscale): set CAPTCHA_DATASET to the data set of the home; or, for "
        "digits, unset CAPTCHA_HOME and CAPTCHA_ARTIFACTS, or name its own home or a new folder there\n"
    )
    assert files(home) == before


def test_a_command_that_only_reads_warns(home: Path) -> None:
    for arguments in (("batch", "list", "--json"), ("status", "--json"), ("model", "list")):
        done = run(home, *arguments, **OTHER)
        assert done.returncode == 0
        assert done.stderr.startswith(f"warning: the home {home} holds the data set captcha_characters")
        assert len(done.stderr.splitlines()) == 1
    assert run(home, "batch", "list").stderr == ""


def test_a_backup_of_another_data_set_is_restored_with_a_warning(home: Path, tmp_path: Path) -> None:
    succeeded(home, "backup", "create", str(tmp_path / "home.zip"))
    done = run(tmp_path / "new", "backup", "restore", str(tmp_path / "home.zip"), **OTHER)
    assert done.returncode == 0
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"warning: the home {tmp_path / 'new'} holds the data set captcha_characters")
    again = run(tmp_path / "other", "backup", "restore", str(tmp_path / "home.zip"))
    assert (again.returncode, again.stderr) == (0, "")


def test_a_home_that_was_exported_for_another_data_set_is_refused_in_a_project(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project(tmp_path / "project"))
    done = run(home, "update")
    assert done.returncode == 1
    assert "holds the data set captcha_characters" in done.stderr
    source = digits(tmp_path / "images")
    assert run(home, "batch", "add", "first", str(source), CAPTCHA_HOME="").returncode == 0
    assert json.loads(Path("artifacts", "dataset.json").read_text())["name"] == "digits"


def test_a_run_of_dagster_itself_is_refused_too(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAPTCHA_HOME", str(home))
    with open_instance(load_settings()) as instance:
        step = Step(("raw_batch",), "first")
        run_id, error, _ = materialize(with_quiet_console(build_definitions(DIGITS)), instance, step)
        logged = [str(entry) for entry in instance.all_logs(run_id)]
    assert error == "the run failed before its first step"
    assert any(f"the home {home} holds the data set captcha_characters" in entry for entry in logged)
    assert not (home / "data").exists()


@pytest.mark.parametrize(
    ("changed", "allowed"),
    [
        ({"classes": "0123456789x"}, True),
        ({"classes": "012345678"}, True),
        ({"classes": "xyz"}, False),
        ({"height": 16}, False),
    ],
)
def test_classes_may_change_and_the_size_of_the_images_may_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, str | int], allowed: bool
) -> None:
    folder, source = project(tmp_path / "project"), digits(tmp_path / "images")
    monkeypatch.chdir(folder)
    succeeded(folder, "batch", "add", "first", str(source))
    project(folder, **changed)  # type: ignore[arg-type]
    done = run(folder, "batch", "add", "first", str(source))
    assert done.returncode == (0 if allowed else 1), done.stderr
    classes = json.loads((folder / "artifacts" / "dataset.json").read_text())["classes"]
    assert classes == list(changed["classes"] if allowed else "0123456789")


def test_a_home_from_before_the_record_gets_one_by_the_next_command_that_writes(home: Path) -> None:
    record = home / "artifacts" / "dataset.json"
    record.unlink()
    succeeded(home, "batch", "list")
    assert not record.exists()
    succeeded(home, "update", "--select", "key:raw_batch")
    assert json.loads(record.read_text())["name"] == "captcha_characters"


def test_an_empty_home_holds_no_data_set_yet(tmp_path: Path) -> None:
    assert run(tmp_path, "update", **OTHER).returncode == 1  # there is no batch
    assert not (tmp_path / "artifacts").exists()
    succeeded(tmp_path, "batch", "add", "first", "synthetic:3")


def test_a_damaged_record_is_named(home: Path) -> None:
    (home / "artifacts" / "dataset.json").write_text("{")
    done = run(home, "update")
    assert done.returncode == 1
    assert done.stderr == (
        f"Error: {home}/artifacts/dataset.json cannot be read: remove it, and the next command that writes "
        "records the data set again\n"
    )


def test_the_record_lies_on_the_object_store_beside_the_tables(tmp_path: Path, bucket: UPath) -> None:
    store = {"CAPTCHA_ARTIFACTS": f"s3://{bucket.path.strip('/')}/artifacts"}
    assert run(tmp_path / "one", "batch", "add", "first", "synthetic:3", **store).returncode == 0
    done = run(tmp_path / "other", "batch", "add", "more", "synthetic:3", **store, **OTHER)
    assert done.returncode == 1
    assert f"with the artifacts in {store['CAPTCHA_ARTIFACTS']} holds the data set captcha_" in done.stderr


def test_a_home_without_a_record_is_claimed_by_no_other_data_set(home: Path) -> None:
    succeeded(home, "update", "--select", "+key:image_index")
    record = home / "artifacts" / "dataset.json"
    record.unlink()
    before = files(home / "artifacts")
    for arguments in (("update", "--dry-run"), ("update",)):
        done = run(home, *arguments, **OTHER)
        assert (done.returncode, done.stdout) == (1, "")
        assert "which are not those of digits" in done.stderr
    assert files(home / "artifacts") == before
    succeeded(home, "batch", "add", "later", "synthetic:20:9")
    assert "captcha_characters" in record.read_text()


@pytest.mark.parametrize("content", ["[" * 100_000, '{"name": 5, "classes": "abc"}', None])
def test_a_damaged_record_is_one_line_that_names_it(home: Path, content: str | None) -> None:
    record = home / "artifacts" / "dataset.json"
    record.unlink()
    if content is None:
        record.symlink_to("/nonexistent")
    else:
        record.write_text(content)
    done = run(home, "batch", "add", "later", "synthetic:20:9")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"Error: {record} cannot be read: remove it, and the next command that writes records the data set "
        "again\n"
    )
    listed = run(home, "batch", "list")
    assert listed.returncode == 0
    assert listed.stderr.startswith("warning: ")
