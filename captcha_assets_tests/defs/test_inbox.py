"""A delivery that is dropped into the inbox is taken by the sensor, once."""

import os
import shutil
import time
from pathlib import Path

import dagster as dg

from captcha_assets.defs.source.sensors import inbox_sensor
from captcha_assets.sources import generator
from captcha_assets_tests.defs.conftest import Home


def drop(home: Home, name: str, seed: int, *, settled: bool = True) -> Path:
    home.settings.inbox.mkdir(parents=True, exist_ok=True)
    path = home.settings.inbox / name
    generator.write_archive(path, 40, seed=seed)
    if settled:
        before = time.time() - 60
        os.utime(path, (before, before))
    return path


def tick(home: Home) -> dg.SensorResult | dg.SkipReason:
    """One tick, and what the daemon does with the answer: the partitions are registered."""
    with dg.build_sensor_context(instance=home.instance, resources={"settings": home.settings}) as context:
        answer = inbox_sensor(context)
    if isinstance(answer, dg.SensorResult):
        for request in answer.dynamic_partitions_requests or ():
            home.instance.add_dynamic_partitions("batch", request.partition_keys)
    return answer


def requests(answer: dg.SensorResult | dg.SkipReason) -> list[str]:
    return (
        [] if isinstance(answer, dg.SkipReason) else [one.partition_key for one in answer.run_requests or ()]
    )


def test_an_empty_inbox_starts_nothing(home: Home) -> None:
    answer = tick(home)
    assert isinstance(answer, dg.SkipReason)
    assert "inbox" in answer.skip_message


def test_a_dropped_archive_is_registered_and_starts_its_run(home: Home) -> None:
    drop(home, "October 2026.zip", seed=1)
    answer = tick(home)
    assert requests(answer) == ["october-2026"]
    assert home.instance.get_dynamic_partitions("batch") == ["october-2026"]
    assert home.make("raw_batch", partition="october-2026") is None
    assert not list(home.settings.inbox.glob("*.zip"))
    assert (home.settings.raw / "october-2026.zip").exists()


def test_a_file_that_is_still_being_copied_is_not_taken(home: Home) -> None:
    drop(home, "late.zip", seed=1, settled=False)
    assert requests(tick(home)) == []


def test_the_same_delivery_is_never_taken_twice(home: Home) -> None:
    first = drop(home, "one.zip", seed=1)
    keep = shutil.copy2(first, home.settings.home / "kept.zip")
    tick(home)
    home.make("raw_batch", partition="one")
    shutil.copy2(keep, home.settings.inbox / "other-name.zip")
    assert requests(tick(home)) == []


def test_two_deliveries_of_one_name_do_not_mix(home: Home) -> None:
    drop(home, "same.zip", seed=1)
    tick(home)
    home.make("raw_batch", partition="same")
    drop(home, "same.zip", seed=2)
    (second,) = requests(tick(home))
    assert second.startswith("same-")
    home.make("raw_batch", partition=second)
    assert home.version("raw_batch", "same") != home.version("raw_batch", second)


def test_a_tick_that_was_lost_is_made_good_by_the_next(home: Home) -> None:
    drop(home, "lost.zip", seed=1)
    with dg.build_sensor_context(instance=home.instance, resources={"settings": home.settings}) as context:
        inbox_sensor(context)  # the daemon died before it could act on the answer
    assert requests(tick(home)) == ["lost"]
