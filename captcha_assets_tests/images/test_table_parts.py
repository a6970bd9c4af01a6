"""Tables in parts: after any history the same bytes as from nothing, and at every moment a whole table."""

import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from upath import UPath

from captcha_assets.atomic_files import AnyPath
from captcha_assets.dataset import CAPTCHA
from captcha_assets.images import table_parts
from captcha_assets.images.content_hash import content_hash
from captcha_assets.images.features import image_id
from captcha_assets.images.index import INDEX_SCHEMA, build_image_index
from captcha_assets.images.split_assignment import update_splits
from captcha_assets.images.split_record import AssignmentRecord
from captcha_assets.images.table_files import MissingTableError
from captcha_assets.images.table_parts import MANIFEST, DamagedTableError, Writer
from captcha_assets_tests.images.tables import content, rows_of, write_table
from captcha_assets_tests.images.test_index import labelled, pool

#: The batches that there are, by name, with the places of their images in the pool.
BATCHES = st.dictionaries(
    st.sampled_from(["one", "two", "three"]), st.lists(st.integers(0, len(pool()) - 1), max_size=9)
)
#: What people have decided, by place.
DECISIONS = st.dictionaries(
    st.integers(0, len(pool()) - 1), st.sampled_from([("drop", ""), ("relabel", "a"), ("relabel", "b")])
)
#: What a step is killed at, before it makes its table the table.
KILLED = st.sampled_from([None, None, "index", "splits"])
HISTORY = st.lists(st.tuples(BATCHES, DECISIONS, KILLED), min_size=1, max_size=5)


class Killed(Exception):  # noqa: N818 - stands for the end of a process
    pass


class Home:
    """Index and splits in one folder."""

    def __init__(self, folder: Path) -> None:
        self.index, self.splits = folder / "index", folder / "splits"
        self.record = AssignmentRecord(folder / "record", folder / "scratch")

    def update(self, tables: dict[str, Path], decisions: Path, killed: str | None = None) -> None:
        def commit(writer: Writer, *arguments: object) -> object:
            if killed == writer.folder.name:
                raise Killed
            return original(writer, *arguments)

        original = Writer.commit
        with mock.patch.object(Writer, "commit", commit):
            build_image_index(tables, self.index, CAPTCHA, decisions)
            update_splits(self.index, self.splits, self.record, CAPTCHA, tables.__getitem__)

    def content(self) -> list[dict[str, bytes]]:
        record = {name: (self.record.folder / name).read_bytes() for name in self.record.files()}
        return [content(self.index), content(self.splits), record]


@settings(max_examples=settings.default.max_examples // 5)
@given(HISTORY)
def test_after_any_history_the_tables_are_as_if_computed_from_nothing(tmp_path_factory, history):
    folder = tmp_path_factory.mktemp("history")
    grown = Home(folder / "grown")
    decided = folder / "label_decisions.csv"
    for number, (batches, decisions, killed) in enumerate(history):
        tables = {
            name: write_table(folder / f"{name}.parquet", name, labelled(places, name == "two"))
            for name, places in batches.items()
        }
        lines = [f"{image_id(pool()[place][1])},{','.join(one)}," for place, one in decisions.items()]
        decided.write_text("\n".join(["image_id,decision,label,reason", *lines]) + "\n")
        fresh = Home(folder / f"fresh-{number}")
        if grown.record.files():
            shutil.copytree(grown.record.folder, fresh.record.folder)
        with suppress(Killed):
            grown.update(tables, decided, killed)
        grown.update(tables, decided)
        fresh.update(tables, decided)
        assert grown.content() == fresh.content()


def table(*batches: str, folder: Path, rows: int = 3) -> dict[str, Path]:
    images = pool()
    return {
        name: write_table(folder / f"{name}.parquet", name, images[rows * number : rows * (number + 1)])
        for number, name in enumerate(batches)
    }


def files(folder: Path) -> set[str]:
    return {file.name for file in folder.glob("*.parquet")}


def named(folder: AnyPath) -> set[str]:
    return {file.name for file in table_parts.read_manifest(folder).files()}


def test_one_more_batch_leaves_the_files_of_the_others_as_they_are(tmp_path):
    index = tmp_path / "index"
    build_image_index(table("one", "two", folder=tmp_path), index, CAPTCHA)
    before = {file: file.stat().st_ino for file in index.glob("*.parquet")}
    build_image_index(table("one", "two", "three", folder=tmp_path), index, CAPTCHA)
    assert len(named(index)) == 3
    assert all(file.stat().st_ino == inode for file, inode in before.items())


def test_who_reads_while_the_table_is_replaced_reads_the_old_one_to_its_end(tmp_path):
    index = tmp_path / "index"
    build_image_index(table("one", "two", folder=tmp_path), index, CAPTCHA)
    old = rows_of(index)
    reading = table_parts.scan(index).sort("image_id")
    build_image_index(table("two", folder=tmp_path), index, CAPTCHA)
    assert reading.collect().equals(old)
    build_image_index(table("two", "three", folder=tmp_path), index, CAPTCHA)
    assert {name.split("-")[0] for name in files(index)} == {"two", "three"}  # the first ones are gone


def test_a_killed_writer_leaves_the_table_as_it_was_and_the_next_one_cleans_up(tmp_path):
    home = Home(tmp_path)
    tables = table("one", "two", folder=tmp_path)
    build_image_index({"one": tables["one"]}, home.index, CAPTCHA)
    before = content(home.index)
    with mock.patch.object(Writer, "commit", side_effect=Killed), pytest.raises(Killed):
        build_image_index(tables, home.index, CAPTCHA)
    assert content(home.index) == before
    assert files(home.index) > named(home.index)
    build_image_index({"one": tables["one"]}, home.index, CAPTCHA)
    assert files(home.index) == named(home.index)
    assert content(home.index) == before


def test_the_version_does_not_depend_on_the_division_into_files(tmp_path):
    index, file = tmp_path / "index", tmp_path / "all.parquet"
    version = build_image_index(table("one", "two", folder=tmp_path), index, CAPTCHA).version
    table_parts.write_one_file(index, file)
    assert table_parts.version_of(file) == table_parts.version_of(index) == version
    rows = pl.read_parquet(file).reverse().to_arrow().cast(INDEX_SCHEMA)
    pl.DataFrame(rows).write_parquet(file)
    assert table_parts.version_of(file) == version
    assert pl.read_parquet(file).sort("image_id").equals(rows_of(index))
    renamed = pl.read_parquet(file).with_columns(batch=pl.lit("one"))
    renamed.write_parquet(file)
    assert table_parts.version_of(file) != version


def test_a_file_of_an_earlier_version_keeps_the_version_it_had(tmp_path):
    file = tmp_path / "splits.parquet"
    pl.DataFrame({"image_id": ["0"], "batch": ["one"], "sample_key": [0.5]}).write_parquet(file)
    assert table_parts.version_of(file) == content_hash(file)


def test_parts_of_a_version_that_noted_no_hash_of_their_files_are_verified_by_their_rows(tmp_path):
    index = tmp_path / "index"
    tables = table("one", "two", "three", folder=tmp_path)
    build_image_index({name: tables[name] for name in ("one", "two")}, index, CAPTCHA)
    manifest = json.loads((index / MANIFEST).read_text())
    del manifest["checksum"]
    for part in manifest["parts"].values():
        assert part.pop("file_hash")
    checksum = table_parts._checksum(manifest)
    (index / MANIFEST).write_text(json.dumps(manifest | {"checksum": checksum}))
    inodes = {file: file.stat().st_ino for file in index.glob("*.parquet")}
    assert table_parts.verified_version(index) == table_parts.version_of(index)
    build_image_index(tables, index, CAPTCHA)
    assert all(file.stat().st_ino == inode for file, inode in inodes.items())
    build_image_index(tables, tmp_path / "anew", CAPTCHA)
    assert table_parts.version_of(index) == table_parts.version_of(tmp_path / "anew")


@pytest.mark.parametrize("name", ["manifest", "part"])
def test_a_pipe_in_the_place_of_a_file_is_named_and_nobody_waits_for_it(tmp_path, name):
    index = tmp_path / "index"
    tables = table("one", "two", folder=tmp_path)
    version = build_image_index(tables, index, CAPTCHA).version
    file = index / MANIFEST if name == "manifest" else table_parts.read_manifest(index).files()[0]
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(DamagedTableError, match="no regular file"):
        table_parts.verified_version(index)
    assert build_image_index(tables, index, CAPTCHA).version == version
    assert table_parts.verified_version(index) == version


def test_a_manifest_that_is_nested_too_deeply_is_damaged(tmp_path):
    index = tmp_path / "index"
    tables = table("one", folder=tmp_path)
    version = build_image_index(tables, index, CAPTCHA).version
    (index / MANIFEST).write_text(200_000 * "[")
    with pytest.raises(DamagedTableError, match=rf"{index / MANIFEST} cannot be read"):
        table_parts.verified_version(index)
    assert build_image_index(tables, index, CAPTCHA).version == version


def test_a_link_to_nothing_is_named_and_stays(tmp_path):
    index = tmp_path / "index"
    index.symlink_to(tmp_path / "unmounted")
    with pytest.raises(DamagedTableError, match=f"{index} is a link to nothing: mount what it leads to"):
        build_image_index(table("one", folder=tmp_path), index, CAPTCHA)
    assert index.is_symlink()


def test_a_table_without_rows_has_its_columns(tmp_path):
    build_image_index({}, tmp_path / "index", CAPTCHA)
    assert rows_of(tmp_path / "index").columns == INDEX_SCHEMA.names
    assert table_parts.version_of(tmp_path / "index") == table_parts.verified_version(tmp_path / "index")


def test_a_missing_or_damaged_table_is_named(tmp_path):
    index = tmp_path / "index"
    with pytest.raises(MissingTableError, match=r"index is missing: materialize it again"):
        table_parts.scan(index)
    build_image_index(table("one", "two", folder=tmp_path), index, CAPTCHA)
    one, other = table_parts.read_manifest(index).files()
    swapped = one.read_bytes()
    one.write_bytes(other.read_bytes())
    with pytest.raises(DamagedTableError, match=r"one-.* does not hold what manifest\.json says"):
        table_parts.verified_version(index)
    one.write_bytes(swapped)
    manifest = json.loads((index / "manifest.json").read_text())
    (index / "manifest.json").write_text(json.dumps(manifest | {"version": "0"}))
    with pytest.raises(DamagedTableError, match="it does not hold what was written"):
        table_parts.verified_version(index)
    (index / "manifest.json").write_text("[]")
    with pytest.raises(DamagedTableError, match=r"manifest\.json cannot be read"):
        table_parts.scan(index)


def _flip(file: Path) -> None:
    damaged = bytearray(file.read_bytes())
    damaged[len(damaged) // 3] ^= 255
    file.write_bytes(damaged)


@pytest.mark.parametrize(
    "harm", [Path.unlink, _flip, lambda file: file.write_bytes(b""), lambda file: file.write_text("hello")]
)
def test_a_table_of_which_a_file_is_lost_or_damaged_is_computed_again(tmp_path, harm):
    home, tables = Home(tmp_path), table("one", "two", folder=tmp_path)
    home.update(tables, tmp_path / "none.csv")
    before = home.content()
    for folder in (home.index, home.splits):
        harm(table_parts.read_manifest(folder).files()[0])
    home.update(tables, tmp_path / "none.csv")
    assert home.content() == before


def _edited(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Return what edits the manifest of a table, as a person or a failing disk may."""

    def edit(folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text())
        change(manifest)
        (folder / "manifest.json").write_text(json.dumps(manifest))

    return edit


def _as_folder(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    (folder / "manifest.json").mkdir()


def _part_as_folder(folder: Path) -> None:
    file = table_parts.read_manifest(folder).files()[0]
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize(
    "harm",
    [
        _edited(lambda manifest: manifest["parts"].pop("two")),
        _edited(lambda manifest: manifest["parts"].update(two=manifest["parts"]["one"])),
        _edited(lambda manifest: manifest["parts"]["two"].update(counts=[["2", "train", 99_999]])),
        _edited(lambda manifest: manifest.update(about={})),
        _edited(lambda manifest: manifest.update(about=None)),
        _edited(lambda manifest: manifest.update(version="0" * 32)),
        _edited(lambda manifest: manifest.pop("checksum")),
        _as_folder,
        _part_as_folder,
    ],
)
@pytest.mark.parametrize("later", [("one", "two"), ("one", "two", "three")])
def test_a_manifest_that_is_not_what_was_written_is_damaged_and_nothing_is_computed_from_it(
    tmp_path: Path, harm: Callable[[Path], None], later: tuple[str, ...]
) -> None:
    home, expected = Home(tmp_path / "harmed"), Home(tmp_path / "unharmed")
    tables = table(*later, folder=tmp_path)
    first = {name: tables[name] for name in ("one", "two")}
    for one in (home, expected):
        one.update(first, tmp_path / "none.csv")
    for folder in (home.index, home.splits):
        harm(folder)
        with pytest.raises(OSError):  # noqa: PT011 - a folder in the place of a file is one
            table_parts.verified_version(folder)
    for one in (home, expected):
        one.update(tables, tmp_path / "none.csv")
    assert home.content() == expected.content()


def test_tables_on_an_object_store_grow_as_local_ones(tmp_path: Path, bucket: UPath):
    there = Home(bucket)
    there.record = AssignmentRecord(tmp_path / "there", tmp_path / "scratch")
    here = Home(tmp_path / "here")
    for names in (["one", "two"], ["one", "two", "three"], ["three"]):
        tables = table("one", "two", "three", folder=tmp_path)
        for home in (here, there):
            home.update({name: tables[name] for name in names}, tmp_path / "none.csv")
        assert here.content() == there.content()


def test_the_manifest_of_another_table_counts_as_none(tmp_path):
    tables = {"one": write_table(tmp_path / "one.parquet", "one", list(pool()))}
    index, splits = tmp_path / "image_index", tmp_path / "splits"
    record = AssignmentRecord(tmp_path / "data", tmp_path / "scratch")
    build_image_index(tables, index, CAPTCHA)
    update_splits(index, splits, record, CAPTCHA)
    before = content(splits)
    (splits / MANIFEST).write_bytes((index / MANIFEST).read_bytes())
    update_splits(index, splits, record, CAPTCHA)
    assert content(splits) == before
