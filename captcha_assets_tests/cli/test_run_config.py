"""`update --config FILE`: it trains what it asks for, and says what of it is not used."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from captcha_assets.cli import main
from captcha_assets_tests.cli.test_status import agree, status
from captcha_assets_tests.defs.conftest import NARROW, Home, open_home
from captcha_assets_tests.defs.test_retraining import Ticks


def written(home: Home, content: Any) -> str:
    file = home.settings.paths.home / "run.yaml"
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return str(file)


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """An empty home, which stays empty: no test of run config that cannot be used makes anything."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        opened = open_home(tmp_path_factory.mktemp("empty") / "home", monkeypatch)
        with opened.instance:
            yield opened


def update(*arguments: str) -> str:
    done = CliRunner().invoke(main, ["update", *arguments])
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.slow
def test_another_run_config_trains_and_the_model_is_stale_for_production_until_that_trains(
    finished: Home,
) -> None:
    file = written(finished, {"ops": {"resnet18": {"config": {"epochs": 1}}}})
    why = "not trained with this run config: epochs: trained with 3, this run 1"
    assert f"would materialize resnet18: {why}" in update("--dry-run", "--config", file)
    said = update("--select", "key:resnet18", "--config", file)
    assert f"materializing resnet18: {why}" in said

    assert (
        agree()[0]
        == "resnet18: not trained with the production settings: epochs: trained with 1, production 3"
    )
    assert Ticks(finished).triggers() == ["configuration"]
    said = status()["next_training"]
    assert said.endswith("not trained with the production settings (a training starts)"), (
        "what differs is above"
    )
    again = update("--select", "key:resnet18", "--config", file)
    assert "the run config of resnet18 was not used: resnet18 is up to date" in again
    assert "everything is up to date" in again

    back = update("--select", "key:resnet18")
    why = "not trained with the production settings: epochs: trained with 1, production 3"
    assert f"materializing resnet18: {why}" in back
    assert not [step for step in finished.stale() if step == "resnet18"]
    assert Ticks(finished).triggers() == []


def test_run_config_that_says_what_production_says_trains_nothing(finished: Home) -> None:
    file = written(finished, {"ops": {"resnet18": {"config": NARROW}}})
    assert "everything is up to date" in update("--config", file)
    assert "would not be used" in update("--dry-run", "--config", file)


@pytest.mark.parametrize(
    ("content", "select", "words"),
    [
        ("ops:\n  resnet18:\n    config:\n      epoch: 3\n", "*", "line 4: unknown settings: epoch"),
        ("ops:\n  resnet18:\n    config:\n      epochs: 0\n", "*", "line 4: epochs=0 cannot be used"),
        (
            "ops:\n  resnet18:\n    config:\n      epochs: many\n",
            "*",
            "line 4: epochs='many' cannot be used",
        ),
        ("ops:\n  resnet18:\n    config:\n      learning_rate: .nan\n", "*", "line 4: learning_rate=nan"),
        ("ops:\n  resnet18:\n    config: 3\n", "*", "line 3: lines like `epochs: 12` are needed"),
        ("ops:\n  resnet18:\n    cofig: {}\n", "*", '"cofig"'),
        ("ops:\n  resnet: {}\n", "*", "line 2: there is no asset resnet"),
        (
            "ops:\n  image_index:\n    config: {a: 1}\n",
            "*",
            "line 2: image_index takes no run config, splits and resnet18 alone",
        ),
        ("ops:\n  splits:\n    config: {acept_loss: true}\n", "*", "line 3"),
        ("ops:\n", "*", "line 1: ops names no asset"),
        ("ops: {}\n", "*", "line 1: ops names no asset"),
        ("execution: 3\n", "*", "execution"),
        ("ops:\n  resnet18: {}\n", "key:splits", "line 2: resnet18 is not among the selected assets"),
        ("epochs: 3\n", "*", "line 1: epochs is no key of run config"),
        ("", "*", "is empty: run config looks like `ops: "),
        ("- 1\n", "*", "lines like `key: value` are needed"),
        ("ops: [\n", "*", "line 2: this is no YAML"),
        ("ops:\n  resnet18: {}\n  resnet18: {}\n", "*", "line 3: resnet18 is named twice, first in line 2"),
    ],
)
def test_run_config_that_cannot_be_used_is_one_line_with_file_line_and_key(
    empty: Home, content: str, select: str, words: str
) -> None:
    file = written(empty, content)
    done = CliRunner().invoke(main, ["update", "--config", file, "--select", select])
    assert done.exit_code == 1
    (line,) = done.output.strip().splitlines()
    assert line.startswith(f"Error: {file}")
    assert words in line
    assert empty.instance.get_runs() == []


def test_run_config_that_is_not_utf8_is_named(empty: Home, tmp_path: Path) -> None:
    file = tmp_path / "latin.yaml"
    file.write_bytes("ops: {}  # für uns\n".encode("latin-1"))
    done = CliRunner().invoke(main, ["update", "--config", str(file)])
    assert done.output.strip() == f"Error: {file} is not UTF-8 (byte 12): save it as UTF-8"
