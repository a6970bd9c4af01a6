"""Run config of a training: what it names holds, production for the rest; bounds are checked before a run."""

from typing import Any

import dagster as dg
import pytest

from captcha_assets.defs.model.config import TRAINING_CONFIG
from captcha_assets.training.config import TrainingSettings
from captcha_assets_tests.defs.conftest import Home

PRODUCTION = TrainingSettings(epochs=77, sample_size=500, channels=(8, 16, 32, 64))


def trained_with(named: dict[str, Any]) -> TrainingSettings:
    """The settings of a training whose run config names these, all the way through Dagster."""
    found: list[TrainingSettings] = []

    @dg.asset(config_schema=TRAINING_CONFIG)
    def training(context: dg.AssetExecutionContext) -> None:
        found.append(PRODUCTION.replaced(**context.op_execution_context.op_config))

    run_config = {"ops": {"training": {"config": named}}} if named else {}
    dg.materialize([training], run_config=run_config)
    return found[0]


def test_a_run_that_names_nothing_trains_as_production_does() -> None:
    assert trained_with({}) == PRODUCTION


def test_what_a_run_names_holds_even_where_it_is_the_codes_own_default() -> None:
    default = TrainingSettings()
    assert trained_with({"epochs": default.epochs, "channels": list(default.channels)}) == TrainingSettings(
        sample_size=500
    )


def test_null_is_a_value_of_its_own() -> None:
    assert trained_with({"sample_size": None}).sample_size is None


def test_every_setting_can_be_named() -> None:
    whole = PRODUCTION.replaced(accelerator="cpu", pretrained=True).model_dump()
    assert trained_with({**whole, "channels": list(whole["channels"])}).model_dump() == whole


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ({"epochs": 0}, "epochs=0 cannot be used: Input should be greater than or equal to 1"),
        (
            {"learning_rate": 1e9},
            "learning_rate=1000000000.0 cannot be used: Input should be less than or equal to 100",
        ),
        ({"learning_rate": float("nan")}, "learning_rate=nan cannot be used"),
        ({"weight_decay": float("inf")}, "weight_decay=inf cannot be used"),
        ({"sample_size": -1}, "sample_size=-1 cannot be used: Input should be greater than or equal to 1"),
        ({"channels": [8, 8, 8, 0]}, "channels=0 cannot be used"),
        ({"accelerator": "tpu"}, "accelerator"),
        ({"epochs": None}, "epochs"),
        ({"epoch": 3}, '"epoch"'),
    ],
)
def test_a_value_that_cannot_be_used_is_rejected_before_there_is_a_run(
    home: Home, named: dict[str, Any], words: str
) -> None:
    job = home.definitions.resolve_implicit_global_asset_job_def()
    config = {"ops": {"resnet18": {"config": named}}}
    with pytest.raises(dg.DagsterInvalidConfigError) as caught:
        job.get_subset(asset_selection={dg.AssetKey("resnet18")}).execute_in_process(
            instance=home.instance, run_config=config
        )
    assert words in str(caught.value)
    assert home.instance.get_runs() == []


def test_the_launchpad_shows_the_bounds_and_no_default_that_is_none() -> None:
    for name, field in TRAINING_CONFIG.fields.items():
        assert not field.is_required
        assert not field.default_provided, name
        assert "Left out: the production value" in str(field.description)
    assert TRAINING_CONFIG.fields["epochs"].config_type.given_name == "int, 1 to 10000"
    assert "which is 10000 unless" in str(TRAINING_CONFIG.fields["sample_size"].description)
