"""What the pages show as files is what the code reads."""

from pathlib import Path

import yaml

from captcha_assets.dataset import CAPTCHA
from captcha_assets.defs.dagster_internals import open_instance_at
from captcha_assets.images.label_decisions import read_decisions
from captcha_assets.paths import REPOSITORY, Paths
from captcha_assets.sweeps.production_settings import production_settings
from captcha_assets_tests.documentation.pages import blocks


def shown(page: str, language: str, number: int = 0) -> str:
    return list(blocks(REPOSITORY / "docs" / page, language))[number]


def test_the_production_settings_are_accepted(tmp_path: Path) -> None:
    text = shown("training.md", "yaml")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "training.yaml").write_text(text)
    named = yaml.safe_load(text)
    assert production_settings(Paths(home=tmp_path)).model_dump(include=set(named)) == named


def test_the_label_decisions_are_accepted(tmp_path: Path) -> None:
    (tmp_path / "label_decisions.csv").write_text(shown("quality.md", "csv"))
    found = read_decisions(tmp_path / "label_decisions.csv", CAPTCHA)
    assert found["decision"].to_list() == ["keep", "relabel", "drop"]


def test_dagster_takes_the_settings_of_an_instance(tmp_path: Path) -> None:
    (tmp_path / "dagster.yaml").write_text(shown("component.md", "yaml", 1))
    with open_instance_at(tmp_path) as instance:
        assert instance.run_retries_enabled
        assert instance.get_concurrency_config().pool_config.default_pool_limit == 1
