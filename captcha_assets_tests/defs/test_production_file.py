"""A typing error in `configs/training.yaml`: named with its line by everything that reads the file."""

import json

import dagster as dg
import pytest
from click.testing import CliRunner

from captcha_assets.cli import main
from captcha_assets.defs.observed_sources import observed_sources
from captcha_assets_tests.defs.conftest import Home
from captcha_assets_tests.defs.test_retraining import Ticks

#: Whole pipelines, and processes of their own: CI runs them, `make test-all` here.
pytestmark = pytest.mark.slow

WORDS = "line 2: unknown settings: epoch; is epochs meant?"


@pytest.fixture
def mistyped(finished: Home) -> Home:
    """A finished home with a typing error in its production settings."""
    finished.settings.paths.training_settings.write_text("# ours\nepoch: 3\n")
    return finished


def run(home: Home, *arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, list(arguments))
    return done.exit_code, done.output.strip()


def test_update_says_it_in_one_line_and_runs_nothing(mistyped: Home) -> None:
    before = len(mistyped.instance.get_runs())
    status, said = run(mistyped, "update")
    assert status == 1
    assert said.startswith(f"Error: {mistyped.settings.paths.training_settings}, {WORDS}")
    assert "\n" not in said
    assert len(mistyped.instance.get_runs()) == before


def test_an_update_without_a_training_goes_on_all_the_same(mistyped: Home) -> None:
    assert run(mistyped, "update", "--select", "+key:splits") == (0, "everything is up to date")


def test_status_says_it_and_shows_the_rest(mistyped: Home) -> None:
    status, said = run(mistyped, "status")
    assert status == 0
    assert f"next     no training: {mistyped.settings.paths.training_settings}, {WORDS}" in said
    assert f"serves   {mistyped.version('resnet18')} since" in said


def test_the_sensor_of_trainings_skips_with_it(mistyped: Home) -> None:
    ticks = Ticks(mistyped)
    assert ticks.tick() == []
    assert ticks.said == "no training: " + ticks.said.removeprefix("no training: ")
    assert WORDS in ticks.said


def test_the_sensor_of_files_skips_with_it_and_alerts_once_for_each_error(home: Home) -> None:
    file, cursor = home.settings.paths.training_settings, None
    file.parent.mkdir()
    file.write_text("# ours\nepoch: 3\n")

    def tick() -> str:
        nonlocal cursor
        resources = {"settings": home.settings}
        with dg.build_sensor_context(home.instance, cursor, resources=resources) as context:
            answer = observed_sources(context)
        cursor = answer.cursor
        for event in answer.asset_events:  # as the daemon does
            home.instance.report_runless_asset_event(event)
        return answer.skip_reason.skip_message if answer.skip_reason else "observed"

    def alerts() -> list[list[str]]:
        log = home.settings.paths.alerts
        lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        return [one["lines"] for one in lines if "file of the home" in one["title"]]

    assert WORDS in tick()
    assert WORDS in tick()
    assert len(alerts()) == 1
    assert WORDS in alerts()[0][0]
    file.write_text("epochs: 2\n")
    assert tick() == "observed"
    assert tick() == "the sources are as they were observed last"
    file.write_text("epochs: 0\n")
    assert "line 1: epochs=0 cannot be used" in tick()
    assert len(alerts()) == 2
