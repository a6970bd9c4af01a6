"""The file of a sweep: what it says, and what is rejected."""

import re
from pathlib import Path

import pytest

from captcha_assets.sweeps import definition
from captcha_assets.sweeps.definition import SweepError
from captcha_assets_tests.conftest import REPOSITORY
from captcha_assets_tests.sweeps.records import GRID, SEARCH


def written(folder: Path, text: str) -> Path:
    path = folder / "my-sweep.yaml"
    path.write_text(text)
    return path


def test_a_grid_is_every_combination_once() -> None:
    combinations = [GRID.combination(number) for number in range(len(GRID))]
    assert len(GRID.trial_names) == len(combinations) == 4
    assert {(one["learning_rate"], one["batch_size"]) for one in combinations} == {
        (0.1, 32),
        (0.1, 64),
        (0.2, 32),
        (0.2, 64),
    }


def test_the_same_file_names_the_same_trials_and_more_trials_only_add_some(tmp_path: Path) -> None:
    text = "search: {learning_rate: {low: 0.01, high: 1}}\ntrials: "
    few = definition.load(written(tmp_path, text + "3")).trial_names
    assert definition.load(written(tmp_path, text + "3")).trial_names == few
    assert definition.load(written(tmp_path, text + "5")).trial_names[:3] == few
    assert few[0].startswith("my_sweep-")


def test_another_content_is_another_sweep(tmp_path: Path) -> None:
    first = definition.load(written(tmp_path, "grid: {epochs: [1, 2]}"))
    assert definition.load(written(tmp_path, "grid: {epochs: [1, 3]}")).identity != first.identity


def test_a_trial_is_made_from_its_name_alone(settings) -> None:
    definition.register(settings.paths, SEARCH)
    name = SEARCH.trial_names[7]
    assert definition.registered(settings.paths, definition.sweep_of(name)) == SEARCH
    assert definition.number_of(name) == 7


def test_numbers_in_scientific_notation_are_numbers(tmp_path: Path) -> None:
    # YAML takes 1e-5 for a word.
    text = "search: {weight_decay: {low: 1e-5, high: 1e-2, log: true}}\ntrials: 2"
    chosen = definition.load(written(tmp_path, text))
    assert chosen.search["weight_decay"].low == 1e-5


def test_the_sweep_that_comes_with_the_repository_can_be_used() -> None:
    assert len(definition.load(REPOSITORY / "configs" / "sweep.yaml")) > 10


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "line 1: this is no mapping"),
        ("", "is no sweep"),
        ("grid: {epochs: [1]}\nsearch: {shift: [1]}\ntrials: 2", "exactly one of `grid` and `search`"),
        ("fixed: {epochs: 1}", "exactly one of `grid` and `search`"),
        ("search: {shift: [1, 2]}", "a search needs `trials`"),
        ("grid: {epoch: [1, 2]}", "unknown settings: epoch"),
        ("grid: {epochs: [1, 0]}", "epochs=0 cannot be used"),
        ("grid: {epochs: []}", "epochs has no values"),
        ("search: {label_smoothing: {low: 0, high: 2}}\ntrials: 2", "label_smoothing=2.0 cannot be used"),
        ("search: {channels: {low: 8, high: 64}}\ntrials: 2", "channels has no range"),
        ("search: {shift: {low: 2, high: 1}}\ntrials: 2", "low=2 must be below high=1"),
        ("search: {shift: {low: 0, high: 1, log: true}}\ntrials: 2", "log needs low above 0"),
        ("fixed: {epochs: 2}\ngrid: {epochs: [1]}", "both fixed and varied"),
        ("grid: {epochs: [1]}\nprune: true", "unknown settings: prune; is pruning meant?"),
        ("grid: {epochs: [1]", "line 1: this is no YAML"),
        ("grid: {epochs: [1, 1]}", "epochs names a value twice"),
        ("search: {shift: {low: 0, high: 1, step: 0}}\ntrials: 2", "greater than 0"),
        (
            "search: {epochs: {low: 1, high: 9, step: 0.5}}\ntrials: 2",
            "epochs is a whole number, so its step must be one too: step=0.5",
        ),
        ("search: {epochs: {low: 1, high: 9, step: 1.5}}\ntrials: 2", "step=1.5"),
        ("search: {epochs: {low: 1, high: 9, step: .inf}}\ntrials: 2", "step=inf"),
        ("grid: &a {epochs: *a}", "nested too deeply, or holds itself"),
        ("grid: " + 50_000 * "[", "nested too deeply, or holds itself"),
    ],
)
def test_what_cannot_be_done_is_rejected_with_the_reason(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(SweepError, match=re.escape(words)) as caught:
        definition.load(written(tmp_path, text))
    assert "my-sweep.yaml" in str(caught.value)
