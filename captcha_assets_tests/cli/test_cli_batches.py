"""Batches, the inbox and label decisions, as a user types it."""

import json
import os
import pty
import shutil
import subprocess
import sys
import time
import zipfile
from contextlib import suppress
from pathlib import Path

import polars as pl
import pytest

from captcha_assets.sources import synthetic_batches
from captcha_assets_tests.commands import run, succeeded
from captcha_assets_tests.images.files import RawInfo, write_zip
from captcha_assets_tests.images.tables import rows_of
from captcha_assets_tests.sources.examples import files_below, make_zip

INDEX = "+key:image_index"


def _one_line(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that a command which failed says on standard error."""
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    (line,) = done.stderr.strip().splitlines()
    return line


def _named(home: Path, batch: str) -> list[str]:
    """The files of a home that bear a batch's name."""
    return [
        name
        for name in files_below(home)
        if batch in name and not name.startswith((".dagster/", ".scratch/"))
    ]


def test_after_a_removal_nothing_of_the_batch_lies_on_the_disk_and_its_name_is_free(tmp_path: Path) -> None:
    home, first, second = tmp_path / "home", tmp_path / "1.zip", tmp_path / "2.zip"
    synthetic_batches.write_archive(first, 40, seed=1)
    synthetic_batches.write_archive(second, 30, seed=2)
    succeeded(home, "batch", "add", "october", str(first))
    succeeded(home, "update", "--select", "key:raw_batch or key:image_table")
    assert len(_named(home, "october")) >= 6
    assert "batch october: removed" in succeeded(home, "batch", "remove", "october")
    assert _named(home, "october") == []
    assert "october" not in (home / "artifacts" / "quality" / "image_table" / "index.html").read_text()
    succeeded(home, "batch", "add", "october", str(second))
    assert _named(home, "october") == ["artifacts/deliveries/october.json"]
    succeeded(home, "backfill", "raw_batch", "--batches", "october")
    assert (home / "data" / "raw" / "october.zip").read_bytes() == second.read_bytes()


def test_a_removal_that_was_killed_before_dagster_was_told_can_be_repeated(tmp_path: Path) -> None:
    succeeded(tmp_path, "batch", "add", "one", "synthetic:5")
    succeeded(tmp_path, "backfill", "raw_batch", "--batches", "one")
    (tmp_path / "artifacts" / "deliveries" / "one.json").unlink()
    (tmp_path / "data" / "raw" / "one.zip").unlink()
    assert "batch one: removed" in succeeded(tmp_path, "batch", "remove", "one")
    assert "there is no batch one" in _one_line(run(tmp_path, "batch", "remove", "one"))


def test_on_a_terminal_of_20_columns_the_list_has_a_line_a_field(tmp_path: Path) -> None:
    succeeded(tmp_path, "batch", "add", "october", "synthetic:5")
    command = [sys.executable, "-m", "captcha_assets.cli", "batch", "list"]
    environment = {**os.environ, "CAPTCHA_HOME": str(tmp_path), "COLUMNS": "20", "TERM": "xterm"}
    ours, theirs = pty.openpty()
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        shown = b""
        with suppress(OSError):  # how a terminal reports that the other side is closed
            while read := os.read(ours, 1000):
                shown += read
    os.close(ours)
    assert process.returncode == 0
    assert [line.split() for line in shown.decode().splitlines() if line][:3] == [
        ["batch", "october"],
        ["delivered", "-"],
        ["usable", "-"],
    ]


def test_a_damaged_registration_stops_its_batch_only_and_the_batch_can_be_removed(tmp_path: Path) -> None:
    for name in ("one", "two"):
        succeeded(tmp_path, "batch", "add", name, "synthetic:5")
    registration = tmp_path / "artifacts" / "deliveries" / "one.json"
    registration.write_text("{}")
    done = run(tmp_path, "update", "--select", "key:raw_batch")
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    assert f"{registration} is damaged" in done.stdout
    assert (tmp_path / "data" / "raw" / "two.zip").exists()
    assert "raw_batch [one]" in succeeded(tmp_path, "status")
    succeeded(tmp_path, "batch", "remove", "one")
    assert not registration.exists()


@pytest.mark.slow
def test_duplicates_count_for_the_later_batch_once_the_index_knows_it(tmp_path: Path) -> None:
    def counted() -> dict[str, int | None]:
        rows = succeeded(tmp_path, "batch", "list", "--json").splitlines()
        return {row["batch"]: row["duplicates"] for row in map(json.loads, rows)}

    succeeded(tmp_path, "batch", "add", "one", "synthetic:40")
    succeeded(tmp_path, "update", "--select", "+key:image_index")
    succeeded(tmp_path, "batch", "add", "two", "synthetic:40")
    succeeded(tmp_path, "update", "--select", "key:raw_batch or key:image_table")
    assert counted() == {"one": 0, "two": None}
    succeeded(tmp_path, "update", "--select", "+key:image_index")
    assert counted() == {"one": 0, "two": 40}


def test_an_overwritten_zip_is_registered_again_and_its_content_fetched(tmp_path: Path) -> None:
    source, home = tmp_path / "x.zip", tmp_path / "home"
    make_zip(source)
    assert "registered from" in succeeded(home, "batch", "add", "r", str(source))
    succeeded(home, "backfill", "raw_batch", "--batches", "r")
    assert "already registered" in succeeded(home, "batch", "add", "r", str(source))
    make_zip(source, first=9)
    said = succeeded(home, "batch", "add", "r", str(source))
    assert "registered again" in said
    assert "content is new" in said
    succeeded(home, "backfill", "raw_batch", "--batches", "r")
    assert (home / "data" / "raw" / "r.zip").read_bytes() == source.read_bytes()
    make_zip(tmp_path / "y.zip", first=20)
    assert "choose another name" in _one_line(run(home, "batch", "add", "r", str(tmp_path / "y.zip")))


def test_of_two_commands_that_register_one_name_at_once_exactly_one_wins(tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("captcha-assets")), "batch", "add", "d"]
    environment = {**os.environ, "CAPTCHA_HOME": str(tmp_path)}
    running = [
        subprocess.Popen([*command, f"synthetic:{count}"], env=environment, stderr=subprocess.PIPE, text=True)
        for count in (5, 6, 7)
    ]
    said = [process.communicate()[1] for process in running]
    assert sorted(process.returncode for process in running) == [0, 1, 1]
    assert sum("d is already registered from synthetic" in line for line in said) == 2


@pytest.mark.parametrize(
    ("name", "source", "words"),
    [
        ("all", "synthetic:5", "'all' cannot name a batch"),
        ("none", "synthetic:5", "'none' cannot name a batch"),
        ("big", "synthetic:99999999999", "more than the 2,000,000"),
        ("big", "synthetic:5:99999999999999999999", "seed above"),
        ("big", f"synthetic:{'9' * 5000}", "cannot be read as synthetic:COUNT"),
    ],
    ids=["all", "none", "too many", "seed", "endless number"],
)
def test_what_cannot_be_a_batch_is_rejected_when_it_is_added(
    tmp_path: Path, name: str, source: str, words: str
) -> None:
    rejected = run(tmp_path, "batch", "add", name, source)
    assert rejected.returncode == 2
    assert words in rejected.stderr
    assert succeeded(tmp_path, "batch", "list", "--json") == ""


def test_one_member_whose_name_is_not_utf8_is_one_reject(tmp_path: Path) -> None:
    synthetic_batches.write_archive(tmp_path / "good.zip", 18, seed=1)
    with zipfile.ZipFile(tmp_path / "good.zip") as good:
        members: list[tuple[str | zipfile.ZipInfo, bytes]] = [(n, good.read(n)) for n in good.namelist()]
    bad = RawInfo("a_9.png", b"a_\xff9.png", flags=0x800)
    write_zip(tmp_path / "bad.zip", [*members, (bad, members[0][1])])
    home = tmp_path / "home"
    succeeded(home, "batch", "add", "latin", str(tmp_path / "bad.zip"))
    said = succeeded(home, "update", "--select", "key:raw_batch or key:image_table").splitlines()
    assert "  image_table [latin]: 1 of 19 files rejected, see rejected_images" in said
    warning = "  warning: image_table [latin]: few_rejects: the column reason is not empty in 1 of 19 rows "
    assert [line for line in said if line.startswith(warning)]
    rejected = pl.read_parquet(home / "artifacts" / "rejected_images" / "latin.parquet")
    assert rejected["reason"].to_list() == ["name_not_utf8"]
    assert len(pl.read_parquet(home / "artifacts" / "image_table" / "latin.parquet")) == 18


# --- the inbox


def test_what_is_copied_to_the_inbox_of_a_new_home_lands_in_a_folder(tmp_path: Path) -> None:
    home = tmp_path / "home"
    succeeded(home, "batch", "list")
    make_zip(tmp_path / "x.zip")
    shutil.copy2(tmp_path / "x.zip", home / "inbox")
    assert (home / "inbox" / "x.zip").is_file()


def test_an_inbox_that_is_a_file_is_said_by_every_command_and_kept(tmp_path: Path) -> None:
    make_zip(tmp_path / "inbox")
    done = run(tmp_path, "batch", "list")
    assert done.returncode == 0
    assert "inbox is a file" in done.stderr
    assert "mkdir" in done.stderr
    assert (tmp_path / "inbox").is_file()


def test_status_says_what_lies_in_the_inbox_and_why(tmp_path: Path) -> None:
    (tmp_path / "inbox").mkdir()
    (tmp_path / "inbox" / "notes.txt").write_text("hello")
    make_zip(tmp_path / "inbox" / "x.zip")
    (tmp_path / "inbox" / "half.zip").write_bytes((tmp_path / "inbox" / "x.zip").read_bytes()[:100])
    before = time.time() - 600
    for path in (tmp_path / "inbox").iterdir():
        os.utime(path, (before, before))
    said = succeeded(tmp_path, "status")
    assert "in the inbox, notes.txt: is neither a zip archive nor a folder" in said
    assert "in the inbox, half.zip: is cut off" in said
    assert "in the inbox, x.zip: can be taken" in said
    succeeded(tmp_path, "automation", "on")
    assert "in the inbox, x.zip: is being taken by the inbox sensor" in succeeded(tmp_path, "status")


# --- label decisions


@pytest.mark.slow
def test_a_decision_that_cannot_be_followed_stops_the_index_in_one_line_and_an_idle_one_is_shown(
    tmp_path: Path,
) -> None:
    home, head = tmp_path / "home", "image_id,decision,label,reason\n"
    synthetic_batches.write_archive(tmp_path / "good.zip", 40, seed=1)
    with (
        zipfile.ZipFile(tmp_path / "good.zip") as good,
        zipfile.ZipFile(tmp_path / "other.zip", "w") as other,
    ):
        name = min(good.namelist())
        label = Path(name).name[0]
        stated = sorted({label, "x"})
        other.writestr("x_1.png", good.read(name))
        for number, again in enumerate(sorted(good.namelist())[1:]):
            other.writestr(f"{Path(again).name[0]}_{number + 2}.png", good.read(again))
    succeeded(home, "batch", "add", "one", str(tmp_path / "good.zip"))
    succeeded(home, "batch", "add", "two", str(tmp_path / "other.zip"))
    succeeded(home, "update", "--select", INDEX)
    index = rows_of(home / "artifacts" / "image_index")
    (conflict,) = index.filter(status="label_conflict")["image_id"]
    file = home / "label_decisions.csv"

    file.write_bytes(f"{head}{conflict},keep,w,sch\xf6n\n".encode("latin-1"))
    failed = run(home, "update", "--select", INDEX)
    assert failed.returncode == 1
    assert f"failed: {file}, line 2: byte 0xf6 is not UTF-8" in failed.stdout

    file.write_text(f"{head}{conflict},keep,w,\n")
    failed = run(home, "update", "--select", INDEX)
    assert failed.returncode == 1
    words = f"failed: {file}, line 2: keep w, but the sources of {conflict} state {', '.join(stated)}"
    assert words in failed.stdout

    file.write_text(f"{head}{conflict},keep,x,\n{'0' * 32},drop,,\n")
    succeeded(home, "update", "--select", INDEX)
    assert f"waits    label_decisions.csv, line 3: no batch here holds the image {'0' * 32}" in succeeded(
        home, "status"
    )

    succeeded(home, "batch", "remove", "two")  # who stated x is gone, and the line stops nobody
    succeeded(home, "update", "--select", INDEX)
    assert f"line 2: keep x, but all sources of {conflict} state {label}" in succeeded(home, "status")


@pytest.mark.parametrize("signed_in", [False, True])
def test_a_batch_of_kaggle_says_at_once_that_credentials_are_missing(tmp_path: Path, signed_in: bool) -> None:
    user = {"HOME": str(tmp_path), "KAGGLE_CONFIG_DIR": str(tmp_path / ".kaggle")}
    user |= {"KAGGLE_API_TOKEN": "token"} if signed_in else {}
    cleared = {"KAGGLE_USERNAME": "", "KAGGLE_KEY": "", "KAGGLE_API_TOKEN": ""}
    done = run(tmp_path / "home", "batch", "add", "kaggle", "kaggle", **cleared | user)
    assert done.returncode == 0, done.stderr
    said = "batch kaggle cannot be fetched yet: no credentials for Kaggle: set KAGGLE_API_TOKEN"
    assert (said in done.stdout) != signed_in
    assert "next: captcha-assets update" in done.stdout
