"""A batch that is removed is gone everywhere; one that is registered with other content is other content."""

import json
import shutil
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from captcha_assets.defs.observed_sources import observed_sources
from captcha_assets.sources import synthetic_batches
from captcha_assets_tests.commands import run, succeeded
from captcha_assets_tests.defs.conftest import Home, made_once, open_home
from captcha_assets_tests.images.tables import rows_of
from captcha_assets_tests.sources.test_dvc_snapshot import dvc

#: Whole pipelines, and processes of their own: CI runs them, `make test-all` here.
pytestmark = pytest.mark.slow

THROUGH_SPLITS = "+key:splits or key:rejected_images or key:data_snapshot"


def archive(path: Path, count: int, seed: int) -> Path:
    synthetic_batches.write_archive(path, count, seed)
    return path


def index_of(home: Path) -> pl.DataFrame:
    return rows_of(home / "artifacts" / "image_index")


def listed(home: Path) -> dict[str, dict]:
    rows = [json.loads(line) for line in succeeded(home, "batch", "list", "--json").splitlines()]
    return {row["batch"]: row for row in rows}


def two_batches(folder: Path) -> None:
    """Fill a folder with `a.zip` (60 images), `b.zip` (80), and a home with both, through to the splits."""
    folder.mkdir()
    home = folder / "home"
    succeeded(home, "batch", "add", "a", str(archive(folder / "a.zip", 60, seed=1)))
    succeeded(home, "batch", "add", "b", str(archive(folder / "b.zip", 80, seed=2)))
    succeeded(home, "update", "--select", THROUGH_SPLITS)


@pytest.fixture
def two(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the batches `a` (60 images) and `b` (80), through to the splits, to change at will."""
    made = made_once(tmp_path_factory, "two-batches", two_batches)
    shutil.copytree(made, tmp_path, symlinks=True, dirs_exist_ok=True)
    for batch in ("a", "b"):  # each comes from its copy
        registration = tmp_path / "home" / "artifacts" / "deliveries" / f"{batch}.json"
        known = json.loads(registration.read_text())
        known["source"] = str(tmp_path / f"{batch}.zip")
        del known["checksum"]
        registration.write_text(json.dumps(known))
    return tmp_path / "home"


def test_a_name_that_is_used_again_after_a_removal_holds_the_new_images_only(
    two: Path, tmp_path: Path
) -> None:
    before = index_of(two)
    succeeded(two, "batch", "remove", "a")
    left = [path for path in two.rglob("*") if path.name.split(".")[0] == "a" and path.suffix != ".lock"]
    assert left == []
    assert "batch a was removed" in succeeded(two, "update", "--dry-run")
    succeeded(two, "update", "--select", THROUGH_SPLITS)
    assert set(index_of(two)["batch"]) == {"b"}

    succeeded(two, "batch", "add", "a", str(archive(tmp_path / "other.zip", 70, seed=3)))
    succeeded(two, "update", "--select", THROUGH_SPLITS)
    assert (two / "data" / "raw" / "a.zip").read_bytes() == (tmp_path / "other.zip").read_bytes()
    assert listed(two)["a"]["usable"] == 70
    removed = before.filter(pl.col("batch") == "a")
    assert index_of(two).join(removed, on="image_id").is_empty()
    assert "everything is up to date" in succeeded(two, "update", "--select", THROUGH_SPLITS)


def brought_to(other: Path, home: Path) -> None:
    """Bring DVC's record of a home to another machine, and pull."""
    (other / ".dvc").mkdir(parents=True, exist_ok=True)
    for name in ("data.dvc", ".dvcignore", ".dvc/config"):
        shutil.copyfile(home / name, other / name)
    dvc(other, "pull")


def test_a_batch_that_was_removed_on_another_machine_is_gone_here_after_a_pull(
    two: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    dvc(two, "remote", "add", "--default", "store", str(tmp_path / "store"))
    assert "data_snapshot: not pushed yet to the DVC remote store" in succeeded(two, "update", "--dry-run")
    succeeded(two, "update", "--select", THROUGH_SPLITS)
    brought_to(other, two)
    succeeded(other, "update", "--select", THROUGH_SPLITS)
    assert set(index_of(other)["batch"]) == {"a", "b"}

    succeeded(two, "batch", "remove", "a")
    succeeded(two, "update", "--select", THROUGH_SPLITS)
    brought_to(other, two)
    assert "raw_batch [a]" not in succeeded(other, "update", "--dry-run", "--select", THROUGH_SPLITS)
    succeeded(other, "update", "--select", THROUGH_SPLITS)
    assert set(listed(other)) == {"b"}
    assert index_of(other).equals(index_of(two))
    assert not (other / "artifacts" / "image_table" / "a.parquet").exists()
    assert "everything is up to date" in succeeded(other, "update", "--select", THROUGH_SPLITS)


def test_an_archive_that_is_lost_here_is_no_removal(two: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    dvc(two, "remote", "add", "--default", "store", str(tmp_path / "store"))
    succeeded(two, "update", "--select", THROUGH_SPLITS)
    brought_to(other, two)
    succeeded(other, "update", "--select", THROUGH_SPLITS)
    (other / "data" / "raw" / "a.zip").unlink()
    done = run(other, "update", "--select", THROUGH_SPLITS)
    assert done.returncode == 1
    assert "remove what is left of it (captcha-assets batch remove a)" in done.stdout
    dvc(other, "checkout", "data.dvc")
    assert "raw_batch" not in succeeded(other, "update", "--select", THROUGH_SPLITS)
    assert set(listed(other)) == {"a", "b"}
    assert index_of(other).equals(index_of(two))


def test_the_name_is_used_again_before_anything_was_updated(two: Path, tmp_path: Path) -> None:
    succeeded(two, "batch", "remove", "a")
    succeeded(two, "batch", "add", "a", str(archive(tmp_path / "other.zip", 70, seed=3)))
    planned = succeeded(two, "update", "--dry-run", "--select", THROUGH_SPLITS)
    assert "would materialize raw_batch [a]: registered again after its removal" in planned
    succeeded(two, "update", "--select", THROUGH_SPLITS)
    assert listed(two)["a"]["usable"] == 70


def test_a_source_that_was_overwritten_and_is_added_again_is_new_content(two: Path, tmp_path: Path) -> None:
    archive(tmp_path / "a.zip", 90, seed=4)
    succeeded(two, "batch", "add", "a", str(tmp_path / "a.zip"))
    planned = succeeded(two, "update", "--dry-run", "--select", THROUGH_SPLITS)
    assert "raw_batch [a]: not what is registered" in planned
    succeeded(two, "update", "--select", THROUGH_SPLITS)
    assert listed(two)["a"]["usable"] == 90
    assert "everything is up to date" in succeeded(two, "update", "--select", THROUGH_SPLITS)


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"garbage")])
def test_an_archive_that_is_lost_with_its_source_stops_in_one_line_and_its_return_mends_all(
    two: Path, tmp_path: Path, damage: object
) -> None:
    lost = two / "data" / "raw" / "a.zip"
    kept = lost.read_bytes()
    (tmp_path / "a.zip").unlink()
    damage(lost)  # type: ignore[operator]
    done = run(two, "update", "--select", THROUGH_SPLITS)
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    assert "dvc" in done.stdout
    assert "data_snapshot" in done.stdout, "data/ is not recorded without an archive that was there"
    assert set(index_of(two)["batch"]) == {"a", "b"}
    lost.write_bytes(kept)
    assert "everything is up to date" in succeeded(two, "update", "--select", THROUGH_SPLITS)


def test_a_damaged_file_of_the_same_size_and_time_is_found_by_verify(two: Path) -> None:
    table = two / "artifacts" / "image_table" / "b.parquet"
    content = bytearray(table.read_bytes())
    content[len(content) // 2] ^= 0xFF
    table.write_bytes(content)
    planned = succeeded(two, "update", "--dry-run", "--verify", "--select", THROUGH_SPLITS)
    assert "image_table + rejected_images [b]: damaged" in planned or "[b]: changed" in planned


def test_automation_starts_with_the_batches_that_were_registered_before_it(home: Home) -> None:
    home.add("early", "synthetic:40:1")
    first = dg.evaluate_automation_conditions(home.definitions, home.instance)
    requested = {one.key.to_user_string() for one in first.results if one.true_subset.size}
    assert requested == {"raw_batch", "image_table", "rejected_images"}
    second = dg.evaluate_automation_conditions(home.definitions, home.instance, cursor=first.cursor)
    assert second.get_requested_partitions(dg.AssetKey("raw_batch")) == set(), "asked for once"


def test_automation_takes_a_removed_batch_out_of_index_and_snapshot(
    two: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = open_home(two, monkeypatch)
    with home.instance:
        first = dg.evaluate_automation_conditions(home.definitions, home.instance)
        succeeded(two, "batch", "remove", "a")
        with dg.build_sensor_context(
            instance=home.instance, resources={"settings": home.settings}
        ) as context:
            answer = observed_sources(context)
        for event in answer.asset_events:
            home.instance.report_runless_asset_event(event)
        second = dg.evaluate_automation_conditions(home.definitions, home.instance, cursor=first.cursor)
        requested = {one.key.to_user_string() for one in second.results if one.true_subset.size}
        assert {"image_index", "data_snapshot"} <= requested
        assert Home(home.settings, home.instance, home.definitions).stale() != []
