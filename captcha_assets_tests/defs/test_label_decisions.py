"""Labels that contradict each other are shown with their sources, and what somebody decides is followed."""

import csv
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from captcha_assets.cli.orchestration import execution, staleness
from captcha_assets.cli.orchestration.instance import open_instance
from captcha_assets.defs.observed_sources import observed_sources
from captcha_assets.sources import synthetic_batches
from captcha_assets_tests.cli.test_update import requested
from captcha_assets_tests.defs.conftest import Home, made_once, open_home
from captcha_assets_tests.images.tables import content, rows_of

HEAD = "image_id,decision,label,reason"
#: So many images come a second time with another label.
CONFLICTS = 25
INDEX = "+key:image_index"
CHANGED = ["label_decisions changed"]


def contradict(good: Path, other: Path) -> None:
    """Write an archive that states other labels for images of `good`."""
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(other, "w") as target:
        for number, name in enumerate(sorted(source.namelist())[:CONFLICTS]):
            label = Path(name).name[0]
            target.writestr(f"{'a' if label != 'a' else 'e'}_{number}.png", source.read(name))


def _contradicted(folder: Path) -> None:
    folder.mkdir()
    synthetic_batches.write_archive(folder / "good.zip", 60, seed=1)
    contradict(folder / "good.zip", folder / "other.zip")
    with pytest.MonkeyPatch.context() as monkeypatch:
        opened = open_home(folder / "home", monkeypatch)
        with opened.instance:
            opened.add("first", str(folder / "good.zip"))
            opened.add("second", str(folder / "other.zip"))
            outcomes = opened.update(INDEX)
            assert not [outcome for outcome in outcomes if outcome.error], outcomes


@pytest.fixture(scope="session")
def contradicted_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a home whose two batches contradict each other about some images."""
    return made_once(tmp_path_factory, "contradicted", _contradicted) / "home"


@pytest.fixture
def contradicted(
    contradicted_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Home]:
    """A copy of that home, to change at will."""
    shutil.copytree(contradicted_folder, tmp_path / "home", symlinks=True)
    opened = open_home(tmp_path / "home", monkeypatch)
    with opened.instance:
        yield opened


def decide(home: Home, *lines: str) -> None:
    home.settings.paths.label_decisions.write_text("\n".join([HEAD, *lines]) + "\n")


def conflicts(home: Home) -> list[dict[str, str]]:
    """The file of all conflicts."""
    with home.settings.paths.label_conflicts.open(newline="") as file:
        return list(csv.DictReader(file))


def index_metadata(home: Home) -> dict[str, dg.MetadataValue]:
    event = home.instance.get_latest_materialization_event(dg.AssetKey("image_index"))
    assert event
    assert event.asset_materialization
    return dict(event.asset_materialization.metadata)


def next_command(home: Home) -> list[str]:
    """Why the index is stale."""
    with open_instance(home.settings) as instance:
        found = staleness.stale_steps(home.definitions, instance, ("image_index",))
    return [reason for reasons in found.values() for reason in reasons]


def next_update(home: Home) -> list[execution.Outcome]:
    """What the next `update` materializes, up to the index."""
    with open_instance(home.settings) as instance:
        return Home(home.settings, instance, home.definitions).update(INDEX)


def sensor_tick(home: Home) -> dg.SensorResult:
    """One tick, and what the daemon does with the answer: it logs the events."""
    with dg.build_sensor_context(instance=home.instance, resources={"settings": home.settings}) as context:
        answer = observed_sources(context)
    assert isinstance(answer, dg.SensorResult)
    for event in answer.asset_events:
        home.instance.report_runless_asset_event(event)
    return answer


def test_conflicts_are_shown_with_their_sources_and_images(contradicted: Home) -> None:
    metadata = index_metadata(contradicted)
    assert metadata["label conflicts"].value == CONFLICTS
    shown = str(metadata["conflicts"].value)
    assert f"20 of {CONFLICTS}" in shown
    assert shown.count("data:image/png;base64,") == 20
    assert "label_decisions.csv" in shown
    one = rows_of(contradicted.settings.paths.image_index).filter(status="label_conflict").row(0, named=True)
    for source in one["sources"]:
        assert source["batch"] in shown
    assert metadata["all conflicts"].value.endswith("/label_conflicts.csv")


def test_the_file_of_conflicts_lists_every_one_with_its_sources(contradicted: Home) -> None:
    rows = conflicts(contradicted)
    assert list(rows[0]) == HEAD.split(",")
    assert len(rows) == CONFLICTS
    assert all("first/" in row["reason"] and "second/" in row["reason"] for row in rows)


def test_decisions_in_a_copy_of_the_file_of_conflicts_are_followed(contradicted: Home) -> None:
    lines = contradicted.settings.paths.label_conflicts.read_text().splitlines()[1:]
    keep, relabel, drop, *rest = lines
    label = conflicts(contradicted)[0]["reason"].split(" says ")[1][0]
    decide(
        contradicted,
        keep.replace(",,,", f",keep,{label},", 1),
        relabel.replace(",,,", ",relabel,w,", 1),
        drop.replace(",,,", ",drop,,", 1),
        *rest,
    )
    outcomes = next_update(contradicted)
    assert [(str(one.step), one.reasons, one.error) for one in outcomes] == [
        ("image_index", ("label_decisions changed",), None)
    ]
    index = rows_of(contradicted.settings.paths.image_index)
    found = {
        name: (label, status) for name, label, status in index["image_id", "label", "status"].iter_rows()
    }
    ids = [line.split(",")[0] for line in lines]
    assert found[ids[0]] == (label, "usable")
    assert found[ids[1]] == ("w", "usable")
    assert ids[2] not in found
    assert [found[name] for name in ids[3:]] == [(None, "label_conflict")] * (CONFLICTS - 3)
    assert [row["image_id"] for row in conflicts(contradicted)] == ids[3:]


def test_a_file_of_decisions_that_comes_changes_or_goes_makes_the_index_stale(contradicted: Home) -> None:
    assert next_command(contradicted) == []
    decide(contradicted)
    assert next_command(contradicted) == CHANGED
    assert contradicted.materialize("image_index") is None
    assert next_command(contradicted) == []
    decide(contradicted, f"{'0' * 32},drop,,nobody has it")
    assert next_command(contradicted) == CHANGED
    contradicted.settings.paths.label_decisions.unlink()
    assert contradicted.materialize("image_index") is None
    assert next_command(contradicted) == CHANGED
    assert contradicted.materialize("image_index") is None
    assert next_command(contradicted) == []


def test_a_file_that_cannot_be_followed_fails_the_index_and_leaves_it(contradicted: Home) -> None:
    before = content(contradicted.settings.paths.image_index)
    decide(contradicted, "this,is,no,decision")
    (outcome,) = next_update(contradicted)
    assert outcome.error is not None
    assert "label_decisions.csv, line 2" in outcome.error
    assert content(contradicted.settings.paths.image_index) == before


def test_the_sensor_notes_a_change_once_and_starts_no_run(contradicted: Home) -> None:
    assert not sensor_tick(contradicted).asset_events
    before = contradicted.instance.get_runs_count()
    decide(contradicted)
    first, second = sensor_tick(contradicted), sensor_tick(contradicted)
    assert [event.asset_key.to_user_string() for event in first.asset_events] == ["label_decisions"]
    assert not second.asset_events
    assert not first.run_requests
    assert contradicted.instance.get_runs_count() == before
    assert "image_index" in contradicted.stale()


@pytest.mark.slow
def test_the_automation_asks_for_the_index_when_the_decisions_change(contradicted: Home) -> None:
    _asked, cursor = requested(contradicted)
    asked, cursor = requested(contradicted, cursor)
    assert ("image_index", None) not in asked
    decide(contradicted)
    sensor_tick(contradicted)
    asked, cursor = requested(contradicted, cursor)
    assert ("image_index", None) in asked
    asked, cursor = requested(contradicted, cursor)
    assert ("image_index", None) not in asked
