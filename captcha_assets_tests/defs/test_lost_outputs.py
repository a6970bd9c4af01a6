"""Files, registrations and Dagster's record agree."""

import json
import shutil
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from captcha_assets.atomic_files import remove
from captcha_assets.cli.orchestration import sensor_switches, staleness
from captcha_assets.defs import lost_outputs
from captcha_assets.defs.dagster_internals import NO_VALUE
from captcha_assets.defs.observed_sources import observed_sources
from captcha_assets.images import index
from captcha_assets.settings import Settings
from captcha_assets_tests.commands import run, succeeded
from captcha_assets_tests.defs.conftest import Home
from captcha_assets_tests.defs.test_promotion import checks
from captcha_assets_tests.images.tables import rows_of

#: Whole pipelines, and processes of their own: CI runs them, `make test-all` here.
pytestmark = pytest.mark.slow

TABLES = "key:image_table or key:rejected_images or key:image_index"


def planned(home: Home) -> dict[str, str]:
    """What `update` would materialize, each with its reasons; what depends on it is left out."""
    found = staleness.plan(home.definitions, home.instance, staleness.selected("*"))
    return {str(step): "; ".join(reasons) for step, reasons in found if not reasons[0].startswith("if the")}


def files(settings: Settings, model: str) -> dict[str, Path]:
    """A file of each asset that can be materialized again."""
    return {
        "raw_batch [first]": settings.paths.raw / "first.zip",
        "image_table + rejected_images [first]": Path(settings.paths.image_table("first")),
        "image_index": Path(settings.paths.image_index) / "manifest.json",
        "splits": Path(settings.paths.splits) / "manifest.json",
        "data_snapshot": settings.paths.home / "data.dvc",
        "evaluation": Path(settings.paths.evaluation(model)) / "metrics.json",
        "onnx_model": Path(settings.paths.onnx_model(model)) / "model.onnx",
        "resnet18": Path(settings.paths.models) / model / "model.safetensors",
    }


def test_what_is_lost_is_missing_and_materialized_again_with_the_same_content(finished: Home) -> None:
    assert planned(finished) == {}
    before = {name: finished.version(name) for name in ("image_index", "splits", "evaluation", "onnx_model")}
    model = str(finished.version("resnet18"))
    lost = files(finished.settings, model)
    for path in lost.values():
        path.unlink()
    found = planned(finished)
    for step, path in lost.items():
        assert str(path.parent if path.parent.name == model else path) in found[step], step
    assert finished.version("splits") == NO_VALUE
    assert f"{model}, whose files are " in succeeded(finished.settings.paths.home, "status")
    outcomes = finished.update()
    assert [outcome.error for outcome in outcomes] == [None] * len(outcomes)
    assert {name: finished.version(name) for name in before} == before
    assert finished.version("resnet18") == model
    assert all(path.exists() for path in lost.values())
    assert planned(finished) == {}


def test_what_hangs_on_a_loss_is_materialized_again_only_if_the_content_changes(finished: Home) -> None:
    files(finished.settings, str(finished.version("resnet18")))["resnet18"].unlink()
    found = {
        str(step): reasons
        for step, reasons in staleness.plan(finished.definitions, finished.instance, staleness.selected("*"))
    }
    assert set(found) == {"resnet18", "evaluation", "onnx_model", "champion"}
    assert (
        found["evaluation"] == found["onnx_model"] == ("only if materializing resnet18 gives other content",)
    )


def test_what_comes_back_is_up_to_date_and_nothing_runs(finished: Home) -> None:
    lost = files(finished.settings, str(finished.version("resnet18")))
    kept = {path: path.read_bytes() for path in lost.values()}
    for path in lost.values():
        path.unlink()
    assert set(planned(finished)) >= set(lost)
    for path, content in kept.items():
        path.write_bytes(content)
    assert planned(finished) == {}
    assert finished.update() == []


def test_a_damaged_file_of_any_kind_leaves_status_and_batch_list_working(finished: Home) -> None:
    home, settings = finished.settings.paths.home, finished.settings
    model = str(finished.version("resnet18"))
    damaged = [
        settings.paths.splits / "manifest.json",
        settings.paths.image_index / "manifest.json",
        settings.paths.image_table("first"),
        settings.paths.validation_results("image_table", "first") / "validation_result.json",
        settings.paths.models / "candidate.json",
        settings.paths.training_splits(model),
        settings.paths.training_summary(model),
        settings.paths.label_conflicts,
        settings.paths.validation_results("splits") / "report.html",
        settings.paths.validation_results("image_table", "first") / "manifest.json",
        settings.paths.home / "data.dvc",
        settings.paths.registration("first"),
    ]
    for path in damaged:
        kept = path.read_bytes()
        path.write_bytes(b"\xaagarbage")
        said = succeeded(home, "status")
        assert str(path) in said, path
        succeeded(home, "batch", "list")
        path.write_bytes(kept)
    run_id = json.loads(succeeded(home, "status", "--json"))["last_training"]["run_id"]
    assert run_id, "what comes back is no training"


def test_what_is_written_beside_an_output_is_missed_and_written_again_without_a_training(
    finished: Home,
) -> None:
    paths, model = finished.settings.paths, str(finished.version("resnet18"))
    beside = {
        "image_index": [
            Path(paths.label_conflicts),
            Path(paths.validation_results("image_index"), "report.html"),
        ],
        "resnet18": [Path(paths.training_summary(model))],
        "evaluation": [Path(paths.evaluation(model)) / name for name in ("report.html", "metrics.json")],
    }
    kept = {path: path.read_bytes() for files in beside.values() for path in files}
    for number, (path, content) in enumerate(kept.items()):
        half = len(content) // 2
        path.unlink() if number % 2 else path.write_bytes(content[:half] + b"?" + content[half + 1 :])
    found = planned(finished)
    assert all(str(path) in found[step] for step, files in beside.items() for path in files), found
    assert f"{paths.training_summary(model)}" in found["champion"]
    outcomes = finished.update()
    assert [outcome.error for outcome in outcomes] == [None] * len(outcomes)
    (trained,) = [outcome for outcome in outcomes if "resnet18" in outcome.step.assets]
    said = [entry.user_message for entry in finished.instance.all_logs(str(trained.run_id))]
    assert f"{model} is the model of this very training" in said
    assert [path.read_bytes() == content for path, content in kept.items()] == [True] * len(kept)
    assert planned(finished) == {}


def test_garbage_in_any_file_is_named_with_its_path_and_never_a_traceback(finished: Home) -> None:
    lost = files(finished.settings, str(finished.version("resnet18")))
    for path in lost.values():
        path.write_bytes(b"garbage")
    found = planned(finished)
    assert set(found) >= set(lost)
    assert all("damaged: " in words or "not what is registered" in words for words in map(found.get, lost))
    for arguments in (
        ["status"],
        ["batch", "list"],
        ["model", "list"],
        ["update", "--dry-run"],
        ["lineage", "champion"],
    ):
        done = run(finished.settings.paths.home, *arguments)
        assert "Traceback" not in done.stdout + done.stderr, arguments
        assert done.returncode in (0, 1), arguments


def test_an_edited_validation_result_opens_no_quarantine_and_the_table_is_validated_again(
    home: Home, mostly_bad_archive: Path
) -> None:
    folder = home.settings.paths.home
    home.add("good", "synthetic:60:1")
    home.add("bad", str(mostly_bad_archive))
    home.update("*image_index")
    assert "batch bad is quarantined" in succeeded(folder, "status")
    for batch, before, after in (("bad", "false", "true"), ("good", "true", "false")):
        path = home.settings.paths.validation_results("image_table", batch) / "validation_result.json"
        path.write_text(path.read_text().replace(f'"success": {before}', f'"success": {after}'))
        assert f"{path} (changed after it was stored" in succeeded(folder, "status")
    made = {str(one.step): one.error for one in home.update("*image_index")}
    assert made["image_table + rejected_images [good]"] is None
    assert "quarantined" in str(made["image_table + rejected_images [bad]"])
    said = succeeded(folder, "status")
    assert "batch bad is quarantined" in said
    assert "batch good is quarantined" not in said
    batches = rows_of(home.settings.paths.image_index)["batch"].unique().to_list()
    assert batches == ["good"]


@pytest.mark.parametrize("table", ["image_index", "drift"])
def test_an_edited_result_of_any_table_is_named_by_status_and_made_again(finished: Home, table: str) -> None:
    paths = finished.settings.paths
    if table == "drift":
        assert finished.materialize("image_table", "rejected_images", partition="first") is None
    batch = "first" if table == "drift" else None
    path = paths.validation_results(table, batch) / "validation_result.json"
    kept = path.read_bytes()
    path.write_bytes(kept.replace(b'"success": true', b'"success": false'))
    assert f"{path} (changed after it was stored" in succeeded(paths.home, "status")
    assert [one.error for one in finished.update(TABLES)] == [None]
    assert path.read_bytes() == kept
    assert planned(finished) == {}


def test_a_champion_whose_export_is_lost_is_exported_again_by_a_command(finished: Home) -> None:
    home, model = finished.settings.paths.home, str(finished.version("resnet18"))
    exported = home / "artifacts" / "onnx_model" / model / "model.onnx"
    exported.unlink()
    (line,) = [line for line in succeeded(home, "status").splitlines() if line.startswith("serves")]
    assert line == (
        f"serves   {model}, whose files are damaged: {exported} is missing; "
        "export it again (captcha-assets model export champion)"
    )
    done = run(home, "predict", str(home))
    assert done.returncode == 1
    assert f"{exported} is missing: export the model again" in done.stderr
    succeeded(home, "model", "export", "champion")
    assert f"serves   {model} since" in succeeded(home, "status")
    assert planned(finished) == {}


def reported(home: Home) -> set[str]:
    return {
        event.asset_key.to_user_string() for event in lost_outputs.report(home.settings.paths, home.instance)
    }


def test_what_a_step_is_writing_at_this_moment_is_no_loss(
    finished: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[set[str]] = []
    build = index.build_image_index

    def looked_at_meanwhile(*arguments: Any) -> index.IndexSummary:
        for path in (finished.settings.paths.image_index, finished.settings.paths.splits):
            remove(path)
        seen.append(reported(finished))
        return build(*arguments)

    with monkeypatch.context() as slow:
        slow.setattr(index, "build_image_index", looked_at_meanwhile)
        assert finished.materialize("image_index") is None
    assert seen == [{"splits"}]
    assert reported(finished) == set()


def test_rolling_back_from_a_lost_model_needs_no_materialization(finished: Home) -> None:
    assert lost_outputs.losses(finished.instance) == []
    model = str(finished.version("champion"))
    (finished.settings.paths.home / "artifacts" / "models" / model / "model.safetensors").unlink()
    said = succeeded(finished.settings.paths.home, "status")
    assert "model.safetensors is missing; restore its folder from a backup" in said
    assert "model export" not in said
    assert "champion" in planned(finished)
    done = run(finished.settings.paths.home, "model", "rollback", "--reason", "its file is lost")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def restored(home: Home) -> list[dg.RunRequest]:
    with dg.build_sensor_context(home.instance, resources={"settings": home.settings}) as context:
        answer = observed_sources(context)
    assert isinstance(answer, dg.SensorResult)
    return list(answer.run_requests or ())


def test_automation_makes_what_is_lost_together_with_what_its_function_makes_beside_it(
    finished: Home,
) -> None:
    sensor_switches.switch(finished.instance, on=True)
    Path(finished.settings.paths.image_table("first")).unlink()
    (request,) = restored(finished)
    assert request.partition_key == "first"
    keys = {key.to_user_string() for key in request.asset_selection or ()}
    assert keys == {"image_table", "rejected_images"}
    job = finished.definitions.resolve_implicit_global_asset_job_def()
    job.get_subset(asset_selection=set(request.asset_selection or ()))  # an error where Dagster cannot run it


def test_a_lost_export_of_the_champion_is_one_alert_and_no_run_of_the_champion(finished: Home) -> None:
    sensor_switches.switch(finished.instance, on=True)
    model = str(finished.version("champion"))
    shutil.rmtree(str(finished.settings.paths.onnx_model(model)))
    asked = [key.to_user_string() for request in restored(finished) for key in request.asset_selection or ()]
    assert asked == ["onnx_model"], "the champion is the candidate"
    assert restored(finished)[0].run_key is not None
    alerts = [json.loads(line) for line in finished.settings.paths.alerts.read_text().splitlines()]
    assert [alert["title"] for alert in alerts].count("files of the champion are missing or damaged") == 1


def test_a_champion_whose_files_come_back_shows_its_checks_again(finished: Home, tmp_path: Path) -> None:
    model = str(finished.version("champion"))
    summary = Path(finished.settings.paths.training_summary(model))
    kept = shutil.copyfile(summary, tmp_path / "kept")
    before = checks(finished)
    summary.unlink()
    lost_outputs.report(finished.settings.paths, finished.instance)
    shutil.copyfile(kept, summary)
    lost_outputs.report(finished.settings.paths, finished.instance)

    (latest,) = finished.instance.fetch_materializations(dg.AssetKey("champion"), limit=1).records
    after = checks(finished)
    assert {name: one.description for name, one in after.items()} == {
        name: one.description for name, one in before.items()
    }
    keys = [dg.AssetCheckKey(dg.AssetKey("champion"), name) for name in after]
    records = finished.instance.event_log_storage.get_latest_asset_check_execution_by_key(keys).values()
    times = [record.event.timestamp for record in records if record.event]
    assert len(times) == len(after)
    assert min(times) >= latest.timestamp, "the UI shows no earlier ones"
    assert lost_outputs.losses(finished.instance) == []
