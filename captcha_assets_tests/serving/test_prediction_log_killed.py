"""Whatever a process does and however it ends, the log holds what was promised, and whole rows only."""

import random
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captcha_assets.dataset import CAPTCHA
from captcha_assets.serving.prediction_log import open_prediction_log
from captcha_assets.serving.prediction_log_tables import LoggedPrediction
from captcha_assets_tests.serving.log_processes import Operation, everything, live, record_for_ever, start
from captcha_assets_tests.serving.predictions import prediction
from captcha_assets_tests.serving.test_prediction_log import as_recorded

_NUMBERS = st.integers(0, 9)
_OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("record"), _NUMBERS),
        st.tuples(st.just("correct"), _NUMBERS, st.sampled_from(CAPTCHA.classes)),
        st.just(("flush",)),
    ),
    max_size=12,
)
_LIVES = st.lists(st.tuples(_OPERATIONS, st.sampled_from(["kill", "close"])), min_size=1, max_size=4)


@pytest.mark.slow
@given(lives=_LIVES)
@settings(max_examples=8)
def test_the_log_holds_what_it_promised(
    tmp_path_factory: pytest.TempPathFactory, lives: list[tuple[list[Operation], str]]
) -> None:
    folder = tmp_path_factory.mktemp("log")
    url = f"sqlite:///{folder}/predictions.db"
    recorded, written = set(), set()
    corrections: list[tuple[int, str]] = []
    for operations, ends in lives:
        process, reader = start(live, url, operations, ends)
        reports = everything(reader)
        process.join()
        recorded |= {operation[1] for operation in operations if operation[0] == "record"}
        for report in reports:
            if report[0] == "written":
                written |= set(report[1])
            elif report[0] == "corrected":
                written.add(report[1])
                corrections.append((report[1], report[2]))
            else:
                assert report[1] not in written
        with open_prediction_log(url) as log:
            found = {int(one.inference_id.removeprefix("id-")): one for one in log.recent(100)}
            assert written <= found.keys() <= recorded
            written = set(found)
            for number, one in found.items():
                assert as_recorded(one) == prediction(number)
                given_labels = [label for corrected, label in corrections if corrected == number]
                assert [given.label for given in log.corrections(f"id-{number}")] == given_labels
                assert (one.correction.label if one.correction else None) == (given_labels or [None])[-1]
            assert log.pending_corrections() == len({number for number, _ in corrections})
    shutil.rmtree(folder)


class AfterKill(NamedTuple):
    """What a killed process had recorded, had written, and what was found in its log."""

    recorded: int
    written: int
    found: list[LoggedPrediction]
    seconds_lost: float


def killed(folder: Path, seed: int) -> AfterKill:
    """Kill a process that records without end, and read its log."""
    url = f"sqlite:///{folder}/predictions.db"
    process, reader = start(record_for_ever, url)
    reports = [reader.recv() for _ in range(random.Random(seed).randrange(1, 2000))]
    process.kill()
    process.join()
    reports += everything(reader)
    last, ended, written = reports[-1]
    with open_prediction_log(url) as log:
        found = sorted(log.recent(10_000), key=lambda one: one.time)
    lost = 0.0 if len(found) > last else ended - reports[len(found)][1]
    return AfterKill(last + 1, written, found, lost)


def are_the_first(found: list[LoggedPrediction]) -> bool:
    """Whether a log holds the first predictions that were recorded, each as it was, without a gap."""
    return [as_recorded(one) for one in found] == [prediction(number) for number in range(len(found))]


@pytest.mark.slow
def test_a_killed_process_loses_nothing_that_was_written(tmp_path: Path) -> None:
    for number in range(5):
        after = killed(tmp_path / str(number), random.SystemRandom().randrange(1 << 32))
        assert are_the_first(after.found)
        assert after.written <= len(after.found) <= after.recorded + 1, "one may not have been reported"


@pytest.mark.slow
@pytest.mark.no_cover
def test_of_a_process_killed_fifty_times_the_last_second_is_lost_at_most(tmp_path: Path) -> None:
    after = [killed(tmp_path / str(number), number) for number in range(50)]
    assert all(are_the_first(one.found) for one in after)
    assert all(one.written <= len(one.found) for one in after)
    print(f"seconds lost: {sorted(one.seconds_lost for one in after)}")
    assert max(one.seconds_lost for one in after) < 1
