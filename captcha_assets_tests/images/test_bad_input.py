"""Whatever is in a batch: a bad member is rejected with a reason, and the good images arrive."""

import dataclasses
import io
import os
import resource
import signal
import struct
import subprocess
import sys
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from captcha_assets.dataset import CAPTCHA
from captcha_assets.images.archive_reader import MEMBER_LIMIT, ArchiveError, list_members, open_archive
from captcha_assets.images.decode import _inflate, decode
from captcha_assets.images.rejection import Reason, Rejection
from captcha_assets.images.table import build_image_table
from captcha_assets_tests.images.bad_members import ACCEPTED, CASES, GOOD, PIXELS
from captcha_assets_tests.images.files import RawInfo, good_members, patch_directory, write_zip

GOOD_MEMBERS = good_members()


def ingest(archive: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    table, rejected = archive.with_name("table.parquet"), archive.with_name("rejected.parquet")
    summary = build_image_table(archive, "bad", table, rejected, CAPTCHA)
    images, rejected = pl.read_parquet(table), pl.read_parquet(rejected)
    assert (summary.images, summary.rejected) == (len(images), len(rejected))
    return images, rejected


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("case", CASES)
def test_a_bad_member_is_rejected_with_its_reason_and_the_good_ones_arrive(case, tmp_path):
    reason, members, spoil = CASES[case]
    archive = write_zip(tmp_path / "bad.zip", [*GOOD_MEMBERS.items(), *members])
    if spoil:
        spoil(archive)
    images, rejected = ingest(archive)
    assert rejected["reason"].to_list() == [reason.value]
    assert "\n" not in rejected["detail"][0]
    assert set(GOOD_MEMBERS) <= set(images["member"])
    assert len(images) + len(rejected) == len(GOOD_MEMBERS) + len(members)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_all_of_it_at_once(tmp_path):
    members = [member for _, case, spoil in CASES.values() if spoil is None for member in case]
    images, rejected = ingest(write_zip(tmp_path / "bad.zip", [*GOOD_MEMBERS.items(), *members]))
    assert set(GOOD_MEMBERS) <= set(images["member"])
    assert len(images) + len(rejected) == len(GOOD_MEMBERS) + len(members)


PIXEL_DATA = (
    "too few pixels",
    "one pixel too many",
    "bytes after the pixels",
    "damaged pixels under a right CRC",
)


@pytest.mark.parametrize("case", PIXEL_DATA)
def test_nothing_is_printed_about_the_pixel_data_of_a_png(case, capfd):
    _, [(_, data)], _ = CASES[case]
    with pytest.raises(Rejection):
        decode(data, CAPTCHA)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("most", [1, 1717, (1 << 20) + 1])
def test_of_surplus_pixel_data_no_more_is_inflated_than_asked(most):
    assert _inflate(zlib.compress(bytes(64 << 20)), most) == (most, False)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (9, 2), (1000, 700)])
def test_pixel_data_of_any_depth_and_size_is_as_long_as_it_should_be(mode, size):
    file = io.BytesIO()
    white = {"LA": (255, 255), "RGB": (255, 255, 255), "RGBA": (255, 255, 255, 255)}
    Image.new(mode, size, white.get(mode, 1)).save(file, "PNG")
    photos = dataclasses.replace(CAPTCHA, other_sizes="resize")
    assert decode(file.getvalue(), photos).pixels.shape == CAPTCHA.shape


@pytest.mark.parametrize(
    ("data", "beginning"),
    [
        (b"hi\n", 'the text "hi"'),
        (b"<html> it", 'the text "<html> i"'),
        (b"\x7fELF\0\0\0\0", "the bytes 7f 45 4c 46 00 00 00 00"),
        (b"\n", "the bytes 0a"),
        ("größe".encode(), "the bytes 67 72 c3 b6 c3 9f 65"),
    ],
)
def test_what_is_no_image_is_named_by_its_beginning_in_plain_words(data, beginning):
    with pytest.raises(Rejection) as rejected:
        decode(data, CAPTCHA)
    assert rejected.value.detail == f"is not an image: it begins with {beginning}"


@pytest.mark.parametrize("case", ACCEPTED)
def test_an_unusual_png_is_converted_and_its_mode_recorded(case):
    mode, data = ACCEPTED[case]
    decoded = decode(data, CAPTCHA)
    assert decoded.source_mode == mode
    assert np.array_equal(decoded.pixels, PIXELS)


def test_every_reason_has_a_case():
    tried = {reason for reason, _, _ in CASES.values()} | {Reason.UNREADABLE}
    assert tried == set(Reason)


def test_the_documentation_lists_every_case():
    text = (Path(__file__).parents[2] / "docs" / "bad-input.md").read_text()
    for name, (reason, _, _) in CASES.items():
        assert f"| {name} | `{reason}` |" in text
    for name, (mode, _) in ACCEPTED.items():
        assert f"| {name} | `{mode}` |" in text
    for name in WHOLE:
        assert f"| {name} | `batch.zip` " in text


def test_colours_become_gray_by_their_weights():
    red = np.zeros((52, 32, 3), np.uint8)
    red[:26, :, 2] = 255
    import cv2

    pixels, mode = decode(cv2.imencode(".png", red)[1].tobytes(), CAPTCHA)
    assert mode == "RGB"
    assert set(np.unique(pixels)) == {0, 76}


def test_of_names_that_differ_in_case_the_lower_one_is_kept(tmp_path):
    for order in (("A_1.png", "a_1.png"), ("a_1.png", "A_1.png")):
        archive = write_zip(tmp_path / "case.zip", [(name, GOOD) for name in order])
        images, rejected = ingest(archive)
        assert images["member"].to_list() == ["a_1.png"]
        assert rejected["member"].to_list() == ["A_1.png"]


def test_folders_and_clutter_are_passed_over(tmp_path):
    clutter = ["__MACOSX/._a_1.png", "Dataset/.DS_Store", "Thumbs.db", "Dataset/._a_2.png", "Dataset/"]
    archive = write_zip(tmp_path / "mac.zip", GOOD_MEMBERS | dict.fromkeys(clutter, b""))
    assert list_members(archive).ignored == len(clutter)
    images, rejected = ingest(archive)
    assert (len(images), len(rejected)) == (len(GOOD_MEMBERS), 0)


def test_files_that_a_folder_would_not_give_are_listed(tmp_path):
    comment = b'{"unreadable": [["Dataset/a_7.png", "Permission denied"]]}'
    _, rejected = ingest(write_zip(tmp_path / "folder.zip", GOOD_MEMBERS, comment))
    assert rejected.rows() == [("bad", "Dataset/a_7.png", "unreadable", "Permission denied")]


@pytest.mark.parametrize(
    "comment",
    [
        b'{"unreadable": 3}',
        b'{"unreadable": [[1]]}',
        b'{"unreadable"',
        b'{"unreadable":' + b"[" * 60_000,
        b"hello",
        b"\xff",
    ],
)
def test_somebody_elses_comment_is_no_list(comment, tmp_path):
    _, rejected = ingest(write_zip(tmp_path / "comment.zip", GOOD_MEMBERS, comment))
    assert rejected.is_empty()


def _truncated(path: Path) -> None:
    path.write_bytes(write_zip(path, GOOD_MEMBERS).read_bytes()[:-200])


def _cut_in_the_directory(path: Path) -> None:
    data = write_zip(path, GOOD_MEMBERS).read_bytes()
    path.write_bytes(data[: len(data) // 2] + data[-22:])


def _encrypted(path: Path) -> None:
    write_zip(path, [(RawInfo(name, flags=1), data) for name, data in GOOD_MEMBERS.items()])


def _damaged_directory(path: Path) -> None:
    data = bytearray(write_zip(path, GOOD_MEMBERS).read_bytes())
    data[data.rindex(b"PK\1\2")] = 0
    path.write_bytes(data)


def _bomb(path: Path) -> None:
    # every member is within its limit, all of them together are not
    write_zip(path, {f"a_{n}.png": bytes(60_000) for n in range(100)})


def _part_of_several(path: Path) -> None:
    data = bytearray(write_zip(path, GOOD_MEMBERS).read_bytes())
    data[data.rindex(b"PK\5\6") + 4] = 3
    path.write_bytes(data)


WHOLE = {
    "empty": (lambda path: path.write_bytes(b""), "is empty"),
    "no members": (lambda path: write_zip(path, {}), "holds no files"),
    "only folders": (lambda path: write_zip(path, {"Dataset/": b""}), "holds no files"),
    "truncated": (_truncated, "is cut off"),
    "cut in the directory": (_cut_in_the_directory, "is damaged"),
    "damaged directory": (_damaged_directory, "is damaged"),
    "encrypted": (_encrypted, "is encrypted"),
    "bomb of small members": (_bomb, "would unpack to"),
    "part of several": (_part_of_several, "is damaged"),
    "text": (lambda path: path.write_text("hello"), "is not a zip archive"),
    "web page": (lambda path: path.write_text("<!doctype html>"), "web page"),
    "gzip": (lambda path: path.write_bytes(b"\x1f\x8b" + bytes(99)), "gzip"),
    "RAR": (lambda path: path.write_bytes(b"Rar!\x1a\7" + bytes(99)), "RAR"),
    "image": (lambda path: path.write_bytes(GOOD), "PNG"),
    "missing": (Path.exists, "cannot be read"),
    "folder": (lambda path: path.mkdir(), "is a folder"),
}


@pytest.mark.parametrize("case", WHOLE)
def test_an_archive_that_cannot_be_read_ends_in_one_clear_line(case, tmp_path):
    make, words = WHOLE[case]
    archive = tmp_path / "bad.zip"
    make(archive)
    with pytest.raises(ArchiveError, match=words) as caught, open_archive(archive):
        pass
    assert str(archive) in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(ArchiveError):
        build_image_table(archive, "bad", tmp_path / "t" / "t.parquet", tmp_path / "t" / "r.parquet", CAPTCHA)
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize("name", ['"\\ud800"', '"two\\nlines"', "null", "[1, {}]"])
def test_a_list_of_unreadable_files_may_hold_anything(name, tmp_path):
    comment = b'{"unreadable": [[' + name.encode() + b', "gone"]]}'
    _, rejected = ingest(write_zip(tmp_path / "comment.zip", GOOD_MEMBERS, comment))
    assert rejected["reason"].to_list() == ["unreadable"]
    assert "\n" not in rejected["member"][0]


def test_an_offset_wider_than_any_file_is_rejected(tmp_path):
    archive = tmp_path / "far.zip"
    far = RawInfo("a_9.png")
    # the field of wide numbers: none of the sizes needs it, the offset does
    far.extra = struct.pack("<HHQ", 1, 8, 2**64 - 1)
    write_zip(archive, [*GOOD_MEMBERS.items(), (far, GOOD)])
    patch_directory(archive, "a_9.png", 42, 0xFFFFFFFF)
    images, rejected = ingest(archive)
    assert (len(images), rejected["reason"].to_list()) == (len(GOOD_MEMBERS), ["corrupt"])


def test_the_number_of_members_that_an_archive_states_is_not_believed(tmp_path):
    archive = write_zip(tmp_path / "count.zip", GOOD_MEMBERS)
    data = bytearray(archive.read_bytes())
    place = data.rindex(b"PK\5\6")
    data[place + 8 : place + 12] = struct.pack("<HH", 1, 1)
    archive.write_bytes(data)
    assert len(ingest(archive)[0]) == len(GOOD_MEMBERS)


def test_an_archive_behind_other_bytes_is_read(tmp_path):
    archive = write_zip(tmp_path / "plain.zip", GOOD_MEMBERS)
    behind = tmp_path / "behind.zip"
    behind.write_bytes(b"#!/bin/sh\n" * 50 + archive.read_bytes())
    assert len(ingest(behind)[0]) == len(GOOD_MEMBERS)


def test_sizes_wider_than_32_bits_are_read(tmp_path):
    archive = tmp_path / "wide.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for name, data in GOOD_MEMBERS.items():
            with file.open(name, "w", force_zip64=True) as member:
                member.write(data)
    assert len(ingest(archive)[0]) == len(GOOD_MEMBERS)
    patch_directory(archive, next(iter(GOOD_MEMBERS)), 24, 0xFFFFFFFF)  # says it is wide, and is not
    images, rejected = ingest(archive)
    assert (len(images), rejected["reason"].to_list()) == (len(GOOD_MEMBERS) - 1, ["too_large"])


@pytest.mark.slow
def test_more_members_than_16_bits_count_are_listed(tmp_path):
    archive = write_zip(
        tmp_path / "many.zip", {f"a_{n}.png": b"" for n in range(65_540)}, method=zipfile.ZIP_STORED
    )
    assert len(list_members(archive).entries) == 65_540


def test_members_come_in_the_order_of_their_names_whatever_the_archives(tmp_path):
    names = list(GOOD_MEMBERS)
    archive = write_zip(tmp_path / "order.zip", [(name, GOOD_MEMBERS[name]) for name in reversed(names)])
    with open_archive(archive) as batch:
        read = dict(batch)
        assert list(read) == sorted(names)
        assert read == GOOD_MEMBERS
        assert len(batch) == len(names)


def test_a_batch_yields_rejections_in_their_place(tmp_path):
    archive = write_zip(tmp_path / "mixed.zip", [("a_1.png", GOOD), ("../a_2.png", GOOD)])
    with open_archive(archive) as batch:
        (first, rejected), (second, data) = batch
    assert (first, second, data) == ("../a_2.png", "a_1.png", GOOD)
    assert isinstance(rejected, Rejection)
    assert rejected.reason is Reason.UNSAFE_PATH


def test_a_batch_without_a_usable_image_makes_two_tables(tmp_path):
    archive = write_zip(tmp_path / "none.zip", {"a_1.png": b"no"})
    images, rejected = ingest(archive)
    assert (len(images), len(rejected)) == (0, 1)
    assert images.columns[0] == "image_id"


INGEST = """
import sys
from pathlib import Path
from captcha_assets.dataset import CAPTCHA
from captcha_assets.images.table import build_image_table
archive, folder = Path(sys.argv[1]), Path(sys.argv[2])
build_image_table(archive, "batch", folder / "table.parquet", folder / "rejected.parquet", CAPTCHA)
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def start(archive: Path, folder: Path, **options) -> subprocess.Popen:
    command = [sys.executable, "-c", INGEST, str(archive), str(folder)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **options)


def test_a_full_disk_leaves_what_was_there(tmp_path):
    first = write_zip(tmp_path / "first.zip", GOOD_MEMBERS)
    second = write_zip(tmp_path / "second.zip", good_members(300, seed=1))
    folder = tmp_path / "out"
    assert start(first, folder).wait() == 0
    before = (folder / "table.parquet").read_bytes()

    def small_disk():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    # The coverage of a process is a file too: it would be what the disk has no room for.
    plain = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    process = start(second, folder, preexec_fn=small_disk, env=plain)
    _, errors = process.communicate()
    assert process.returncode == 1
    assert "no space left" in errors.splitlines()[-1]
    assert "table.parquet" in errors.splitlines()[-1]
    assert (folder / "table.parquet").read_bytes() == before
    assert names(folder) == ["rejected.parquet", "table.parquet"]


def test_two_runs_at_once_end_in_the_same_bytes(tmp_path):
    archive = write_zip(tmp_path / "batch.zip", good_members(200, seed=2))
    alone, together = tmp_path / "alone", tmp_path / "together"
    assert start(archive, alone).wait() == 0
    processes = [start(archive, together) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    assert names(together) == ["rejected.parquet", "table.parquet"]
    for name in names(alone):
        assert (alone / name).read_bytes() == (together / name).read_bytes()


def test_bombs_are_met_within_bounded_memory(tmp_path):
    bombs = [(f"a_{n}.png", bytes(64 << 20)) for n in range(4)]
    archive = write_zip(tmp_path / "bombs.zip", [*GOOD_MEMBERS.items(), *bombs])
    for name, _ in bombs[:2]:
        patch_directory(archive, name, 24, MEMBER_LIMIT // 2)  # half of them say they are small
    tracemalloc.start()
    with open_archive(archive) as batch:
        read = dict(batch)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sum(isinstance(content, Rejection) for content in read.values()) == 4
    assert peak < 2 * MEMBER_LIMIT
