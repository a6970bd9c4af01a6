"""The production settings: the code's defaults, a file over them, and the settings that won a sweep."""

from dataclasses import asdict

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from captcha_assets.images.table_parts import version_of
from captcha_assets.sweeps import best_trial, trial_records
from captcha_assets.sweeps.definition import SweepError
from captcha_assets.sweeps.production_settings import production_settings, production_version
from captcha_assets.sweeps.trial_records import PRUNED
from captcha_assets.training.config import SettingsError, TrainingSettings
from captcha_assets_tests.sweeps.records import GRID, record


@pytest.fixture
def tried(settings):
    """A home whose images were seen by three trials: the second is the best of the complete ones."""
    settings.paths.splits.parent.mkdir(parents=True)
    pq.write_table(pa.table({"image_id": ["a"], "batch": ["b"]}), settings.paths.splits)
    version = version_of(settings.paths.splits)
    for number, (accuracy, state) in enumerate([(0.8, "complete"), (0.9, "complete"), (0.99, PRUNED)]):
        made = record(GRID, number, GRID.combination(number), [accuracy], state)
        trial_records.save(settings.paths, type(made)(**{**asdict(made), "splits_version": version}))
    return settings.paths


def written(paths, text: str) -> None:
    paths.training_settings.parent.mkdir(parents=True, exist_ok=True)
    paths.training_settings.write_text(text)


def test_without_a_file_they_are_the_defaults(settings) -> None:
    assert production_settings(settings.paths) == TrainingSettings()


def test_a_broken_link_is_an_error_and_no_absence(settings) -> None:
    settings.paths.training_settings.parent.mkdir(parents=True, exist_ok=True)
    settings.paths.training_settings.symlink_to("nowhere.yaml")
    with pytest.raises(SettingsError, match=r"training\.yaml cannot be read: No such file"):
        production_settings(settings.paths)


def test_the_file_says_what_differs(settings) -> None:
    before = production_version(settings.paths)
    written(settings.paths, "epochs: 3\nchannels: [8, 16, 32, 64]\nsample_size: null\n")
    assert production_settings(settings.paths) == TrainingSettings(
        epochs=3, channels=(8, 16, 32, 64), sample_size=None
    )
    assert production_version(settings.paths) != before


def test_the_version_follows_the_values_not_the_words(settings) -> None:
    before = production_version(settings.paths)
    written(settings.paths, f"# nothing new\nepochs: {TrainingSettings().epochs}\n")
    assert production_version(settings.paths) == before


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epoch: 3", "unknown settings: epoch"),
        ("epochs: 0", "epochs=0 cannot be used"),
        ("- 1", "line 1: this is no mapping"),
        ("{", "YAML"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_the_reason(settings, text: str, words: str) -> None:
    written(settings.paths, text)
    with pytest.raises(SettingsError, match=words) as caught:
        production_settings(settings.paths)
    assert str(settings.paths.training_settings) in str(caught.value)


def test_the_best_complete_trial_becomes_production(tried) -> None:
    said = best_trial.apply(tried)
    assert GRID.trial_names[1] in said
    assert production_settings(tried) == GRID.settings_with(GRID.combination(1))
    assert GRID.trial_names[1] in tried.training_settings.read_text()


def test_what_the_sweep_only_fixed_can_be_left_as_it_is_in_production(tried) -> None:
    written(tried, "epochs: 77\n")
    best_trial.apply(tried, only_varied=True)
    now = production_settings(tried)
    assert now.epochs == 77
    assert now.batch_size == GRID.combination(1)["batch_size"]


def test_a_trial_can_be_named(tried) -> None:
    best_trial.apply(tried, GRID.trial_names[0])
    assert production_settings(tried) == GRID.settings_with(GRID.combination(0))
    with pytest.raises(SweepError, match="is no complete trial"):
        best_trial.apply(tried, GRID.trial_names[2])


def test_a_run_config_leaves_production_as_it_is(tried, tmp_path) -> None:
    best_trial.write_run_config(tried, tmp_path / "best.yaml")
    configured = yaml.safe_load((tmp_path / "best.yaml").read_text())["ops"]["resnet18"]["config"]
    assert TrainingSettings.of(configured) == GRID.settings_with(GRID.combination(1))
    assert production_settings(tried) == TrainingSettings()


def test_without_trials_it_says_how_to_get_some(settings) -> None:
    with pytest.raises(SweepError, match="captcha-assets sweep run"):
        best_trial.apply(settings.paths)
