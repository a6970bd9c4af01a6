"""The image table: one row per usable image, the same bytes however many processes build it."""

import subprocess
import sys

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from captcha_assets.dataset import CAPTCHA
from captcha_assets.images.decode import decode
from captcha_assets.images.features import image_id
from captcha_assets.images.ingest_worker import CHUNK
from captcha_assets.images.table import (
    COLUMN_DESCRIPTIONS,
    IMAGE_TABLE_SCHEMA,
    REJECTED_SCHEMA,
    IngestError,
    build_image_table,
    content_hash,
)
from captcha_assets_tests.images.files import characters, encode, good_members, write_zip


@pytest.fixture
def build(tmp_path):
    """Build both tables of some members; return the summary and the two paths."""

    def build(members, name="batch", **options):
        archive = write_zip(tmp_path / f"{name}.zip", members)
        paths = tmp_path / f"{name}.parquet", tmp_path / f"{name}-rejected.parquet"
        return build_image_table(archive, name, *paths, CAPTCHA, **options), *paths

    return build


def test_a_row_says_all_about_its_image(build):
    members = good_members(30)
    summary, path, _ = build(members)
    rows = pl.read_parquet(path)
    assert pq.read_schema(path).equals(IMAGE_TABLE_SCHEMA)
    assert rows["member"].to_list() == sorted(members)
    for row in rows.iter_rows(named=True):
        pixels = decode(members[row["member"]], CAPTCHA).pixels
        assert np.array_equal(np.frombuffer(row["pixels"], np.uint8).reshape(52, 32), pixels)
        assert row["image_id"] == image_id(pixels)
        assert row["label"] == row["member"].removeprefix("Dataset/").split("_")[0]
        assert row["batch"] == "batch"
        assert row["brightness"] == pytest.approx(pixels.mean())
        assert row["file_bytes"] == len(members[row["member"]])
        assert len(row["signature"]) == 240
    assert rows["file_hash"].n_unique() == 30
    assert summary.images == 30
    assert summary.images_by_class == dict(rows["label"].value_counts().sort("label").iter_rows())


def test_every_column_is_described():
    assert set(COLUMN_DESCRIPTIONS) == set(IMAGE_TABLE_SCHEMA.names) | set(REJECTED_SCHEMA.names)


def test_the_summary_counts_what_happened(build):
    label, image = characters(1)[0]
    colour = encode(np.repeat(image[..., None], 3, axis=2))
    members = {f"{label}_1.png": encode(image), f"{label}_2.png": encode(image), f"{label}_3.png": colour}
    bad = {"a_4.png": b"", "a_5.png": b"", "z_6.png": encode(image), ".DS_Store": b""}
    summary, path, rejected = build(members | bad)
    assert (summary.images, summary.rejected, summary.duplicates_within) == (3, 3, 2)
    assert summary.rejected_by_reason == {"empty": 2, "bad_label": 1}
    assert list(summary.rejected_by_reason) == ["empty", "bad_label"]
    assert (summary.converted, summary.ignored) == (1, 1)
    assert pl.read_parquet(path)["source_mode"].to_list() == ["L", "L", "RGB"]
    assert summary.table_version == content_hash(path)
    assert summary.rejected_version == content_hash(rejected)


def test_the_same_content_gives_the_same_bytes_however_it_is_packed_and_read(build):
    members = good_members(60) | {"a_99.png": b"broken"}
    upside_down = dict(reversed(members.items()))
    first, second = build(members), build(upside_down, processes=2)
    assert first[0] == second[0]
    for one, other in zip(first[1:], second[1:], strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_worker_processes_read_several_chunks_in_order(build):
    label, image = characters(1)[0]
    data = encode(image)
    members = {f"{label}_{n:05}.png": data if n % 100 else b"" for n in range(2 * CHUNK + 77)}
    alone, together = build(members, processes=0), build(members, processes=2)
    assert alone[0] == together[0]
    rows = pl.read_parquet(together[1])
    assert rows["member"].is_sorted()
    assert len(rows) + together[0].rejected == len(members)


def test_a_worker_that_dies_ends_in_a_clear_error_and_no_table(build, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(IngestError, match="ended with status 1"):
        build(good_members(5), processes=1)
    assert not (tmp_path / "batch.parquet").exists()


def test_another_image_another_version(build):
    one, _, _ = build(good_members(5))
    other, _, _ = build(good_members(5, seed=1))
    assert one.table_version != other.table_version
    assert one.rejected_version == other.rejected_version


def test_tables_go_to_an_object_store(bucket, tmp_path):
    archive = write_zip(tmp_path / "batch.zip", good_members(5))
    summary = build_image_table(archive, "batch", bucket / "t.parquet", bucket / "r.parquet", CAPTCHA)
    assert content_hash(bucket / "t.parquet") == summary.table_version


def test_a_worker_needs_no_data_frames():
    code = "import captcha_assets.images.ingest_worker, sys; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"polars", "pandas", "scipy", "torch", "dagster"} & set(loaded)


def test_the_real_images_are_all_usable(shared_data, tmp_path):
    archive = shared_data / "kaptcha_characters.zip"
    summary = build_image_table(archive, "real", tmp_path / "t.parquet", tmp_path / "r.parquet", CAPTCHA)
    assert (summary.images, summary.rejected, summary.duplicates_within) == (935, 0, 0)
    assert len(summary.images_by_class) == 19


def test_the_samples_of_the_true_data_set_are_usable(shared_data, build):
    files = sorted((shared_data / "kaggle_samples").glob("*.png"))
    summary, path, _ = build({file.name: file.read_bytes() for file in files})
    assert (summary.images, summary.converted) == (3, 1)
    assert pl.read_parquet(path)["label"].to_list() == ["2", "4", "d"]
