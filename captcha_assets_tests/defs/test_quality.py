"""What the UI says of a batch's checks: drift that only warns, and the history over all batches."""

import re
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import cv2
import dagster as dg
import numpy as np
import pytest

from captcha_assets.dataset import CAPTCHA
from captcha_assets.images.table import build_image_table
from captcha_assets.models import registry
from captcha_assets.quality import drift, validation_result
from captcha_assets.settings import Settings
from captcha_assets.sources import synthetic_batches
from captcha_assets_tests.defs.conftest import Home, open_home
from captcha_assets_tests.models.conftest import make_model

Images = list[tuple[str, np.ndarray]]

#: What the tests of this module share is materialized once.
pytestmark = pytest.mark.xdist_group("drift")

#: What happened to each batch before it arrived. None of it is drift to `usual`.
DISTURBED: dict[str, Callable[[Images], Iterable[tuple[str, np.ndarray]]]] = {
    "usual": lambda images: images,
    "blurred": lambda images: ((label, cv2.GaussianBlur(image, (0, 0), 1.2)) for label, image in images),
    "bright": lambda images: ((label, np.minimum(image, 195) + 60) for label, image in images),
    "lopsided": lambda images: (one for one in images if one[0] not in "abc"),
}


def archive(path: Path, images: Iterable[tuple[str, np.ndarray]]) -> Path:
    with zipfile.ZipFile(path, "w") as target:
        for number, (label, image) in enumerate(images):
            target.writestr(
                f"{label}_{number}.png", cv2.imencode(".png", image.astype(np.uint8))[1].tobytes()
            )
    return path


def crown(settings: Settings, work: Path) -> str:
    """Promote a model that was never trained, and pretend it saw generated images."""
    make_model(work / "model")
    model_id = registry.add_candidate(settings.paths.models, work / "model")
    synthetic_batches.write_archive(work / "seen.zip", 1000, seed=1)
    build_image_table(work / "seen.zip", "seen", work / "seen.parquet", work / "rejected.parquet", CAPTCHA)
    drift.save(drift.summarize([work / "seen.parquet"], CAPTCHA), settings.paths.training_summary(model_id))
    registry.promote(settings.paths.models, model_id, "the first")
    return model_id


def deliver(home: Home, name: str, source: Path) -> None:
    home.settings.paths.raw.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, home.settings.paths.raw / f"{name}.zip")
    home.instance.add_dynamic_partitions("batch", [name])
    assert home.materialize("image_table", "rejected_images", partition=name) is None


def drift_of(home: Home, name: str) -> dg.AssetCheckEvaluation:
    """The drift check of a batch, as the UI shows it."""
    key = dg.AssetCheckKey(dg.AssetKey("image_table"), "drift")
    records = home.instance.event_log_storage.get_asset_check_execution_history(key, limit=100)
    for record in records:
        if record.partition == name and record.evaluation:
            return record.evaluation
    pytest.fail(f"{name} was not checked")


@pytest.fixture(scope="module")
def delivered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A home with a batch from before there was a champion, and each of the disturbed ones after that."""
    work = tmp_path_factory.mktemp("delivered")
    with pytest.MonkeyPatch.context() as monkeypatch:
        home = open_home(work / "home", monkeypatch)
        images = list(synthetic_batches.generate(500, seed=7))
        deliver(home, "early", archive(work / "early.zip", images[:100]))
        crown(home.settings, work)
        for name, disturb in DISTURBED.items():
            deliver(home, name, archive(work / f"{name}.zip", disturb(images)))
        with home.instance:
            yield home


def test_before_there_is_a_champion_the_check_says_so(delivered: Home) -> None:
    found = drift_of(delivered, "early")
    assert found.passed
    assert found.description == "not compared: there was no champion when it was checked"


def test_an_undisturbed_batch_passes(delivered: Home) -> None:
    found = drift_of(delivered, "usual")
    assert found.passed
    assert found.description == "no drift from the training images"


@pytest.mark.parametrize(
    ("name", "feature"),
    [("blurred", "sharpness"), ("bright", "brightness"), ("lopsided", "class frequencies")],
)
def test_a_disturbed_batch_warns_with_figures_and_a_plot(delivered: Home, name: str, feature: str) -> None:
    found = drift_of(delivered, name)
    assert not found.passed
    assert found.severity == dg.AssetCheckSeverity.WARN
    assert found.description is not None
    assert feature in found.description
    table = found.metadata["differences"]
    assert isinstance(table, dg.TableMetadataValue)
    (row,) = [record.data for record in table.records if record.data["feature"] == feature]
    assert row["drifted"] == "yes"
    assert row["difference"] > row["at most"]
    assert "of 6 rows unexpected" in str(found.metadata["observed"].value)
    assert feature in str(found.metadata["observed"].value)
    assert "data:image/png;base64," in str(found.metadata["distributions"].value)
    assert found.metadata["compared with"].value == registry.list_models(delivered.settings.paths.models)[0]
    assert str(found.metadata["report"].value).endswith(f"/quality/drift/{name}/report.html")
    assert (delivered.settings.paths.validation_results("drift", name) / "report.html").exists()


def test_figures_are_plotted_by_batch_and_never_as_one_line_through_all_batches(delivered: Home) -> None:
    records = delivered.instance.fetch_materializations(dg.AssetKey("image_table"), limit=100).records
    for event in filter(None, (record.asset_materialization for record in records)):
        if event.partition == "bright":
            assert isinstance(event.metadata["drift of brightness"].value, float)
    checks = delivered.definitions.resolve_asset_graph().get(dg.AssetKey("image_table")).check_keys
    for key in checks:
        for record in delivered.instance.event_log_storage.get_asset_check_execution_history(key, limit=100):
            assert record.evaluation
            assert record.partition in delivered.instance.get_dynamic_partitions("batch")
            numbers = (dg.IntMetadataValue, dg.FloatMetadataValue)
            plotted = [
                name for name, value in record.evaluation.metadata.items() if isinstance(value, numbers)
            ]
            assert plotted == [], (key, "the UI draws a number of a check over time")


def test_a_batch_without_usable_images_is_not_said_to_be_as_the_training_images(
    delivered: Home, tmp_path: Path
) -> None:
    with zipfile.ZipFile(tmp_path / "nothing.zip", "w") as archive:
        archive.writestr("a_1.png", b"no image")
    shutil.copy2(tmp_path / "nothing.zip", delivered.settings.paths.raw / "nothing.zip")
    delivered.instance.add_dynamic_partitions("batch", ["nothing"])
    assert "quarantined" in str(delivered.materialize("image_table", "rejected_images", partition="nothing"))
    assert drift_of(delivered, "nothing").description == "no usable images to compare"


def test_drift_never_stops_a_batch(delivered: Home) -> None:
    for name in DISTURBED:
        assert validation_result.has_passed(
            delivered.settings.paths.validation_results("image_table", name)
        ), name
    graph = delivered.definitions.resolve_asset_graph()
    assert not graph.get(dg.AssetCheckKey(dg.AssetKey("image_table"), "drift")).blocking


def test_a_summary_that_cannot_be_read_warns_and_the_batch_arrives(delivered: Home, tmp_path: Path) -> None:
    champion = registry.champion(delivered.settings.paths.models)
    assert champion is not None
    summary = delivered.settings.paths.training_summary(champion.model_id)
    kept = shutil.copy2(summary, tmp_path / "kept.npz")
    summary.write_bytes(b"damaged")
    deliver(delivered, "uncompared", delivered.settings.paths.raw / "early.zip")
    shutil.copy2(kept, summary)
    found = drift_of(delivered, "uncompared")
    assert not found.passed
    assert found.severity == dg.AssetCheckSeverity.WARN
    assert "update summarizes the training images again" in str(found.description)


def test_the_history_of_the_checks_shows_every_batch_and_is_linked(delivered: Home) -> None:
    event = delivered.instance.get_latest_materialization_event(dg.AssetKey("image_table"))
    assert event
    assert event.asset_materialization
    linked = str(event.asset_materialization.metadata["history of the checks"].value)
    assert linked.endswith("/quality/image_table/index.html")
    page = (delivered.settings.paths.validation_results("image_table") / "index.html").read_text()
    rows = [page.index(f'<a href="{name}/report.html">') for name in ("early", *DISTURBED)]
    assert rows == sorted(rows, reverse=True), "the latest first"
    assert re.search(r'href="../drift/bright/report.html" title="drift: \d of 6 rows .*brightness', page)
