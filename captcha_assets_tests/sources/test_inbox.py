import os
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from captcha_assets.paths import Paths
from captcha_assets.settings import Settings
from captcha_assets.sources import batch_registration, inbox
from captcha_assets.sources.archives import BatchError
from captcha_assets.sources.batch_registration import BATCH_NAME, parse_source
from captcha_assets_tests.sources.examples import (
    data_files,
    files_below,
    image_bytes,
    in_child,
    killed_at_step,
    make_folder,
    make_zip,
    members,
)


def later(seconds: float = 60) -> float:
    """A moment at which everything has come to rest."""
    return time.time() + seconds


def arrivals(settings: Settings) -> dict[str, str]:
    """What can be taken now: file name to batch name."""
    return {arrival.path.name: arrival.batch for arrival in inbox.scan(settings.paths, now=later()).arrivals}


def reasons(settings: Settings, now: float | None = None) -> dict[str, str]:
    """What is left in the inbox, and why."""
    return {one.path.name: one.reason for one in inbox.scan(settings.paths, now=now or later()).left}


def take_all(settings: Settings) -> list[str]:
    """What the sensor and its runs do."""
    taken = inbox.scan(settings.paths, now=later()).arrivals
    for arrival in taken:
        inbox.take(settings.paths, arrival)
    for arrival in taken:
        batch_registration.fetch(settings, arrival.batch)
    return [arrival.batch for arrival in taken]


def test_there_need_not_be_an_inbox(settings):
    assert inbox.scan(settings.paths) == inbox.InboxScan()


def test_zips_and_folders_become_batches_and_leave_the_inbox(settings):
    content = make_zip(settings.paths.inbox / "March.zip").read_bytes()
    make_folder(settings.paths.inbox / "more letters", first=50)
    assert take_all(settings) == ["march", "more-letters"]
    assert (settings.paths.raw / "march.zip").read_bytes() == content
    assert len(members(settings.paths.raw / "more-letters.zip")) == 5
    assert list(settings.paths.inbox.iterdir()) == []
    assert data_files(settings) == ["raw/march.zip", "raw/more-letters.zip"]


def test_looking_changes_nothing(settings):
    make_zip(settings.paths.inbox / "a.zip")
    make_folder(settings.paths.inbox / "b")
    before = files_below(settings.paths.home)
    assert inbox.scan(settings.paths, now=later()) == inbox.scan(settings.paths, now=later())
    assert files_below(settings.paths.home) == before


# --- half-copied files ----------------------------------------------------------------------------------


def test_a_file_that_has_just_changed_is_not_taken(settings):
    make_zip(settings.paths.inbox / "a.zip")
    os.utime(settings.paths.inbox / "a.zip", (1000, 1000))
    os.utime(settings.paths.inbox, (1000, 1000))
    assert inbox.scan(settings.paths, settled_seconds=5, now=1004).arrivals == []
    assert "has just changed" in reasons(settings, now=1004)["a.zip"]
    assert len(inbox.scan(settings.paths, settled_seconds=5, now=1006).arrivals) == 1


def test_a_folder_of_which_one_file_has_just_changed_is_not_taken(settings):
    folder = make_folder(settings.paths.inbox / "b")
    for path in [folder, *folder.rglob("*")]:
        os.utime(path, (1000, 1000))
    os.utime(folder / "more" / "b_1.png", (2000, 2000))
    assert inbox.scan(settings.paths, now=2004).arrivals == []
    assert len(inbox.scan(settings.paths, now=2006).arrivals) == 1


def test_a_folder_into_which_old_files_are_being_moved_is_not_taken(settings):
    folder = make_folder(settings.paths.inbox / "b")
    for path in folder.rglob("*.png"):
        os.utime(path, (1000, 1000))
    assert inbox.scan(settings.paths).arrivals == []


@pytest.mark.parametrize("share", [0, 0.3, 0.95])
def test_half_a_zip_is_not_taken_however_long_it_rests(settings, share):
    path = make_zip(settings.paths.inbox / "a.zip")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    assert arrivals(settings) == {}
    assert reasons(settings)["a.zip"].split(":")[0] in {"is empty", "is cut off"}


@pytest.mark.parametrize("name", ["a.zip.part", "a.zip.crdownload", "a.zip.tmp", "a.zip.filepart", "a.zip~"])
def test_a_file_whose_name_says_it_is_being_copied_is_not_taken(settings, name):
    make_zip(settings.paths.inbox / name)
    assert arrivals(settings) == {}
    assert "still being copied" in reasons(settings)[name]


def test_a_folder_in_which_a_file_is_being_copied_is_not_taken(settings):
    make_folder(settings.paths.inbox / "b")
    (settings.paths.inbox / "b" / "a_9.png.part").write_bytes(b"half")
    assert arrivals(settings) == {}
    assert "a_9.png.part" in reasons(settings)["b"]


def test_hidden_files_are_not_looked_at(settings):
    make_zip(settings.paths.inbox / ".a.zip.Xy12")
    make_folder(settings.paths.inbox / ".git")
    assert inbox.scan(settings.paths, now=later()) == inbox.InboxScan()


def test_what_can_be_no_batch_is_left_with_a_reason_and_the_rest_is_taken(settings, tmp_path):
    make_zip(settings.paths.inbox / "good.zip")
    make_zip(settings.paths.inbox / "empty.zip", count=0)
    (settings.paths.inbox / "notes.txt").write_text("hello")
    (settings.paths.inbox / "hollow" / "deep").mkdir(parents=True)
    (settings.paths.inbox / "link.zip").symlink_to(make_zip(tmp_path / "elsewhere.zip"))
    os.mkfifo(settings.paths.inbox / "pipe.zip")
    (settings.paths.inbox / "unreadable").mkdir()
    (settings.paths.inbox / "unreadable" / "a_1.png").symlink_to("nowhere")
    make_zip(settings.paths.inbox / os.fsdecode(b"\xff.zip"), first=70)
    assert arrivals(settings) == {"good.zip": "good"}
    assert reasons(settings) == {
        "empty.zip": "holds no files: deliver an archive of labelled images",
        "hollow": "holds no files that can be read",
        "link.zip": "is a symbolic link: put the file or folder itself here",
        "notes.txt": "is neither a zip archive nor a folder",
        "pipe.zip": "is neither a zip archive nor a folder",
        "unreadable": "holds no files that can be read",
        os.fsdecode(b"\xff.zip"): "has a name that is not UTF-8: rename it",
    }


# --- never twice ----------------------------------------------------------------------------------------


def test_the_same_content_is_never_taken_twice_whatever_its_name(settings):
    make_zip(settings.paths.inbox / "a.zip")
    make_folder(settings.paths.inbox / "b", first=50)
    assert take_all(settings) == ["a", "b"]
    make_zip(settings.paths.inbox / "a.zip")
    shutil.copy(settings.paths.inbox / "a.zip", settings.paths.inbox / "other name.zip")
    make_folder(settings.paths.inbox / "renamed", first=50)
    assert arrivals(settings) == {}
    assert {name: reason.split(":")[0] for name, reason in reasons(settings).items()} == {
        "a.zip": "has been delivered already, as a",
        "other name.zip": "has been delivered already, as a",
        "renamed": "has been delivered already, as b",
    }


def test_of_two_files_of_one_content_one_is_taken(settings):
    make_zip(settings.paths.inbox / "a.zip")
    shutil.copy(settings.paths.inbox / "a.zip", settings.paths.inbox / "b.zip")
    assert arrivals(settings) == {"a.zip": "a"}
    assert "is the same batch as" in reasons(settings)["b.zip"]


@pytest.mark.parametrize("registered", [True, False])
def test_what_came_another_way_is_not_taken_again(settings, tmp_path, registered):
    source = make_zip(tmp_path / "some.zip")
    if registered:
        batch_registration.register(settings, "real", parse_source(str(source)))
        batch_registration.fetch(settings, "real")
    else:
        settings.paths.raw.mkdir(parents=True)
        shutil.copy(source, settings.paths.raw / "real.zip")
    make_zip(settings.paths.inbox / "again.zip")
    assert arrivals(settings) == {}
    assert "delivered already, as real" in reasons(settings)["again.zip"]


def test_what_has_been_registered_from_the_inbox_by_hand_is_not_taken_under_another_name(settings):
    path = make_zip(settings.paths.inbox / "a.zip")
    batch_registration.register(settings, "by-hand", parse_source(str(path)))
    assert take_all(settings) == ["by-hand"]
    assert data_files(settings) == ["raw/by-hand.zip"]
    assert list(settings.paths.inbox.iterdir()) == []


def test_taking_twice_is_taking_once(settings):
    make_zip(settings.paths.inbox / "a.zip")
    [arrival] = inbox.scan(settings.paths, now=later()).arrivals
    first = inbox.take(settings.paths, arrival)
    assert inbox.scan(settings.paths, now=later()).arrivals == [arrival]
    assert inbox.take(settings.paths, arrival) == first
    assert batch_registration.known_batches(settings.paths) == ["a"]


def test_a_removed_batch_may_come_again(settings):
    make_zip(settings.paths.inbox / "a.zip")
    take_all(settings)
    batch_registration.remove(settings.paths, "a")
    make_zip(settings.paths.inbox / "a.zip")
    assert take_all(settings) == ["a"]


def test_a_lost_or_damaged_archive_is_mended_by_dropping_its_content_again_under_any_name(settings):
    content = make_zip(settings.paths.inbox / "a.zip").read_bytes()
    take_all(settings)
    for number, damage in enumerate([Path.unlink, lambda path: path.write_bytes(b"garbage")]):
        damage(settings.paths.raw / "a.zip")
        make_zip(settings.paths.inbox / f"again-{number}.zip")
        assert take_all(settings) == ["a"]
        assert (settings.paths.raw / "a.zip").read_bytes() == content
        assert list(settings.paths.inbox.iterdir()) == []


def test_what_was_moved_aside_by_a_fetch_that_was_killed_is_cleared_away(settings):
    path = make_zip(settings.paths.inbox / "a.zip")
    content = path.read_bytes()
    take_all(settings)
    (settings.paths.inbox / ".taken-a").write_bytes(content)
    batch_registration.finish_taking(settings.paths)
    assert list(settings.paths.inbox.iterdir()) == []


def test_a_copy_that_has_stalled_is_waited_for_before_it_is_called_damaged(settings):
    path = make_zip(settings.paths.inbox / "a.zip")
    path.write_bytes(path.read_bytes()[:1000])
    [stalled] = inbox.scan(settings.paths, now=later(30)).left
    [damaged] = inbox.scan(settings.paths, now=later(90)).problems
    assert stalled.waiting
    assert (
        stalled.reason
        == damaged.reason
        == "is cut off: the directory at its end is missing. Deliver it again"
    )


def test_a_name_that_cannot_be_printed_is_shown_as_one_that_can(settings):
    make_zip(settings.paths.inbox / os.fsdecode(b"\xff.zip"))
    [problem] = inbox.scan(settings.paths, now=later()).problems
    assert str(problem) == r"\udcff.zip: has a name that is not UTF-8: rename it"


def test_an_inbox_that_is_a_file_is_a_problem_that_says_how_to_mend_it(settings):
    settings.paths.home.mkdir()
    make_zip(settings.paths.home / "inbox")
    words = inbox.prepare(settings.paths)
    assert "is a file" in words
    [problem] = inbox.scan(settings.paths).problems
    assert problem.reason == words
    command = words.partition("(")[2].rpartition(")")[0]
    subprocess.run(command, shell=True, check=True)
    assert inbox.prepare(settings.paths) is None
    assert take_all(settings) == ["inbox"]


def test_a_damaged_registration_keeps_no_other_batch_from_arriving(settings):
    batch_registration.register(settings, "broken", parse_source("synthetic:5"))
    settings.paths.registration("broken").write_text("{")
    make_zip(settings.paths.inbox / "a.zip")
    assert take_all(settings) == ["a"]


def test_a_large_file_that_rests_is_read_once(settings, tmp_path):
    path = make_zip(settings.paths.inbox / "a.zip")
    [arrival] = inbox.scan(settings.paths, now=later()).arrivals
    inbox.take(settings.paths, arrival)
    status = path.stat()
    scrambled = bytes(byte ^ 1 for byte in path.read_bytes()[:1000]) + path.read_bytes()[1000:]
    path.write_bytes(scrambled)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    inbox._digest.cache_clear()
    assert inbox.scan(settings.paths, now=later()).arrivals == [arrival]
    os.utime(path)
    assert inbox.scan(settings.paths, now=later()).arrivals != [arrival]


# --- names ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "batch"),
    [
        ("Captcha Letters (2).zip", "captcha-letters-2"),
        ("ÄÖ 7.zip", "7"),
        ("漢字.zip", "batch"),
        ("--.zip", "batch"),
        ("A" * 80 + ".ZIP", "a" * 63),
        ("v1.2", "v1-2"),
        ("ALL of it.zip", "all-of-it"),
    ],
)
def test_names_become_batch_names(settings, name, batch):
    if name.lower().endswith(".zip"):
        make_zip(settings.paths.inbox / name)
    else:
        make_folder(settings.paths.inbox / name)
    assert arrivals(settings) == {name: batch}


@hypothesis_settings(max_examples=40)
@given(name=st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=60))
def test_every_name_becomes_a_batch_name(tmp_path_factory, name):
    settings = Settings(paths=Paths(home=tmp_path_factory.mktemp("home")))
    try:
        make_zip(settings.paths.inbox / f"{name}.zip", count=1)
    except OSError:
        return  # too long for the disk
    assert all(BATCH_NAME.fullmatch(batch) for batch in arrivals(settings).values())
    assert len(arrivals(settings)) == (not name.startswith("."))


def test_two_batches_of_one_name_do_not_mix(settings):
    make_zip(settings.paths.inbox / "a.zip")
    take_all(settings)
    content = make_zip(settings.paths.inbox / "a.zip", first=50).read_bytes()
    [second] = take_all(settings)
    assert second.startswith("a-")
    assert len(second) == 8
    assert (settings.paths.raw / f"{second}.zip").read_bytes() == content
    assert "Dataset/a_0.png" in members(settings.paths.raw / "a.zip")


def test_two_names_in_one_inbox_that_become_one_do_not_mix(settings):
    make_zip(settings.paths.inbox / "A.zip")
    make_zip(settings.paths.inbox / "a.zip", first=20)
    make_folder(settings.paths.inbox / "a", first=40)
    taken = take_all(settings)
    assert len(set(taken)) == 3
    assert len({(settings.paths.raw / f"{batch}.zip").read_bytes() for batch in taken}) == 3


def test_long_names_of_one_beginning_stay_apart(settings):
    make_zip(settings.paths.inbox / f"{'a' * 70}1.zip")
    make_zip(settings.paths.inbox / f"{'a' * 70}2.zip", first=20)
    taken = take_all(settings)
    assert len(set(taken)) == 2
    assert all(BATCH_NAME.fullmatch(batch) for batch in taken)


def test_a_name_that_went_to_another_batch_meanwhile_is_not_overwritten(settings, tmp_path):
    make_zip(settings.paths.inbox / "a.zip")
    [arrival] = inbox.scan(settings.paths, now=later()).arrivals
    batch_registration.register(settings, "a", parse_source("synthetic:3"))
    with pytest.raises(BatchError, match="a is the batch from synthetic:3 now: scan the inbox again"):
        inbox.take(settings.paths, arrival)
    assert arrivals(settings).keys() == {"a.zip"}
    assert arrivals(settings)["a.zip"] != "a"


# --- nothing is lost ------------------------------------------------------------------------------------


def test_a_file_replaced_after_it_was_taken_is_fetched_as_what_it_is_now(settings):
    make_zip(settings.paths.inbox / "a.zip")
    [arrival] = inbox.scan(settings.paths, now=later()).arrivals
    inbox.take(settings.paths, arrival)
    content = make_zip(settings.paths.inbox / "a.zip", first=50).read_bytes()
    with pytest.raises(BatchError, match="not any more what was registered as a"):
        batch_registration.fetch(settings, "a")
    assert (settings.paths.inbox / "a.zip").read_bytes() == content
    assert take_all(settings) == ["a"]
    assert (settings.paths.raw / "a.zip").read_bytes() == content
    assert batch_registration.known_batches(settings.paths) == ["a"]


def test_a_file_that_arrives_in_a_folder_while_it_is_packed_stays(settings):
    folder = make_folder(settings.paths.inbox / "b")
    [arrival] = inbox.scan(settings.paths, now=later()).arrivals
    inbox.take(settings.paths, arrival)
    late = image_bytes(99)

    def hook(event, arguments):
        if event == "os.rename" and str(arguments[0]) == str(folder) and folder.exists():
            (folder / "late.png").write_bytes(late)

    assert in_child(lambda: batch_registration.fetch(settings, "b"), lambda: sys.addaudithook(hook)) == 0
    assert len(members(settings.paths.raw / "b.zip")) == 5
    assert files_below(settings.paths.inbox) == ["b/late.png"]
    assert (folder / "late.png").read_bytes() == late


def test_files_that_could_not_be_read_stay_in_the_inbox(settings):
    folder = make_folder(settings.paths.inbox / "b")
    (folder / "gone.png").symlink_to("nowhere")
    assert take_all(settings) == ["b"]
    assert files_below(settings.paths.inbox) == ["b/gone.png"]
    assert reasons(settings) == {"b": "holds no files that can be read"}


def test_what_was_registered_elsewhere_is_never_removed(settings, tmp_path):
    zipped, folder = make_zip(tmp_path / "some.zip"), make_folder(tmp_path / "folder")
    for number, source in enumerate((zipped, folder)):
        batch_registration.register(settings, f"batch-{number}", parse_source(str(source)))
        batch_registration.fetch(settings, f"batch-{number}")
    assert zipped.exists()
    assert len(files_below(folder)) == 5


def test_an_inbox_that_is_a_link_works_as_any_other(settings, tmp_path):
    (tmp_path / "drop").mkdir()
    settings.paths.home.mkdir()
    settings.paths.inbox.symlink_to(tmp_path / "drop", target_is_directory=True)
    make_zip(tmp_path / "drop" / "a.zip")
    waiting = inbox.scan(settings.paths, now=later()).arrivals
    inbox.take(settings.paths, waiting[0])
    assert inbox.scan(settings.paths, now=later()).arrivals == waiting
    assert take_all(settings) == ["a"]
    assert list((tmp_path / "drop").iterdir()) == []
    assert take_all(settings) == []


def _drop_zip(settings: Settings) -> Path:
    return make_zip(settings.paths.inbox / "a.zip", count=2)


def _drop_folder(settings: Settings) -> Path:
    return make_folder(settings.paths.inbox / "a", count=2)


@pytest.mark.slow
@pytest.mark.no_cover
@pytest.mark.parametrize("drop", [_drop_zip, _drop_folder])
def test_killed_before_any_step_nothing_is_lost_and_a_rerun_finishes(tmp_path, drop):
    whole = Settings(paths=Paths(home=tmp_path / "whole"))
    drop(whole)
    take_all(whole)
    wanted = (whole.paths.raw / "a.zip").read_bytes()
    for step in range(1, 200):
        settings = Settings(paths=Paths(home=tmp_path / f"home-{step}"))
        drop(settings)
        killed = killed_at_step(lambda home=settings: take_all(home), settings.paths.home, step)
        _check_nothing_is_lost(settings, wanted)
        take_all(settings)
        for batch in batch_registration.known_batches(settings.paths):  # a run that died is run again
            batch_registration.fetch(settings, batch)
        assert files_below(settings.paths.inbox) == []
        assert data_files(settings) == ["raw/a.zip"]
        assert (settings.paths.raw / "a.zip").read_bytes() == wanted
        if not killed:
            break
    assert 8 < step < 199


def _check_nothing_is_lost(settings: Settings, wanted: bytes) -> None:
    if data_files(settings):
        assert (settings.paths.raw / "a.zip").read_bytes() == wanted
        return
    dropped = settings.paths.inbox / "a.zip"
    if dropped.exists():
        assert dropped.read_bytes() == wanted
    else:
        assert len(files_below(settings.paths.inbox / "a")) == 2


def test_a_zip_of_two_thousand_files_is_one_batch(settings):
    settings.paths.inbox.mkdir(parents=True)
    with zipfile.ZipFile(settings.paths.inbox / "many.zip", "w") as archive:
        for number in range(2000):
            archive.writestr(f"Dataset/a_{number}.png", image_bytes(number, 10))
    assert take_all(settings) == ["many"]
    assert batch_registration.fetch(settings, "many").members == 2000
