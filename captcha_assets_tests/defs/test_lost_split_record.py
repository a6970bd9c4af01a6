"""An image never changes its split: not by a removal, a conflict, a lost file, or another machine."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner

from captcha_assets.atomic_files import remove
from captcha_assets.cli import main
from captcha_assets.images.split_record import AssignmentRecord
from captcha_assets.images.table_parts import of_earlier_version, version_of
from captcha_assets.paths import Paths
from captcha_assets.settings import Settings
from captcha_assets.sources import batch_registration
from captcha_assets_tests.defs.conftest import Home, made_once, open_home
from captcha_assets_tests.defs.test_label_decisions import HEAD, contradict
from captcha_assets_tests.images.tables import content, rows_of

#: Whole pipelines, and processes of their own: CI runs them, `make test-all` here.
pytestmark = pytest.mark.slow

THROUGH_SPLITS = "+key:splits or key:data_snapshot"


def _make(folder: Path) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        opened = open_home(folder, monkeypatch)
        with opened.instance:
            opened.add("first", "synthetic:100:1")
            opened.add("second", "synthetic:100:2")
            _through_splits(opened)


def _through_splits(home: Home) -> None:
    outcomes = home.update(THROUGH_SPLITS)
    assert not [outcome for outcome in outcomes if outcome.error], outcomes


def _again(home: Home) -> None:
    """Materialize the splits, needed or not."""
    assert home.materialize("splits") is None


@pytest.fixture
def split(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Home]:
    """A home with the splits of two batches, recorded by DVC."""
    folder = made_once(tmp_path_factory, "split", _make)
    shutil.copytree(folder, tmp_path / "home", symlinks=True)
    opened = open_home(tmp_path / "home", monkeypatch)
    with opened.instance:
        yield opened


def said(*arguments: str, status: int = 0) -> str:
    """What the command line says."""
    done = CliRunner().invoke(main, list(arguments), catch_exceptions=False)
    assert done.exit_code == status, done.output
    return done.output


def split_by_image(settings: Settings) -> dict[str, str]:
    rows = rows_of(settings.paths.splits).drop_nulls("split")
    return dict(rows.select("image_id", "split").iter_rows())


def dvc(home: Home, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=home.settings.paths.home,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_removed_batch_has_its_splits_again_when_it_comes_back_and_so_on_another_machine(
    split: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = split.settings, Settings(paths=Paths(home=tmp_path / "there"))
    before, version = split_by_image(here), version_of(here.paths.splits)
    said("batch", "remove", "first")
    said("update", "--select", THROUGH_SPLITS)
    assert split_by_image(here).items() < before.items()
    said("batch", "add", "first", "synthetic:100:1", "--materialize")
    assert split_by_image(here) == before
    assert version_of(here.paths.splits) == version
    shutil.copytree(here.paths.home / "data", there.paths.home / "data")  # as `dvc pull` does
    monkeypatch.setenv("CAPTCHA_HOME", str(there.paths.home))
    said("update", "--select", THROUGH_SPLITS)
    assert version_of(there.paths.splits) == version
    assert (there.paths.home / "data.dvc").read_text() == (here.paths.home / "data.dvc").read_text()


def test_dvc_records_the_assignments_with_the_archives(split: Home) -> None:
    assert "up to date" in dvc(split, "status")
    assert len(list(split.settings.paths.split_assignments.iterdir())) == 1
    shutil.rmtree(split.settings.paths.split_assignments)
    assert "data" in dvc(split, "status")


def test_an_image_whose_labels_contradict_each_other_for_a_while_keeps_its_split(
    split: Home, tmp_path: Path
) -> None:
    before = split_by_image(split.settings)
    contradict(split.settings.paths.raw / "first.zip", tmp_path / "other.zip")
    split.add("third", str(tmp_path / "other.zip"))
    _through_splits(split)
    assert split_by_image(split.settings).items() < before.items()
    conflicts = pl.read_csv(split.settings.paths.label_conflicts)["image_id"]
    relabelled = "".join(f"{name},relabel,w,\n" for name in conflicts)
    split.settings.paths.label_decisions.write_text(f"{HEAD}\n{relabelled}")
    split.instance.report_runless_asset_event(next(iter(_unseen(split))))
    _through_splits(split)
    assert split_by_image(split.settings) == before


def _unseen(home: Home) -> list:
    from captcha_assets.defs.observed_sources import changed_sources

    return changed_sources(home.settings, home.instance)


def test_lost_splits_are_made_again_to_the_same_bytes(split: Home) -> None:
    before = content(split.settings.paths.splits)
    remove(split.settings.paths.splits)
    _again(split)
    assert content(split.settings.paths.splits) == before


def test_lost_assignments_stop_the_update_in_one_line_until_dvc_restores_them(split: Home) -> None:
    before = split_by_image(split.settings)
    shutil.rmtree(split.settings.paths.split_assignments)
    split.add("third", "synthetic:30:3")
    outcomes = {str(outcome.step): outcome.error for outcome in split.update(THROUGH_SPLITS)}
    lost = outcomes["splits"]
    assert lost
    assert lost.startswith("split assignments are lost: 1 of 1 files are missing")
    assert "dvc checkout data/splits" in lost
    assert len(lost.splitlines()) == 1
    assert outcomes["data_snapshot"] == "waits for splits"
    assert split_by_image(split.settings) == before
    dvc(split, "checkout", "data/splits")
    _through_splits(split)
    assert split_by_image(split.settings).items() > before.items()


def test_a_loss_of_assignments_is_never_recorded_by_dvc(split: Home) -> None:
    recorded = (split.settings.paths.home / "data.dvc").read_text()
    shutil.rmtree(split.settings.paths.split_assignments)
    assert "split assignments are lost" in str(split.materialize("data_snapshot"))
    assert (split.settings.paths.home / "data.dvc").read_text() == recorded


def test_where_both_are_lost_dagster_still_knows_that_there_were_assignments(split: Home) -> None:
    shutil.rmtree(split.settings.paths.split_assignments)
    remove(split.settings.paths.splits)
    assert "the last materialization of splits names them" in str(split.materialize("splits"))


def test_lost_assignments_are_said_although_nothing_else_has_changed(split: Home) -> None:
    (file,) = split.settings.paths.split_assignments.iterdir()
    kept = file.read_bytes()
    file.write_bytes(b"garbage")
    assert f"damaged: {file}" in said("status")
    output = said("update", "--select", THROUGH_SPLITS, status=1)
    assert f"failed: {file} is damaged: delete the file, then restore the record" in output
    assert f"{file} is damaged: delete the file" in str(split.materialize("data_snapshot"))
    file.write_bytes(kept)
    assert "everything is up to date" in said("update", "--select", THROUGH_SPLITS)


def test_a_file_that_no_update_wrote_into_the_record_is_named_until_it_is_deleted(split: Home) -> None:
    record = split.settings.paths.split_assignments
    (whole,) = record.iterdir()
    swapped = pl.read_parquet(whole).with_columns(pl.col("split").replace({"train": "test", "test": "train"}))
    copy = record / f"000002-{'0' * 32}.parquet"
    for foreign, rows in ((record / f"000001-{'0' * 32}.parquet", swapped), (copy, pl.read_parquet(whole))):
        rows.write_parquet(foreign)
        planned = said("update", "--dry-run", "--verify", "--select", THROUGH_SPLITS)
        assert f"splits: damaged: {foreign} is damaged: delete the file" in planned
        assert f"{foreign} is damaged: delete the file" in str(split.materialize("splits"))
        foreign.unlink()
    assert "everything is up to date" in said("update", "--dry-run", "--select", THROUGH_SPLITS)


def test_assignments_of_another_machine_make_the_splits_stale(split: Home) -> None:
    paths = split.settings.paths
    others = pl.DataFrame({"image_id": ["0" * 32], "split": ["test"], "label": ["a"], "batch": ["third"]})
    name = AssignmentRecord(paths.split_assignments, paths.scratch).append(others)
    plan = said("update", "--dry-run", "--select", "key:splits")
    assert f"splits: not computed from all split assignments: {paths.split_assignments}/{name} is new" in plan
    before = split_by_image(split.settings)
    assert split.materialize("splits") is None
    assert split_by_image(split.settings) == before
    assert "everything is up to date" in said("update", "--dry-run", "--select", "key:splits")


def test_one_may_start_over_by_saying_so(split: Home, tmp_path: Path) -> None:
    shutil.rmtree(split.settings.paths.split_assignments)
    remove(split.settings.paths.splits)
    config = tmp_path / "accept-loss.yaml"
    config.write_text("ops: {splits: {config: {accept_loss: true}}}\n")
    said("update", "--select", THROUGH_SPLITS, "--config", str(config))
    assert len(split_by_image(split.settings)) == 200
    assert "everything is up to date" in said("update", "--select", THROUGH_SPLITS)


def _key(name: str):
    import dagster as dg

    return dg.AssetKey(name)


def test_a_home_from_before_there_was_a_record_goes_on_with_its_splits(split: Home) -> None:
    before = split_by_image(split.settings)
    rows = rows_of(split.settings.paths.splits)
    remove(split.settings.paths.splits)
    rows.write_parquet(str(of_earlier_version(split.settings.paths.splits)))
    shutil.rmtree(split.settings.paths.split_assignments)
    split.instance.wipe_assets([_key("splits")])
    _again(split)
    assert split_by_image(split.settings) == before
    assert len(list(split.settings.paths.split_assignments.iterdir())) == 1


def test_a_removal_of_half_of_the_images_stops_nothing(split: Home) -> None:
    batch_registration.remove(split.settings.paths, "first")
    split.instance.delete_dynamic_partition("batch", "first")
    kept = split_by_image(split.settings)
    _through_splits(split)
    assert split_by_image(split.settings).items() < kept.items()
    from captcha_assets.cli.orchestration import execution

    assert execution.failed_blocking_checks(split.definitions, split.instance, ("resnet18",)) == []


def test_with_no_batch_left_the_update_says_in_one_line_that_there_is_nothing_to_train_on(
    split: Home,
) -> None:
    for name in ("first", "second"):
        said("batch", "remove", name)
    output = said("update", status=1)
    assert "failed: there is nothing to train on, no image in train or validation: add a batch" in output
    assert split_by_image(split.settings) == {}
    next_training = json.loads(said("status", "--json"))["next_training"]
    assert next_training.startswith("no training: no image in train or validation")


@pytest.mark.parametrize("source", ["synthetic:1:1", "one class"])
def test_a_batch_of_one_image_or_one_class_gets_its_splits(home: Home, tmp_path: Path, source: str) -> None:
    if source == "one class":
        source = str(_one_class(tmp_path))
    home.add("small", source)
    _through_splits(home)
    assert split_by_image(home.settings)


def _one_class(folder: Path) -> Path:
    import zipfile

    from captcha_assets.sources import synthetic_batches

    synthetic_batches.write_archive(folder / "all.zip", 400, seed=1)
    path = folder / "small.zip"
    with zipfile.ZipFile(folder / "all.zip") as every, zipfile.ZipFile(path, "w") as some:
        for name in every.namelist():
            if Path(name).name.startswith("a_"):
                some.writestr(name, every.read(name))
    return path
