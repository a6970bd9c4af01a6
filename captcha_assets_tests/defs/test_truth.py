"""What lies on disk, what is registered and what Dagster was told are one truth."""

from pathlib import Path

from captcha_assets.defs import runs, truth
from captcha_assets.settings import Settings
from captcha_assets_tests.defs.conftest import Home


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
    assert finished.version("splits") == truth.NO_VALUE
    outcomes = finished.update()
    assert [outcome.error for outcome in outcomes] == [None] * len(outcomes)
    assert {name: finished.version(name) for name in before} == before
    assert finished.version("resnet18") == model
    assert all(path.exists() for path in lost.values())
    assert planned(finished) == {}
