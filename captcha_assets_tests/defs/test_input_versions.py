"""What Dagster's own comparison of inputs does not see, `update` sees."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from captcha_assets.cli.orchestration import staleness
from captcha_assets.defs.observed_sources import observe
from captcha_assets_tests.defs.conftest import Home, made_once, open_home

#: From a hundred upstream partitions on Dagster compares none of them.
MANY = [f"batch-{number:03}" for number in range(101)]

#: Assets over all batches, each after its input.
OVER_ALL = [("image_table", "image_index"), ("raw_batch", "data_snapshot")]
over_all = pytest.mark.parametrize(("upstream", "asset"), OVER_ALL)


def deliver(home: Home, asset: str, versions: dict[str, str]) -> None:
    """Report batches as materialized, without materializing them."""
    home.instance.add_dynamic_partitions("batch", list(versions))
    for name, version in versions.items():
        tags = {"dagster/data_version": version}
        home.instance.report_runless_asset_event(dg.AssetMaterialization(asset, partition=name, tags=tags))


def reasons(home: Home, asset: str) -> list[str]:
    """Why an asset over all batches is stale."""
    found = staleness.stale_steps(home.definitions, home.instance, (asset,))
    return [reason for reasons in found.values() for reason in reasons]


def _with_many_batches(folder: Path) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        opened = open_home(folder, monkeypatch)
        with opened.instance:
            opened.settings.paths.raw.mkdir(parents=True)
            for name in MANY:
                (opened.settings.paths.raw / f"{name}.zip").write_bytes(b"what DVC records")
            observe(opened.settings, opened.instance)
            for upstream, asset in OVER_ALL:
                deliver(opened, upstream, dict.fromkeys(MANY, "1"))
                assert opened.materialize(asset) is None
                assert reasons(opened, asset) == []


@pytest.fixture(scope="session")
def many_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a home whose assets over more than a hundred batches are up to date."""
    return made_once(tmp_path_factory, "many_batches", _with_many_batches)


@pytest.fixture
def many(many_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """A copy of that home, to change at will."""
    shutil.copytree(many_folder, tmp_path / "home", symlinks=True)
    opened = open_home(tmp_path / "home", monkeypatch)
    with opened.instance:
        yield opened


@over_all
def test_one_changed_batch_of_more_than_a_hundred_is_seen(many: Home, upstream: str, asset: str) -> None:
    deliver(many, upstream, {MANY[50]: "2"})
    assert reasons(many, asset) == [f"{upstream} [{MANY[50]}] changed"]


@over_all
def test_one_more_batch_than_a_hundred_is_seen(many: Home, upstream: str, asset: str) -> None:
    deliver(many, upstream, {"late": "1"})
    assert reasons(many, asset) == [f"{upstream} [late] changed"]


@over_all
def test_the_same_content_again_is_no_change(many: Home, upstream: str, asset: str) -> None:
    deliver(many, upstream, {MANY[50]: "2"})
    deliver(many, upstream, {MANY[50]: "1"})
    assert reasons(many, asset) == []


@over_all
def test_a_removed_batch_is_named(many: Home, upstream: str, asset: str) -> None:
    many.instance.delete_dynamic_partition("batch", MANY[7])
    assert reasons(many, asset) == [f"batch {MANY[7]} was removed"]


@over_all
def test_a_batch_that_is_not_made_yet_changes_nothing(many: Home, upstream: str, asset: str) -> None:
    many.instance.add_dynamic_partitions("batch", ["announced"])
    assert reasons(many, asset) == []


def test_a_change_is_named_once_where_dagster_sees_it_too(home: Home) -> None:
    deliver(home, "image_table", dict.fromkeys(MANY[:3], "1"))
    assert home.materialize("image_index") is None
    deliver(home, "image_table", {MANY[1]: "2"})
    assert reasons(home, "image_index") == [f"image_table [{MANY[1]}] changed"]
