"""Run config of a training: what it names holds, and production for the rest."""

from typing import Any

import dagster as dg
import pytest

from captcha_assets.defs.model.config import TrainingConfig
from captcha_assets.training.config import SettingsError, TrainingSettings

PRODUCTION = TrainingSettings(epochs=77, sample_size=500, channels=(8, 16, 32, 64))


def told(named: dict[str, Any]) -> TrainingSettings:
    """What a training is told whose run config names these settings, all the way through Dagster."""
    found: list[TrainingSettings] = []

    @dg.asset
    def training(config: TrainingConfig) -> None:
        found.append(config.to_settings(PRODUCTION))

    run_config = {"ops": {"training": {"config": named}}} if named else {}
    dg.materialize([training], run_config=run_config)
    return found[0]


def test_a_run_that_names_nothing_trains_as_production_does() -> None:
    assert told({}) == PRODUCTION


def test_what_a_run_names_holds_even_where_it_is_the_codes_own_default() -> None:
    default = TrainingSettings()
    assert told({"epochs": default.epochs, "channels": list(default.channels)}) == TrainingSettings(
        sample_size=500
    )


def test_null_is_a_value_of_its_own() -> None:
    assert told({"sample_size": None}).sample_size is None


def test_a_value_that_cannot_be_used_fails_the_run() -> None:
    with pytest.raises(SettingsError, match="epochs=0 is out of bounds"):
        told({"epochs": 0})
