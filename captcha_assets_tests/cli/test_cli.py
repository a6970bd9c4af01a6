"""The `captcha-assets` command, as a user types it."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import cv2
import pytest
from sklearn.datasets import load_digits

from captcha_assets.paths import REPOSITORY
from captcha_assets_tests.commands import run, succeeded

DIGITS = "captcha_assets_tests.defs.digits:DATASET"


def test_a_new_home_lists_no_batches(tmp_path: Path) -> None:
    assert succeeded(tmp_path, "batch", "list", "--json") == ""
    assert succeeded(tmp_path, "batch", "list").startswith("there is no batch yet: captcha-assets batch add")


def test_a_new_home_has_no_history_of_models(tmp_path: Path) -> None:
    assert succeeded(tmp_path, "model", "history", "--json") == ""
    assert succeeded(tmp_path, "model", "history").startswith("no record of a model that served")


def test_automation_that_is_switched_on_in_a_new_home_waits_for_a_batch(tmp_path: Path) -> None:
    said = succeeded(tmp_path, "automation", "on")
    assert "there is no batch yet: drop an archive into the inbox, or captcha-assets batch add" in said
    assert "automatic_rollback: on, and rolls nothing back: CAPTCHA_ROLLBACK is off" in said
    assert "stale" not in said
    succeeded(tmp_path, "batch", "add", "tiny", "synthetic:40:3")
    assert "are stale already" in succeeded(tmp_path, "automation", "on")


def test_a_batch_is_added_materialized_and_listed_and_then_nothing_is_to_be_made(tmp_path: Path) -> None:
    said = succeeded(tmp_path, "batch", "add", "tiny", "synthetic:80:3", "--materialize")
    assert "materializing image_table + rejected_images [tiny]: never materialized" in said
    assert "resnet18" not in said
    (row,) = [json.loads(line) for line in succeeded(tmp_path, "batch", "list", "--json").splitlines()]
    assert row["batch"] == "tiny"
    assert row["delivered"] == row["usable"] == 80
    assert row["rejected"] == 0
    assert row["checks"].startswith("passed")
    assert "everything is up to date" in succeeded(tmp_path, "update", "--select", "+key:splits")


@pytest.mark.slow
def test_another_data_set_is_taken_by_one_variable(tmp_path: Path) -> None:
    digits = load_digits()
    with zipfile.ZipFile(tmp_path / "digits.zip", "w") as archive:
        for number, (image, label) in enumerate(zip(digits.images[:300], digits.target, strict=False)):
            archive.writestr(f"{label}_{number}.png", cv2.imencode(".png", image.astype("uint8") * 15)[1])
    home, environment = tmp_path / "home", {"PYTHONPATH": str(REPOSITORY), "CAPTCHA_DATASET": DIGITS}
    added = run(home, "batch", "add", "digits", str(tmp_path / "digits.zip"), "--materialize", **environment)
    assert added.returncode == 0, added.stderr + added.stdout
    row = json.loads(run(home, "batch", "list", "--json", **environment).stdout)
    assert (row["usable"], row["rejected"], row["checks"][:6]) == (300, 0, "passed")


def test_generated_images_are_refused_for_a_data_set_that_rejects_them(tmp_path: Path) -> None:
    environment = {"PYTHONPATH": str(REPOSITORY), "CAPTCHA_DATASET": DIGITS}
    done = run(tmp_path, "batch", "add", "first", "synthetic:40", **environment)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert "and the data set digits rejects them: its classes are 0123456789; give a zip or a folder" in line
    assert "there is no batch yet" in run(tmp_path, "batch", "list", **environment).stdout


def test_a_data_set_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    done = run(tmp_path, "status", CAPTCHA_DATASET="no_such_module:X")
    assert (done.returncode, done.stdout) == (1, "")
    expected = "Error: CAPTCHA_DATASET='no_such_module:X' cannot be used: No module named 'no_such_module'"
    assert done.stderr.strip() == expected


@pytest.mark.parametrize("address", ["images", "images:", ":X", "images:X:Y", "./images:X", "images :X"])
def test_the_name_of_a_data_set_is_checked_before_anything_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    (tmp_path / "images.py").write_text("print('imported')\n")
    monkeypatch.chdir(tmp_path)
    done = run(tmp_path / "home", "status", CAPTCHA_DATASET=address, PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"Error: CAPTCHA_DATASET={address!r} cannot be used: give module:NAME of a DatasetSpec, such as "
        "my_images.dataset:DATASET\n"
    )


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("1 / 0\n", "the import of images raises ZeroDivisionError: division by zero"),
        ("def\n", "the import of images raises SyntaxError: invalid syntax (images.py, line 1)"),
        ("import no_such_module\n", "No module named 'no_such_module'"),
        ("Y = 1\n", "the module images has no X"),
        ("X = 1\n", "X is no DatasetSpec"),
    ],
)
def test_a_module_without_a_data_set_is_one_line_that_says_why(tmp_path: Path, source: str, why: str) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "images.py").write_text(source)
    command = [str(Path(sys.executable).with_name("captcha-assets")), "batch", "list"]
    environment = {
        "CAPTCHA_HOME": str(tmp_path / "home"),
        "CAPTCHA_DATASET": "images:X",
        "PYTHONPATH": str(tmp_path),
    }
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"Error: CAPTCHA_DATASET='images:X' cannot be used: {why}\n"


def test_a_dry_run_makes_nothing(tmp_path: Path) -> None:
    succeeded(tmp_path, "batch", "add", "tiny", "synthetic:80:3")
    said = succeeded(tmp_path, "update", "--dry-run")
    assert "would materialize raw_batch [tiny]: never materialized" in said
    assert not (tmp_path / "data").exists()


@pytest.mark.slow
def test_a_removed_batch_is_gone(tmp_path: Path) -> None:
    succeeded(tmp_path, "batch", "add", "one", "synthetic:80:3", "--materialize")
    succeeded(tmp_path, "batch", "add", "two", "synthetic:80:4", "--materialize")
    succeeded(tmp_path, "batch", "remove", "one")
    assert "batch one was removed" in succeeded(tmp_path, "update", "--dry-run")
    listed = [
        json.loads(line)["batch"] for line in succeeded(tmp_path, "batch", "list", "--json").splitlines()
    ]
    assert listed == ["two"]
    assert not (tmp_path / "data" / "raw" / "one.zip").exists()


def test_a_backfill_materializes_the_chosen_batches_again(tmp_path: Path) -> None:
    succeeded(tmp_path, "batch", "add", "one", "synthetic:40:3")
    succeeded(tmp_path, "batch", "add", "two", "synthetic:40:4")
    said = succeeded(tmp_path, "backfill", "raw_batch", "--batches", "one")
    assert "[1/1] raw_batch [one]" in said
    assert "1 materialized, 0 failed" in said
    assert not (tmp_path / "data" / "raw" / "two.zip").exists()


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["batch", "add", "Bad Name", "synthetic:10"], 2, "Bad Name"),
        (["batch", "add", "gone", "/nowhere/at/all.zip"], 1, "/nowhere/at/all.zip"),
        (["batch", "remove", "unknown"], 1, "unknown"),
        (["backfill", "raw_batch", "--batches", "unknown"], 2, "unknown"),
        (["predict", __file__], 1, "no champion yet"),
        (["update", "--nonsense"], 2, "--nonsense"),
        (["batch", "add", "one"], 2, "SOURCE"),
    ],
)
def test_errors_are_one_line_that_says_what_is_wrong(
    tmp_path: Path, arguments: list[str], status: int, words: str
) -> None:
    done = run(tmp_path, *arguments)
    assert done.returncode == status
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    if status == 1:
        assert len(done.stderr.strip().splitlines()) == 1


def test_an_impossible_home_is_rejected_by_name(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = run(tmp_path / "file", "batch", "list")
    assert done.returncode == 1
    assert "CAPTCHA_HOME" in done.stderr


def test_an_instance_of_another_home_is_rejected_and_told_nothing(tmp_path: Path) -> None:
    mine, other = tmp_path / "mine", tmp_path / "other"
    succeeded(mine, "batch", "add", "one", "synthetic:3")
    succeeded(mine, "update", "--select", "key:raw_batch")
    done = run(other, "status", DAGSTER_HOME=str(mine / ".dagster"))
    assert done.returncode == 1
    assert f"belongs to the home {mine}, and CAPTCHA_HOME is {other}: unset DAGSTER_HOME" in done.stderr
    assert "up to date" in succeeded(mine, "update", "--select", "key:raw_batch")


def test_a_home_may_have_its_instance_elsewhere_and_keeps_it(tmp_path: Path) -> None:
    mine, other, elsewhere = tmp_path / "mine", tmp_path / "other", str(tmp_path / "instance")
    succeeded(mine, "batch", "add", "one", "synthetic:3")
    assert run(mine, "status", DAGSTER_HOME=elsewhere).returncode == 0
    before = Path(elsewhere, "captcha_home").stat().st_mtime_ns
    assert run(mine, "status", DAGSTER_HOME=elsewhere).returncode == 0
    written = Path(elsewhere, "captcha_home").stat().st_mtime_ns
    assert written == before, "another process may read it at any moment"
    assert "belongs to the home" in run(other, "status", DAGSTER_HOME=elsewhere).stderr


def test_an_instance_that_knows_nothing_of_a_home_with_records_is_rejected(tmp_path: Path) -> None:
    succeeded(tmp_path / "home", "status")
    empty = str(tmp_path / "instance")
    done = run(tmp_path / "home", "status", DAGSTER_HOME=empty)
    assert done.returncode == 1
    records = tmp_path / "home" / ".dagster"
    assert f"has no records of {tmp_path / 'home'}: they are in {records}; unset DAGSTER_HOME" in done.stderr


def test_a_path_that_is_no_home_is_named_and_nothing_is_created_there(tmp_path: Path) -> None:
    others = tmp_path / "documents"
    others.mkdir()
    (others / "letter.txt").touch()
    for home, why in (
        (tmp_path / "typo", "it does not exist"),
        (others, "it holds other files, and none of a home"),
    ):
        for arguments in (["status"], ["batch", "list"], ["update"], ["model", "history"]):
            done = run(tmp_path, *arguments, CAPTCHA_HOME=str(home))
            assert (done.returncode, done.stdout) == (1, "")
            assert done.stderr == (
                f"Error: CAPTCHA_HOME='{home}' is no home: {why}. Correct the path, or make a home there: "
                "captcha-assets batch add NAME SOURCE\n"
            )
    assert [path.name for path in tmp_path.rglob("*")] == ["documents", "letter.txt"]
    new = {"CAPTCHA_HOME": str(tmp_path / "new")}
    assert run(tmp_path, "status", "--help", **new).returncode == 0
    assert run(tmp_path, "batch", "add", "one", "synthetic:3", **new).returncode == 0
    assert "raw_batch [one]: never materialized" in succeeded(tmp_path / "new", "status")


def test_a_relative_dagster_home_is_rejected_as_dagster_itself_does(tmp_path: Path) -> None:
    done = run(tmp_path, "status", DAGSTER_HOME="instance")
    assert done.returncode == 1
    assert done.stderr.startswith("Error: DAGSTER_HOME='instance' cannot be used: give an absolute path")
    assert not Path("instance").exists()


def test_a_home_may_be_moved(tmp_path: Path) -> None:
    succeeded(tmp_path / "mine", "batch", "add", "one", "synthetic:3")
    succeeded(tmp_path / "mine", "update", "--select", "key:raw_batch")
    (tmp_path / "mine").rename(tmp_path / "moved")
    moved = {"DAGSTER_HOME": str(tmp_path / "moved" / ".dagster")}
    assert "up to date" in run(tmp_path / "moved", "update", "--select", "key:raw_batch", **moved).stdout


@pytest.mark.parametrize(
    ("selection", "words"),
    [
        ("nosuch", "no such asset: nosuch; known are champion,"),
        ("key:nosuch", "key:nosuch selects nothing that can be materialized; known are champion,"),
        ("key:raw_batch or nosuch", "Invalid selection string"),
        ("", "Invalid selection string"),
    ],
)
def test_a_selection_of_nothing_is_a_usage_error_that_names_the_assets(
    tmp_path: Path, selection: str, words: str
) -> None:
    done = run(tmp_path, "update", "--select", selection)
    assert done.returncode == 2
    assert words in done.stderr
    assert "up to date" not in done.stdout


@pytest.mark.slow
def test_two_updates_at_once_materialize_everything_once(tmp_path: Path) -> None:
    for number in range(3):
        succeeded(tmp_path, "batch", "add", f"batch-{number}", f"synthetic:40:{number}")
    command = [str(Path(sys.executable).with_name("captcha-assets")), "update", "--select", "key:raw_batch"]
    environment = {**os.environ, "CAPTCHA_HOME": str(tmp_path)}
    both = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert [error for _output, error in said] == ["", ""]
    lines = [
        line for output, _error in said for line in output.splitlines() if line.startswith("materializing")
    ]
    assert len(lines) == len(set(lines)) == 3


def test_an_update_without_any_batch_says_how_to_begin(tmp_path: Path) -> None:
    done = run(tmp_path, "update")
    assert done.returncode == 1
    assert done.stderr.strip() == "Error: there is no batch yet: captcha-assets batch add NAME SOURCE"
    assert "there is no batch yet" in succeeded(tmp_path, "update", "--dry-run")
