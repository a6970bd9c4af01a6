import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captcha_assets.sources import archives
from captcha_assets.sources.archives import BatchError, Unreadable
from captcha_assets_tests.sources.examples import (
    as_nobody,
    image_bytes,
    in_child,
    make_folder,
    make_zip,
    members,
)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users reach, which pytest's own they do not."""
    folder = Path(tempfile.mkdtemp(prefix="captcha-assets-"))
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


def test_a_zip_is_copied_byte_for_byte(tmp_path):
    source = make_zip(tmp_path / "source.zip", size=3_000_000)
    digest, _ = archives.archive_to(source, tmp_path / "copy.zip")
    assert (tmp_path / "copy.zip").read_bytes() == source.read_bytes()
    assert digest == archives.digest_of(source)
    assert digest.bytes == source.stat().st_size


def test_a_folder_becomes_an_archive_of_all_its_files(tmp_path):
    folder = make_folder(tmp_path / "folder")
    archives.archive_to(folder, tmp_path / "packed.zip")
    assert members(tmp_path / "packed.zip") == {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.png")
    }
    assert archives.contents(tmp_path / "packed.zip") == archives.Contents(5)


def test_the_files_of_a_folder_are_packed_in_order_of_their_names(tmp_path):
    folder = make_folder(tmp_path / "folder")
    (folder / "z.png").write_bytes(b"after the folder named more")
    archives.archive_to(folder, tmp_path / "packed.zip")
    names = list(members(tmp_path / "packed.zip"))
    assert names == sorted(names)
    assert names[-2:] == ["more/b_3.png", "z.png"]


def test_other_tools_can_read_a_packed_folder(tmp_path):
    archives.archive_to(make_folder(tmp_path / "folder"), tmp_path / "packed.zip")
    if shutil.which("unzip") is None:
        pytest.skip("unzip is not installed")
    subprocess.run(["unzip", "-tq", tmp_path / "packed.zip"], check=True, capture_output=True)


def test_equal_folders_become_equal_archives_whatever_their_age_name_and_order(tmp_path):
    first = make_folder(tmp_path / "first")
    second = tmp_path / "second"
    second.mkdir()
    for path in sorted(first.rglob("*.png"), reverse=True):
        copy = second / path.relative_to(first)
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(path.read_bytes())
        copy.chmod(0o600)
        os.utime(copy, (1e9, 1e9))
    archives.archive_to(first, tmp_path / "1.zip")
    archives.archive_to(second, tmp_path / "2.zip")
    assert (tmp_path / "1.zip").read_bytes() == (tmp_path / "2.zip").read_bytes()


@given(
    files=st.dictionaries(
        st.text(st.characters(codec="utf-8", exclude_characters="/\\\0"), min_size=1, max_size=20).filter(
            lambda name: name not in {".", ".."} and len(name.encode()) < 200
        ),
        st.binary(max_size=100),
        min_size=1,
        max_size=8,
    )
)
def test_the_hash_of_a_folder_is_that_of_the_archive_it_becomes(files):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "folder")
        folder.mkdir()
        for member, data in files.items():
            (folder / member).write_bytes(data)
        target = Path(name, "packed.zip")
        digest, _ = archives.archive_to(folder, target)
        assert digest == archives.digest_of(folder) == archives.digest_of(target)
        assert members(target) == files


def test_what_cannot_be_packed_is_listed_with_its_reason_and_the_rest_arrives(tmp_path):
    folder = make_folder(tmp_path / "folder")
    (folder / "gone.png").symlink_to("nowhere.png")
    (folder / "elsewhere").symlink_to(tmp_path, target_is_directory=True)
    os.mkfifo(folder / "pipe.png")
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(folder / "socket"))
    (folder / os.fsdecode(b"\xff.png")).write_bytes(b"x")
    archives.archive_to(folder, tmp_path / "packed.zip")
    assert len(members(tmp_path / "packed.zip")) == 5
    assert archives.contents(tmp_path / "packed.zip").unreadable == (
        Unreadable("\\udcff.png", "name is not UTF-8"),
        Unreadable("elsewhere", "symbolic link, not followed"),
        Unreadable("gone.png", "symbolic link, not followed"),
        Unreadable("pipe.png", "not a regular file"),
        Unreadable("socket", "not a regular file"),
    )


def test_files_and_folders_without_permission_are_listed_and_the_rest_arrives(open_folder):
    if os.getuid() != 0:
        pytest.skip("only root can become another user")
    folder = make_folder(open_folder / "folder")
    (folder / "a_2.png").chmod(0)
    (folder / "more").chmod(0)

    def pack():
        archives.archive_to(folder, open_folder / "packed.zip")

    assert as_nobody(pack) == 0
    assert set(members(open_folder / "packed.zip")) == {"a_0.png", "a_4.png"}
    assert archives.contents(open_folder / "packed.zip").unreadable == (
        Unreadable("a_2.png", "Permission denied"),
        Unreadable("more", "folder cannot be listed: Permission denied"),
    )


def test_a_folder_without_a_readable_file_is_one_clear_error(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "gone.png").symlink_to("nowhere.png")
    with pytest.raises(BatchError, match=r"folder holds no file that can be read \(gone.png: symbolic"):
        archives.archive_to(tmp_path / "folder", tmp_path / "packed.zip")


def test_thousands_of_unreadable_files_are_one_clear_error_that_says_what_to_do(tmp_path):
    folder = make_folder(tmp_path / "folder")
    for number in range(1500):
        (folder / f"z_{number}.png").symlink_to("nowhere.png")
    with pytest.raises(BatchError, match=r"1500 files of .*folder cannot be read .*chmod -R a\+rX"):
        archives.archive_to(folder, tmp_path / "packed.zip")


@pytest.mark.parametrize("make", [make_zip, make_folder])
def test_a_source_that_changes_while_it_is_read_is_rejected(tmp_path, make):
    source = make(tmp_path / "source.zip")
    victim = next(source.rglob("*.png")) if source.is_dir() else source
    target = tmp_path / "target.zip"
    touched = []

    def hook(event, arguments):
        # The change happens where it would in life: after the source was surveyed, while it is read.
        if event == "open" and not touched and str(arguments[0]) == str(target):
            touched.append(True)
            with victim.open("ab") as file:
                file.write(b"more")

    def read():
        with pytest.raises(BatchError, match="changed while it was being read"):
            archives.archive_to(source, target)

    assert in_child(read, prepare=lambda: sys.addaudithook(hook)) == 0


@pytest.mark.parametrize("cut", [0.0, 0.3, 0.9, 0.999])
def test_half_a_zip_is_no_archive(tmp_path, cut):
    whole = make_zip(tmp_path / "whole.zip").read_bytes()
    (tmp_path / "half.zip").write_bytes(whole[: int(len(whole) * cut)])
    with pytest.raises(BatchError, match=r"half.zip is (empty|cut off|not a zip archive)"):
        archives.contents(tmp_path / "half.zip")


@given(st.data())
def test_damage_to_a_zip_is_a_clear_error_or_none(data):
    with tempfile.TemporaryDirectory() as name:
        path = make_zip(Path(name, "damaged.zip"), count=2, size=20)
        content = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 8))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        path.write_bytes(content)
        try:
            members_found = archives.contents(path).members
        except BatchError:
            return
        assert members_found <= 2


def test_a_member_without_a_name_is_counted_as_any_other(tmp_path):
    path = make_zip(tmp_path / "some.zip", count=1)
    path.write_bytes(path.read_bytes().replace(b"Dataset/a_0.png", b"\0" * 15))
    assert archives.contents(path).members == 1


@pytest.mark.parametrize(
    "comment", [b"made by a tool", b"{}", b'{"unreadable": 3}', b"\xff", b'["unreadable"]']
)
def test_a_comment_of_somebody_else_names_no_unreadable_files(tmp_path, comment):
    path = make_zip(tmp_path / "some.zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = comment
    assert archives.contents(path) == archives.Contents(5)


def test_folders_in_an_archive_are_not_counted(tmp_path):
    with zipfile.ZipFile(tmp_path / "some.zip", "w") as archive:
        archive.writestr("Dataset/", b"")
        archive.writestr("Dataset/a_1.png", b"x")
    assert archives.contents(tmp_path / "some.zip").members == 1


def test_only_what_the_archive_provably_holds_is_removed(tmp_path):
    folder = make_folder(tmp_path / "folder")
    archives.archive_to(folder, tmp_path / "packed.zip")
    (folder / "late.png").write_bytes(b"came later")
    (folder / "a_2.png").write_bytes(image_bytes(99))
    assert not archives.remove_archived(folder, tmp_path / "packed.zip")
    assert sorted(path.name for path in folder.rglob("*")) == ["a_2.png", "late.png"]


def test_a_folder_that_the_archive_holds_is_removed_with_its_empty_folders(tmp_path):
    folder = make_folder(tmp_path / "folder")
    (folder / "deep" / "er").mkdir(parents=True)
    archives.archive_to(folder, tmp_path / "packed.zip")
    assert archives.remove_archived(folder, tmp_path / "packed.zip")
    assert not folder.exists()


def test_another_zip_than_the_archive_is_not_removed(tmp_path):
    place, archive = make_zip(tmp_path / "place.zip"), make_zip(tmp_path / "archive.zip", first=1)
    assert not archives.remove_archived(place, archive)
    assert place.exists()


def test_packed_files_can_be_read_by_all(tmp_path):
    archives.archive_to(make_folder(tmp_path / "folder"), tmp_path / "packed.zip")
    with zipfile.ZipFile(tmp_path / "packed.zip") as archive:
        assert {stat.S_IMODE(info.external_attr >> 16) for info in archive.infolist()} == {0o644}
