"""What lies on disk, what is registered and what Dagster was told are one truth."""

import json
import uuid
from pathlib import Path

import dagster as dg

from captcha_assets.defs import runs, truth
from captcha_assets.defs.dagster_internals import NO_VALUE
from captcha_assets.defs.processes import STEP_TAG
from captcha_assets.settings import Settings
from captcha_assets_tests.defs.conftest import Home
from captcha_assets_tests.test_cli import run, succeeded


def planned(home: Home) -> dict[str, str]:
    """What `update` would materialize, each with its reasons; what depends on it is left out."""
    found = runs.plan(home.definitions, home.instance, runs.selected("*"))
    return {str(step): "; ".join(reasons) for step, reasons in found if not reasons[0].startswith("if the")}


def files(settings: Settings, model: str) -> dict[str, Path]:
    """A file of each asset that can be materialized again."""
    return {
        "raw_batch [first]": settings.raw / "first.zip",
        "image_table + rejected_images [first]": Path(settings.image_table("first")),
        "image_index": Path(settings.image_index),
        "splits": Path(settings.splits),
        "data_snapshot": settings.home / "data.dvc",
        "evaluation": Path(settings.evaluation(model)) / "metrics.json",
        "onnx_model": Path(settings.onnx_model(model)) / "model.onnx",
        "resnet18": Path(settings.models) / model / "model.safetensors",
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
    assert f"{model} is not whole: " in succeeded(finished.settings.home, "status")
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
        for step, reasons in runs.plan(finished.definitions, finished.instance, runs.selected("*"))
    }
    assert set(found) == {"resnet18", "evaluation", "onnx_model", "champion"}
    assert found["evaluation"] == found["onnx_model"] == ("if the content of resnet18 changes",)


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
    home, settings = finished.settings.home, finished.settings
    damaged = [
        settings.splits,
        settings.image_index,
        settings.image_table("first"),
        settings.verdict("image_table", "first") / "verdict.json",
        settings.models / "candidate.json",
        settings.training_splits(str(finished.version("resnet18"))),
    ]
    for path in damaged:
        kept = path.read_bytes()
        path.write_bytes(b"\xaagarbage")
        said = succeeded(home, "status")
        assert str(path) in said or str(path.parent) in said, path
        succeeded(home, "batch", "list")
        path.write_bytes(kept)
    run_id = json.loads(succeeded(home, "status", "--json"))["last_training"]["run_id"]
    assert run_id, "what comes back is no training"


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
        done = run(finished.settings.home, *arguments)
        assert "Traceback" not in done.stdout + done.stderr, arguments
        assert done.returncode in (0, 1), arguments


def test_a_champion_whose_export_is_lost_is_exported_again_by_a_command(finished: Home) -> None:
    home, model = finished.settings.home, str(finished.version("resnet18"))
    (home / "artifacts" / "onnx_model" / model / "model.onnx").unlink()
    assert run(home, "predict", str(home)).returncode == 1
    succeeded(home, "model", "export", "champion")
    assert f"serves   {model} since" in succeeded(home, "status")
    assert planned(finished) == {}


def reported(home: Home) -> set[str]:
    return {event.asset_key.to_user_string() for event in truth.report(home.settings, home.instance)}


def test_what_a_command_may_be_writing_at_this_moment_is_no_loss(finished: Home) -> None:
    tags = {STEP_TAG: "image_index"}
    writing = dg.DagsterRun("update", str(uuid.uuid4()), status=dg.DagsterRunStatus.STARTED, tags=tags)
    finished.instance.add_run(writing)
    for path in (finished.settings.image_index, finished.settings.splits):
        Path(path).unlink()
    assert reported(finished) == {"splits"}
    finished.instance.delete_run(writing.run_id)
    assert reported(finished) == {"image_index"}


def test_rolling_back_from_a_lost_model_needs_no_materialization(finished: Home) -> None:
    assert truth.losses(finished.instance) == []
    model = str(finished.version("champion"))
    (finished.settings.home / "artifacts" / "models" / model / "model.safetensors").unlink()
    assert "champion" in planned(finished)
    done = run(finished.settings.home, "model", "rollback", "--reason", "its file is lost")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
