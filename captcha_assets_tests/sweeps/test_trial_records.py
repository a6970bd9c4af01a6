"""What trials try, when they are stopped, and how they are ranked."""

import json
from dataclasses import replace

import numpy as np
import optuna
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import TrialState

from captcha_assets.paths import Paths
from captcha_assets.settings import Settings
from captcha_assets.sweeps import definition, leaderboard, plots, trial_records, trial_training
from captcha_assets.sweeps.definition import SweepError
from captcha_assets.sweeps.trial_parameters import trial_parameters
from captcha_assets.sweeps.trial_records import COMPLETE, FAILED, PRUNED
from captcha_assets_tests.sweeps.records import GRID, SEARCH, record

TRIED = {"learning_rate": 0.1, "batch_size": 32, "rotation": 5.0, "channels": [8, 16, 32, 64]}


def test_a_suggestion_lies_in_the_space_and_follows_from_the_records() -> None:
    tried = [record(SEARCH, 0, TRIED, [0.5, 0.6, 0.7, 0.8])]
    first = trial_parameters(SEARCH, SEARCH.trial_names[1], tried, None)
    assert first == trial_parameters(SEARCH, SEARCH.trial_names[1], tried, None)
    assert 0.01 <= first["learning_rate"] <= 1
    assert first["batch_size"] in range(16, 129, 16)
    assert first["channels"] in ([8, 16, 32, 64], [16, 32, 64, 128])
    SEARCH.settings_with(first)


def test_trials_that_begin_at_the_same_moment_try_different_things() -> None:
    suggested = [trial_parameters(SEARCH, name, [], None) for name in SEARCH.trial_names]
    assert len({json.dumps(one) for one in suggested}) == len(suggested)


def test_the_search_goes_where_it_was_good() -> None:
    def accuracy(values: dict) -> float:
        return 1 - 0.2 * abs(np.log(values["learning_rate"] / 0.1)) - 0.01 * values["rotation"]

    early, late = [], []
    for seed in range(4):
        sweep, done = SEARCH.model_copy(update={"seed": seed, "trials": 30}), []
        for number, name in enumerate(sweep.trial_names):
            values = trial_parameters(sweep, name, done, None)
            done.append(record(sweep, number, values, [accuracy(values)] * 4))
        # The sampler draws by chance until it knows ten trials.
        early += [one.value for one in done[:10]]
        late += [one.value for one in done[10:]]
    assert np.mean(late) > np.mean(early)


STEPS = definition.Sweep.model_validate(
    {
        "name": "steps",
        "fixed": {"epochs": 2},
        "search": {
            "rotation": {"low": 0, "high": 20, "step": 0.125},
            "weight_decay": {"low": 0.1, "high": 0.9, "step": 0.1},
        },
        "trials": 25,
    }
)


def test_values_of_a_range_with_a_step_stay_on_its_steps() -> None:
    done = []
    for number, name in enumerate(STEPS.trial_names):
        values = trial_parameters(STEPS, name, done, None)
        assert values["rotation"] in np.arange(0, 20.125, 0.125)
        assert values["weight_decay"] in [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
        done.append(record(STEPS, number, values, [0.5, 1 - values["rotation"] / 20]))
    assert len({one.parameters["rotation"] for one in done}) > 10


def test_a_record_of_an_earlier_version_beside_the_steps_keeps_no_trial_from_a_suggestion() -> None:
    beside = record(STEPS, 0, {"rotation": 10.62, "weight_decay": 0.1}, [0.5, 0.9])
    on = record(STEPS, 1, {"rotation": 10.625, "weight_decay": 0.1}, [0.5, 0.8])
    name = STEPS.trial_names[2]
    assert trial_parameters(STEPS, name, [beside, on], None) == trial_parameters(STEPS, name, [on], None)


def test_a_trial_that_is_run_again_tries_the_same() -> None:
    before = record(SEARCH, 3, TRIED, [0.2], FAILED)
    assert trial_parameters(SEARCH, before.trial, [], before) == TRIED


histories = st.lists(st.lists(st.floats(0, 1, width=32), min_size=6, max_size=6), min_size=3, max_size=6)


@given(
    histories, st.sampled_from([0.25, 0.5, 0.75]), st.lists(st.floats(0, 1, width=32), min_size=1, max_size=5)
)
def test_a_trial_is_stopped_exactly_when_optunas_pruner_would_stop_it(
    done: list[list[float]], keep: float, own: list[float]
) -> None:
    sweep = SEARCH.model_copy(
        update={"pruning": SEARCH.pruning.model_copy(update={"keep": keep, "after_trials": 3})}
    )
    records = [record(sweep, number, TRIED, accuracies) for number, accuracies in enumerate(done)]
    pruning_thresholds = trial_records.pruning_thresholds(sweep, records, epochs=6)
    stopped = max(own) < pruning_thresholds.get(len(own), 0)

    pruner = optuna.pruners.PercentilePruner(100 * keep, n_startup_trials=3, n_warmup_steps=2)
    study = optuna.create_study(direction="maximize", pruner=pruner)
    for accuracies in done:
        steps = dict(enumerate(accuracies, 1))
        study.add_trial(
            optuna.trial.create_trial(state=TrialState.COMPLETE, value=1.0, intermediate_values=steps)
        )
    trial = study.ask()
    for epoch, accuracy in enumerate(own, 1):
        trial.report(accuracy, epoch)
    assert stopped == trial.should_prune()


def test_nobody_is_stopped_before_enough_trials_are_complete_or_in_the_last_epoch() -> None:
    one = record(SEARCH, 0, TRIED, [0.5, 0.6, 0.7, 0.8])
    stopped = record(SEARCH, 1, TRIED, [0.1], PRUNED)
    assert trial_records.pruning_thresholds(SEARCH, [one, stopped], 4) == {}
    assert list(trial_records.pruning_thresholds(SEARCH, [one, one], 4)) == [2, 3]


def test_a_failure_does_not_replace_what_was_achieved_before(settings) -> None:
    good = record(GRID, 0, {"learning_rate": 0.1, "batch_size": 32}, [0.5, 0.9])
    trial_records.save(settings.paths, replace(good, state=FAILED, value=None, error="it diverged"))
    trial_records.save(settings.paths, good)
    trial_records.save(settings.paths, replace(good, state=FAILED, value=None, error="it diverged"))
    kept = trial_records.load(settings.paths, good.trial)
    assert kept is not None
    assert kept.version == good.version


def test_a_damaged_record_is_named_and_keeps_no_other_from_being_read(settings) -> None:
    good = record(GRID, 0, {"learning_rate": 0.1, "batch_size": 32}, [0.5, 0.9])
    bad = record(GRID, 1, {"learning_rate": 0.1, "batch_size": 64}, [0.5, 0.8])
    for one in (good, bad):
        trial_records.save(settings.paths, one)
    settings.paths.sweep_trial(bad.trial).write_text("[]")
    with pytest.raises(SweepError, match="is damaged: remove it"):
        trial_records.load(settings.paths, bad.trial)
    assert [one.trial for one in trial_records.load_all(settings.paths)] == [good.trial]
    trial_records.save(settings.paths, replace(bad, state=FAILED, value=None, error="it diverged"))
    assert [one.state for one in trial_records.load_all(settings.paths)] == ["complete", FAILED]


def test_a_trial_with_a_damaged_record_is_planned_anew(settings) -> None:
    settings.paths.splits.parent.mkdir(parents=True)
    pq.write_table(pa.table({"image_id": ["a"], "batch": ["b"]}), settings.paths.splits)
    name = GRID.trial_names[1]
    path = settings.paths.sweep_trial(name)
    path.parent.mkdir(parents=True)
    path.write_text('{"trial": ')
    plan = trial_training.planned(settings.paths, GRID, name)
    assert plan.parameters == GRID.combination(1)
    assert trial_training.finished(settings.paths, plan) is None


# --- the leaderboard


def some_records() -> list:
    values = [GRID.combination(number) for number in range(4)]
    return [
        record(GRID, 0, values[0], [0.5, 0.8]),
        record(GRID, 1, values[1], [0.5, 0.9]),
        record(GRID, 2, values[2], [0.95], PRUNED),
        record(GRID, 3, values[3], [], FAILED),
    ]


def test_the_leaderboard_has_the_best_first_and_a_place_for_complete_trials_only() -> None:
    rows = leaderboard.rows(some_records(), "s1")
    assert [(row["rank"], row["accuracy"], row["state"]) for row in rows] == [
        (1, 0.9, COMPLETE),
        (2, 0.8, COMPLETE),
        (None, 0.95, PRUNED),
        (None, None, FAILED),
    ]


def test_trials_on_other_images_have_no_place_and_come_last() -> None:
    records = some_records()
    records[1] = replace(records[1], splits_version="before")
    rows = leaderboard.rows(records, "s1")
    assert [row["accuracy"] for row in rows] == [0.8, 0.95, None, 0.9]
    assert rows[-1]["rank"] is None


def test_the_leaderboard_is_a_table_whose_version_follows_its_content(settings) -> None:
    settings.paths.splits.parent.mkdir(parents=True)
    pq.write_table(pa.table({"image_id": ["a"], "batch": ["b"]}), settings.paths.splits)
    first = leaderboard.write(settings.paths, some_records())
    assert pq.read_table(settings.paths.sweep_leaderboard).num_rows == 4
    assert leaderboard.write(settings.paths, some_records()) == first
    assert leaderboard.write(settings.paths, some_records()[:3]) != first


@pytest.mark.parametrize("count", [1, 2, 4])
def test_plots_are_drawn_of_whatever_there_is(count: int) -> None:
    shown = some_records()[:count]
    for png in (plots.progress(shown), plots.parameters(shown), plots.progress(some_records()[3:])):
        assert png.startswith(b"\x89PNG")
    assert plots.parameters(shown) == plots.parameters(shown)


def test_sweeps_and_their_trials_live_on_an_object_store_too(bucket, tmp_path) -> None:
    settings = Settings(paths=Paths(home=tmp_path, artifacts=str(bucket / "artifacts")))
    assert trial_records.load_all(settings.paths) == []
    definition.register(settings.paths, GRID)
    for one in some_records():
        trial_records.save(settings.paths, one)
    assert definition.registered(settings.paths, GRID.identity) == GRID
    assert [one.state for one in trial_records.load_all(settings.paths, GRID.identity)] == [
        COMPLETE,
        COMPLETE,
        PRUNED,
        FAILED,
    ]
    assert trial_records.load_all(settings.paths, "another") == []
