import contextlib
import hashlib
import json
import os
import re
import resource
import subprocess
import sys
import threading
from pathlib import Path

import cv2
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from captcha_assets.dataset import CAPTCHA
from captcha_assets.images.table import build_image_table
from captcha_assets.paths import Paths
from captcha_assets.settings import Settings
from captcha_assets.sources import batch_registration
from captcha_assets.sources.archives import BatchError
from captcha_assets.sources.batch_registration import FileSource, KaggleSource, SyntheticSource, parse_source
from captcha_assets.sources.synthetic_batches import generate
from captcha_assets_tests.sources.examples import (
    data_files,
    files_below,
    in_child,
    killed_at_step,
    killed_while_writing,
    make_folder,
    make_zip,
    members,
)


def deliver(settings: Settings, batch: str, source: Path | str) -> batch_registration.RawBatch:
    batch_registration.register(settings, batch, parse_source(str(source)))
    return batch_registration.fetch(settings, batch)


# --- names and sources ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "0", "starter", "2024-05-17", "a-", "a" * 63])
def test_a_good_name_is_accepted(name):
    batch_registration.check_batch_name(name)


@pytest.mark.parametrize("name", ["", "-a", "A", "a_b", "a.b", "ä", "a b", "a/b", "a\n", "..", "a" * 64, "٣"])
def test_a_bad_name_is_rejected_in_one_line_that_says_what_is_allowed(name):
    with pytest.raises(BatchError, match="use 1 to 63 characters of a-z, 0-9 and -") as error:
        batch_registration.check_batch_name(name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("kaggle", KaggleSource()),
        ("kaggle:3", KaggleSource(3)),
        ("synthetic:100", SyntheticSource(100)),
        ("synthetic:100:7", SyntheticSource(100, 7)),
        ("synthetic:100:0", SyntheticSource(100)),
        ("/tmp/some.zip", FileSource(Path("/tmp/some.zip"))),
        ("./kaggle", FileSource(Path("kaggle").resolve())),
        ("relative", FileSource(Path("relative").resolve())),
        ("~/x.zip", FileSource(Path("~/x.zip").expanduser())),
        ("a:b.zip", FileSource(Path("a:b.zip").resolve())),
    ],
)
def test_a_source_is_read_as_users_write_it(text, source):
    assert parse_source(text) == source


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "a\0b", "\udcff.zip", "kaggle:", "kaggle:x", "kaggle:0", "kaggle:-1", "kaggle:1:2"),
        *("synthetic", "synthetic:", "synthetic:x", "synthetic:0", "synthetic:-5", "synthetic:1.5"),
        *("synthetic:1:2:3", "synthetic:5:-1", "synthetic:5:"),
    ],
)
def test_a_source_that_cannot_be_read_is_one_clear_line(text):
    with pytest.raises(BatchError) as error:
        parse_source(text)
    assert "\n" not in str(error.value)


@given(
    st.one_of(
        st.builds(KaggleSource, st.none() | st.integers(1, 10**6)),
        st.builds(SyntheticSource, st.integers(1, 10**9), st.integers(0, 2**63)),
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=50)
        .map(lambda text: FileSource(Path("/folder", text.lstrip("/")).resolve())),
    )
)  # fmt: skip
def test_a_source_written_out_is_read_back_the_same(source):
    assert parse_source(str(source)) == source


# --- registering ----------------------------------------------------------------------------------------


def test_registering_the_same_again_changes_nothing(settings, tmp_path):
    source = parse_source(str(make_zip(tmp_path / "some.zip")))
    first = batch_registration.register(settings, "real", source)
    assert (
        batch_registration.register(settings, "real", source)
        == first
        == batch_registration.registration(settings.paths, "real")
    )
    batch_registration.fetch(settings, "real")
    after = batch_registration.registration(settings.paths, "real")
    assert batch_registration.register(settings, "real", source) == after


def test_an_archive_on_an_object_store_is_a_source_as_any_other(settings, tmp_path, bucket):
    address = str(bucket / "deliveries" / "october.zip")
    content = make_zip(tmp_path / "some.zip").read_bytes()
    (bucket / "deliveries" / "october.zip").write_bytes(content)
    source = parse_source(address)
    assert str(source) == address
    registered = batch_registration.register(settings, "october", source)
    assert registered.source == source
    assert batch_registration.registration(settings.paths, "october") == registered
    fetched = batch_registration.fetch(settings, "october")
    assert fetched.path.read_bytes() == content
    assert fetched.source == address
    assert (bucket / "deliveries" / "october.zip").exists()
    (bucket / "deliveries" / "october.zip").write_bytes(
        make_zip(tmp_path / "other.zip", first=50).read_bytes()
    )
    said = []
    batch_registration.register(settings, "october", source, said.append)
    assert "whose content is new" in said[-1]


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("nothing.zip", "does not exist: give a zip archive"),
        ("deliveries", "is a folder on an object store: give a zip there, or a local folder"),
        ("deliveries/text.zip", "deliveries/text.zip is"),
    ],
)
def test_what_is_no_archive_on_an_object_store_is_rejected(settings, bucket, key, words):
    (bucket / "deliveries" / "text.zip").write_text("not a zip")
    with pytest.raises(BatchError, match=re.escape(words)):
        batch_registration.register(settings, "october", parse_source(str(bucket / key)))
    assert batch_registration.known_batches(settings.paths) == []


@pytest.mark.parametrize(
    "address",
    ["s3://bucket", "s3://bucket/", "s3://bucket//a.zip", "https://example.org/a.zip", "gs:///a.zip"],
)
def test_an_address_that_names_no_object_is_no_source(address):
    with pytest.raises(BatchError, match="is no source"):
        parse_source(address)


def test_registering_fetches_nothing(settings, tmp_path):
    batch_registration.register(settings, "real", parse_source(str(make_zip(tmp_path / "some.zip"))))
    assert files_below(settings.paths.home) == [".scratch/locks/real.lock", "artifacts/deliveries/real.json"]


def test_a_taken_name_is_rejected_and_the_message_says_what_to_do(settings, tmp_path):
    batch_registration.register(settings, "real", parse_source(str(make_zip(tmp_path / "some.zip"))))
    with pytest.raises(BatchError, match=r"real is already registered from .*some.zip: choose another name"):
        batch_registration.register(settings, "real", SyntheticSource(5))
    assert batch_registration.registration(settings.paths, "real").source == FileSource(tmp_path / "some.zip")


def test_another_kaggle_data_set_under_a_taken_name_is_rejected(tmp_path):
    batch_registration.register(
        Settings(paths=Paths(home=tmp_path), kaggle_dataset="this/one"), "k", KaggleSource()
    )
    with pytest.raises(BatchError, match="already registered"):
        batch_registration.register(
            Settings(paths=Paths(home=tmp_path), kaggle_dataset="other/one"), "k", KaggleSource()
        )


def _nothing(folder: Path) -> Path:
    return folder / "nothing.zip"


def _text(folder: Path) -> Path:
    (folder / "text.zip").write_text("not a zip")
    return folder / "text.zip"


def _empty_zip(folder: Path) -> Path:
    return make_zip(folder / "empty.zip", count=0)


def _empty_folder(folder: Path) -> Path:
    (folder / "empty" / "deeper").mkdir(parents=True)
    return folder / "empty"


def _pipe(folder: Path) -> Path:
    os.mkfifo(folder / "pipe")
    return folder / "pipe"


def _below_a_file(folder: Path) -> Path:
    return _text(folder) / "inside.zip"


def _name_too_long(folder: Path) -> Path:
    return folder / ("n" * 300)


@pytest.mark.parametrize(
    "make", [_nothing, _text, _empty_zip, _empty_folder, _pipe, _below_a_file, _name_too_long]
)
def test_a_path_that_is_no_batch_is_rejected_in_one_line_and_not_registered(settings, tmp_path, make):
    place = make(tmp_path)
    with pytest.raises(BatchError) as error:
        batch_registration.register(settings, "real", parse_source(str(place)))
    assert place.name in str(error.value)
    assert "\n" not in str(error.value)
    assert batch_registration.known_batches(settings.paths) == []


def test_the_name_of_an_archive_that_dvc_brought_is_not_given_to_another(settings, tmp_path):
    make_zip(settings.paths.raw / "real.zip")
    with pytest.raises(BatchError, match="already holds another batch of this name"):
        batch_registration.register(
            settings, "real", parse_source(str(make_zip(tmp_path / "x.zip", first=9)))
        )
    batch_registration.register(settings, "real", parse_source(str(make_zip(tmp_path / "same.zip"))))


def test_a_damaged_registration_is_named(settings):
    settings.paths.registrations.mkdir(parents=True)
    settings.paths.registration("real").write_text("{")
    with pytest.raises(
        BatchError,
        match=r"real.json is damaged .*: remove the batch .*batch remove real.* and add it again",
    ):
        batch_registration.registration(settings.paths, "real")


def test_one_changed_character_of_a_registration_is_noticed(settings, tmp_path):
    deliver(settings, "real", make_zip(tmp_path / "some.zip"))
    path = settings.paths.registration("real")
    sha256 = json.loads(path.read_text())["sha256"]
    path.write_text(path.read_text().replace(sha256, f"{sha256[:-1]}{'1' if sha256[-1] == '0' else '0'}"))
    with pytest.raises(BatchError, match=f"{path} is damaged"):
        batch_registration.registration(settings.paths, "real")


def test_registrations_are_kept_on_an_object_store_too(tmp_path, bucket):
    settings = Settings(paths=Paths(home=tmp_path, artifacts=str(bucket)))
    assert batch_registration.known_batches(settings.paths) == []
    batch_registration.register(settings, "real", SyntheticSource(5))
    assert batch_registration.known_batches(settings.paths) == ["real"]
    assert [entry.source for entry in batch_registration.all_registrations(settings.paths)] == [
        SyntheticSource(5)
    ]
    batch_registration.remove(settings.paths, "real")
    assert batch_registration.known_batches(settings.paths) == []


# --- fetching -------------------------------------------------------------------------------------------


def test_a_zip_arrives_exactly_as_delivered_and_is_described(settings, tmp_path):
    source = make_zip(tmp_path / "some.zip")
    raw = deliver(settings, "real", source)
    content = source.read_bytes()
    assert (settings.paths.raw / "real.zip").read_bytes() == content
    assert raw == batch_registration.RawBatch(
        batch="real",
        path=settings.paths.raw / "real.zip",
        source=str(source),
        bytes=len(content),
        members=5,
        sha256=hashlib.sha256(content).hexdigest(),
        md5=hashlib.md5(content).hexdigest(),
    )


def test_a_folder_arrives_packed(settings, tmp_path):
    folder = make_folder(tmp_path / "folder")
    (folder / "gone.png").symlink_to("nowhere")
    raw = deliver(settings, "real", folder)
    assert len(members(raw.path)) == raw.members == 5
    assert [(one.member, one.reason) for one in raw.unreadable] == [
        ("gone.png", "symbolic link, not followed")
    ]


def test_the_generator_makes_the_same_archive_for_the_same_seed_only(settings):
    first = deliver(settings, "first", "synthetic:12:3")
    again = deliver(settings, "again", "synthetic:12:3")
    other = deliver(settings, "other", "synthetic:12:4")
    assert first.sha256 == again.sha256 != other.sha256
    assert first.members == 12


def test_real_characters_arrive(settings, shared_data):
    assert deliver(settings, "real", shared_data / "kaptcha_characters.zip").members == 935
    assert deliver(settings, "samples", shared_data / "kaggle_samples").members == 3


def test_data_holds_nothing_but_the_archives(settings, tmp_path):
    deliver(settings, "real", make_zip(tmp_path / "some.zip"))
    deliver(settings, "folder", make_folder(tmp_path / "folder"))
    assert data_files(settings) == ["raw/folder.zip", "raw/real.zip"]


def test_two_homes_with_the_same_batches_hold_the_same_bytes(tmp_path):
    folder = make_folder(tmp_path / "folder")
    one = deliver(Settings(paths=Paths(home=tmp_path / "1")), "real", folder)
    two = deliver(Settings(paths=Paths(home=tmp_path / "2")), "real", folder)
    assert one.path.read_bytes() == two.path.read_bytes()
    assert one.md5 == two.md5


def test_fetching_again_replaces_nothing_and_says_the_same(settings, tmp_path):
    first = deliver(settings, "real", make_zip(tmp_path / "some.zip"))
    before = first.path.stat()
    (tmp_path / "some.zip").unlink()
    assert batch_registration.fetch(settings, "real") == first
    assert (first.path.stat().st_ino, first.path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_an_archive_that_dvc_brought_needs_no_registration(settings):
    make_zip(settings.paths.raw / "pulled.zip")
    assert batch_registration.known_batches(settings.paths) == ["pulled"]
    raw = batch_registration.fetch(settings, "pulled")
    assert (raw.source, raw.members) == (batch_registration.FOUND, 5)


def test_the_unreadable_files_of_a_folder_are_known_wherever_its_archive_goes(tmp_path):
    folder = make_folder(tmp_path / "folder")
    (folder / "gone.png").symlink_to("nowhere")
    here, there = (
        Settings(paths=Paths(home=tmp_path / "here")),
        Settings(paths=Paths(home=tmp_path / "there")),
    )
    made = deliver(here, "real", folder)
    there.paths.raw.mkdir(parents=True)
    made.path.rename(there.paths.raw / "real.zip")
    assert batch_registration.fetch(there, "real").unreadable == made.unreadable != ()


def test_each_unreadable_file_of_a_folder_is_a_row_of_the_rejected_images_and_the_rest_arrives(settings):
    folder = settings.paths.home / "delivered"
    folder.mkdir(parents=True)
    for number, (label, image) in enumerate(generate(30, seed=1)):
        cv2.imwrite(str(folder / f"{label}_{number}.png"), image)
    (folder / "a_900.png").symlink_to("nowhere.png")
    (folder / "b_900.png").symlink_to("b_900.png")
    os.mkfifo(folder / "c_900.png")
    raw = deliver(settings, "real", folder)
    table, rejected = settings.paths.image_table("real"), settings.paths.rejected_images("real")
    assert build_image_table(raw.path, "real", table, rejected, CAPTCHA).images == 30
    assert pl.read_parquet(rejected).rows() == [
        ("real", "a_900.png", "unreadable", "symbolic link, not followed"),
        ("real", "b_900.png", "unreadable", "symbolic link, not followed"),
        ("real", "c_900.png", "unreadable", "not a regular file"),
    ]


def test_a_batch_that_nobody_knows_is_an_error_that_says_what_to_do(settings):
    with pytest.raises(BatchError, match=r"dvc pull.*batch add unknown SOURCE.*batch remove unknown"):
        batch_registration.fetch(settings, "unknown")


def test_a_damaged_archive_comes_again_from_its_source(settings, tmp_path):
    raw = deliver(settings, "real", make_zip(tmp_path / "some.zip"))
    content = raw.path.read_bytes()
    raw.path.write_bytes(content[:100])
    assert batch_registration.fetch(settings, "real") == raw
    assert raw.path.read_bytes() == content


def test_a_damaged_archive_whose_source_is_gone_stays_and_one_line_says_how_to_restore_it(settings, tmp_path):
    source = make_zip(tmp_path / "some.zip")
    raw = deliver(settings, "real", source)
    raw.path.write_bytes(b"garbage")
    for change in (source.unlink, lambda: make_zip(source, first=7)):
        change()
        with pytest.raises(BatchError, match=r"real.zip is not what is registered.*dvc checkout") as error:
            batch_registration.fetch(settings, "real")
        assert "\n" not in str(error.value)
        assert raw.path.read_bytes() == b"garbage"


def test_a_damaged_archive_that_dvc_brought_is_rejected(settings):
    settings.paths.raw.mkdir(parents=True)
    (settings.paths.raw / "pulled.zip").write_text("half an arch")
    with pytest.raises(BatchError, match=r"pulled.zip is not a zip archive"):
        batch_registration.fetch(settings, "pulled")


def test_an_archive_that_dvc_brought_is_not_replaced_by_a_source_with_other_content(settings):
    content = make_zip(settings.paths.raw / "pulled.zip").read_bytes()
    batch_registration.register(settings, "pulled", parse_source("synthetic:5"))
    with pytest.raises(BatchError, match="already holds another batch of this name"):
        batch_registration.fetch(settings, "pulled")
    assert (settings.paths.raw / "pulled.zip").read_bytes() == content


def test_a_lost_archive_comes_again_from_its_source_only_if_that_is_the_same(settings, tmp_path):
    source = make_zip(tmp_path / "some.zip")
    first = deliver(settings, "real", source)
    first.path.unlink()
    assert batch_registration.fetch(settings, "real") == first
    first.path.unlink()
    make_zip(source, first=7)
    with pytest.raises(BatchError, match=r"not any more what was registered as real .*batch add real"):
        batch_registration.fetch(settings, "real")
    assert data_files(settings) == []


# --- registering again -----------------------------------------------------------------------------------


def test_a_zip_that_was_overwritten_is_registered_again_and_replaces_the_archive(settings, tmp_path):
    source = make_zip(tmp_path / "some.zip")
    before = deliver(settings, "real", source)
    make_zip(source, first=7)
    said: list[str] = []
    entry = batch_registration.register(settings, "real", FileSource(source), said.append)
    assert "registered again" in said[-1]
    assert "content is new" in said[-1]
    assert entry.sha256 != before.sha256
    after = batch_registration.fetch(settings, "real")
    assert after.sha256 == entry.sha256
    assert after.path.read_bytes() == source.read_bytes()


def test_a_folder_that_got_another_file_is_registered_again(settings, tmp_path):
    source = make_folder(tmp_path / "folder")
    deliver(settings, "real", source)
    (source / "a_99.png").write_bytes(b"new")
    assert deliver(settings, "real", source).members == 6


def test_the_same_content_at_another_path_takes_the_place_of_the_first(settings, tmp_path):
    first, second = make_zip(tmp_path / "one.zip"), make_zip(tmp_path / "two.zip")
    raw = deliver(settings, "real", first)
    entry = batch_registration.register(settings, "real", FileSource(second))
    assert entry.source == FileSource(second)
    first.unlink()
    raw.path.unlink()
    assert batch_registration.fetch(settings, "real").sha256 == raw.sha256


def test_what_is_registered_has_one_identity_before_and_after_the_fetch(settings, tmp_path):
    for name, source in (("zip", str(make_zip(tmp_path / "some.zip"))), ("made", "synthetic:5")):
        before = batch_registration.register(settings, name, parse_source(source)).identity
        batch_registration.fetch(settings, name)
        assert batch_registration.registration(settings.paths, name).identity == before
    make_zip(tmp_path / "some.zip", first=7)
    again = batch_registration.register(settings, "zip", FileSource(tmp_path / "some.zip")).identity
    assert again != batch_registration.registration(settings.paths, "made").identity
    assert again.startswith("sha256:")


def test_kaggle_without_a_version_is_looked_up_again_when_it_is_registered_again(settings):
    fetched = batch_registration.Registration(
        "k", KaggleSource(), "owner/slug", sha256="0" * 64, kaggle_version=3
    )
    batch_registration.record(settings.paths, fetched)
    settings = settings.model_copy(update={"kaggle_dataset": "owner/slug"})
    entry = batch_registration.register(settings, "k", KaggleSource())
    assert (entry.sha256, entry.identity) == (None, fetched.identity)
    assert batch_registration.register(settings, "k", KaggleSource()) == entry


@pytest.mark.parametrize("name", ["all", "candidate", "champion", "none"])
def test_a_word_that_commands_need_is_no_name_of_a_batch(settings, name):
    with pytest.raises(BatchError, match="choose another"):
        batch_registration.register(settings, name, SyntheticSource(5))
    assert batch_registration.known_batches(settings.paths) == []


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (SyntheticSource(99_999_999_999), "more than the 2,000,000 that an archive may hold"),
        (SyntheticSource(5, 2**63), "seed above"),
        (KaggleSource(2**31), "there is none"),
    ],
)
def test_a_source_beyond_all_bounds_is_rejected_when_it_is_registered(settings, source, words):
    with pytest.raises(BatchError, match=words):
        batch_registration.register(settings, "real", source)
    assert batch_registration.known_batches(settings.paths) == []


def test_of_several_machines_that_register_one_name_exactly_one_wins(tmp_path, bucket):
    homes = [Paths(home=tmp_path / str(number), artifacts=str(bucket)) for number in range(2)]
    entries = [batch_registration.Registration("d", SyntheticSource(number + 1)) for number in range(2)]
    won = [batch_registration.claim(*pair) for pair in zip(homes, entries, strict=True)]
    assert won == [entries[0], entries[0]]


def test_a_disk_that_is_full_when_a_batch_is_registered_is_one_clear_line(small_disk, tmp_path):
    (small_disk / "filler").write_bytes(bytes(290_000))
    settings = Settings(paths=Paths(home=small_disk))
    source = make_zip(tmp_path / "some.zip")
    with contextlib.suppress(OSError), (small_disk / "filler").open("ab") as filler:
        while True:
            filler.write(bytes(1024))
            filler.flush()
    with pytest.raises(BatchError, match="real cannot be registered: no space left") as error:
        batch_registration.register(settings, "real", FileSource(source))
    assert "\n" not in str(error.value)
    (small_disk / "filler").unlink()
    batch_registration.register(settings, "real", FileSource(source))


def test_a_source_that_vanished_is_one_clear_line(settings, tmp_path):
    source = make_zip(tmp_path / "some.zip")
    batch_registration.register(settings, "real", parse_source(str(source)))
    source.unlink()
    with pytest.raises(BatchError, match=r"some.zip does not exist"):
        batch_registration.fetch(settings, "real")


def test_progress_says_what_is_fetched_and_where_it_lies(settings, tmp_path):
    lines = []
    batch_registration.register(settings, "real", parse_source(str(make_zip(tmp_path / "some.zip"))))
    batch_registration.fetch(settings, "real", lines.append)
    assert lines[0].startswith("real: fetching ")
    assert lines[-1].endswith("data/raw/real.zip")


def test_registrations_hold_no_time_and_are_the_same_after_the_same_work(settings, tmp_path):
    deliver(settings, "real", "synthetic:5")
    first = settings.paths.registration("real").read_text()
    batch_registration.remove(settings.paths, "real")
    deliver(settings, "real", "synthetic:5")
    assert settings.paths.registration("real").read_text() == first
    assert set(json.loads(first)) == {
        "batch", "checksum", "dataset", "fingerprint", "kaggle_version", "sha256", "source",
    }  # fmt: skip


# --- removing -------------------------------------------------------------------------------------------


def test_a_removed_batch_is_gone_and_its_name_is_free(settings, tmp_path):
    deliver(settings, "real", make_zip(tmp_path / "some.zip"))
    deliver(settings, "other", make_zip(tmp_path / "other.zip", first=9))
    batch_registration.remove(settings.paths, "real")
    assert batch_registration.known_batches(settings.paths) == ["other"]
    assert data_files(settings) == ["raw/other.zip"]
    deliver(settings, "real", "synthetic:3")


def test_removing_what_is_not_there_names_what_is(settings, tmp_path):
    deliver(settings, "real", make_zip(tmp_path / "some.zip"))
    with pytest.raises(BatchError, match="there is no batch reel; known are: real"):
        batch_registration.remove(settings.paths, "reel")


def test_what_dvc_brought_can_be_removed(settings):
    make_zip(settings.paths.raw / "pulled.zip")
    batch_registration.remove(settings.paths, "pulled")
    assert batch_registration.known_batches(settings.paths) == []


def test_all_that_lies_of_a_batch_is_removed_and_nothing_of_another(settings, tmp_path):
    for name in ("real", "other"):
        raw = deliver(settings, name, make_zip(tmp_path / f"{name}.zip", first=len(name)))
        for place in (settings.paths.image_table(name), settings.paths.rejected_images(name)):
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(raw.path.read_bytes())
        for table in ("image_table", "drift"):
            settings.paths.validation_results(table, name).mkdir(parents=True)
            (settings.paths.validation_results(table, name) / "validation_result.json").write_text("{}")
    (settings.paths.image_table("real").parent / ".real.parquet.killed.tmp" / "new").mkdir(parents=True)
    batch_registration.remove(settings.paths, "real")
    assert [name for name in files_below(settings.paths.home) if "real" in name] == [
        ".scratch/locks/real.lock"
    ]
    assert not list(settings.paths.image_table("real").parent.glob(".real*"))
    assert len([name for name in files_below(settings.paths.home) if "other" in name]) == 7


def test_tables_without_archive_and_registration_can_be_removed(settings):
    settings.paths.image_table("real").parent.mkdir(parents=True)
    settings.paths.image_table("real").touch()
    batch_registration.remove(settings.paths, "real")
    assert not batch_registration.has_left(settings.paths, "real")


def test_a_batch_with_a_damaged_registration_can_be_removed(settings, tmp_path):
    deliver(settings, "real", make_zip(tmp_path / "some.zip"))
    settings.paths.registration("real").write_text("[]")
    batch_registration.remove(settings.paths, "real")
    assert not batch_registration.has_left(settings.paths, "real")


def test_everything_is_removed_from_an_object_store_too(tmp_path, bucket):
    settings = Settings(paths=Paths(home=tmp_path, artifacts=str(bucket)))
    deliver(settings, "real", "synthetic:5")
    settings.paths.image_table("real").write_bytes(b"table")
    (settings.paths.validation_results("image_table", "real") / "validation_result.json").write_bytes(b"{}")
    batch_registration.remove(settings.paths, "real")
    assert bucket.fs.find(bucket.path) == []


def test_a_removal_waits_for_a_fetch_under_way(settings, tmp_path):
    batch_registration.register(settings, "real", FileSource(make_zip(tmp_path / "some.zip")))
    said: list[str] = []
    with batch_registration._locked(settings.paths, "real"):
        remover = threading.Thread(
            target=batch_registration.remove, args=(settings.paths, "real", said.append)
        )
        remover.start()
        remover.join(0.5)
        assert remover.is_alive()
        assert batch_registration.known_batches(settings.paths) == ["real"]
    remover.join(10)
    assert said == ["real: another process works on it; waiting until it ends"]
    assert batch_registration.known_batches(settings.paths) == []


def test_a_batch_that_another_process_removes_meanwhile_is_removed(settings, tmp_path):
    batch_registration.register(settings, "real", FileSource(make_zip(tmp_path / "some.zip")))
    failed: list[BaseException] = []

    def remove() -> None:
        try:
            batch_registration.remove(settings.paths, "real")
        except BatchError as error:
            failed.append(error)

    with batch_registration._locked(settings.paths, "real"):
        remover = threading.Thread(target=remove)
        remover.start()
        remover.join(0.5)
        assert remover.is_alive(), "it waits"
        settings.paths.registration("real").unlink()
    remover.join(10)
    assert failed == []
    assert batch_registration.known_batches(settings.paths) == []


# --- kills, full disks, two at once ---------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.no_cover
@pytest.mark.parametrize("make", [make_zip, make_folder])
def test_killed_before_any_step_and_run_again_it_ends_in_the_same_bytes(tmp_path, make):
    source = make(tmp_path / "some.zip", count=3)
    wanted = deliver(Settings(paths=Paths(home=tmp_path / "whole")), "real", source).path.read_bytes()
    for step in range(1, 200):
        settings = Settings(paths=Paths(home=tmp_path / f"home-{step}"))
        killed = killed_at_step(
            lambda home=settings: deliver(home, "real", source), settings.paths.home, step
        )
        for name in data_files(settings):
            assert name == "raw/real.zip"
            assert (settings.paths.home / "data" / name).read_bytes() == wanted
        assert deliver(settings, "real", source).path.read_bytes() == wanted
        assert files_below(settings.paths.scratch) == ["locks/real.lock"]
        if not killed:
            break
    assert 8 < step < 199


@pytest.mark.parametrize("make", [make_zip, make_folder])
def test_killed_in_the_middle_of_a_copy_and_run_again_it_ends_in_the_same_bytes(settings, tmp_path, make):
    source = make(tmp_path / "some.zip", count=40)
    assert killed_while_writing(lambda: deliver(settings, "real", source), 30_000)
    assert data_files(settings) == []
    assert any(path.stat().st_size == 30_000 for path in settings.paths.scratch.rglob("*") if path.is_file())
    raw = deliver(settings, "real", source)
    assert len(members(raw.path)) == 40
    assert files_below(settings.paths.scratch) == ["locks/real.lock"]


@pytest.mark.parametrize("kind", ["zip", "folder", "synthetic"])
def test_a_full_disk_is_one_clear_line_and_nothing_half(small_disk, tmp_path, kind):
    source = {
        "zip": lambda: make_zip(tmp_path / "some.zip", count=400),
        "folder": lambda: make_folder(tmp_path / "folder", count=400),
        "synthetic": lambda: "synthetic:400",
    }[kind]()
    settings = Settings(paths=Paths(home=small_disk))
    with pytest.raises(BatchError, match="no space left on the disk") as error:
        deliver(settings, "real", source)
    assert "\n" not in str(error.value)
    assert data_files(settings) == []
    assert files_below(settings.paths.scratch) == ["locks/real.lock"]
    small = make_zip(tmp_path / "small.zip")
    assert deliver(settings, "small", small).path.read_bytes() == small.read_bytes()


def test_a_limit_on_file_sizes_is_one_clear_line_and_nothing_half(settings, tmp_path):
    source = make_zip(tmp_path / "some.zip", count=40)

    def limited():
        with pytest.raises(BatchError, match="no space left on the disk or in the quota"):
            deliver(settings, "real", source)

    def prepare():
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))

    assert in_child(limited, prepare) == 0
    assert data_files(settings) == []
    assert files_below(settings.paths.scratch) == ["locks/real.lock"]


def test_data_may_lie_on_another_file_system(small_disk, settings, tmp_path):
    settings.paths.home.mkdir()
    (settings.paths.home / "data").symlink_to(small_disk, target_is_directory=True)
    source = make_zip(tmp_path / "some.zip")
    assert deliver(settings, "real", source).path.read_bytes() == source.read_bytes()
    assert files_below(small_disk) == ["raw/real.zip"]


def test_two_processes_that_fetch_the_same_batch_do_not_meet(settings, tmp_path):
    source = make_zip(tmp_path / "some.zip", count=200)
    batch_registration.register(settings, "real", parse_source(str(source)))
    script = (
        "import sys; from pathlib import Path; from captcha_assets.paths import Paths;"
        "from captcha_assets.settings import Settings;"
        "from captcha_assets.sources import batch_registration;"
        "print(batch_registration.fetch(Settings(paths=Paths(home=Path(sys.argv[1]))), 'real').sha256)"
    )
    command = [sys.executable, "-c", script, str(settings.paths.home)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    hashes = {process.communicate()[0].strip() for process in running}
    assert hashes == {hashlib.sha256(source.read_bytes()).hexdigest()}
    assert files_below(settings.paths.scratch) == ["locks/real.lock"]
