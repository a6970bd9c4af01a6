"""Switching sensors on and off, as the UI does."""

from pathlib import Path

import dagster as dg

from captcha_assets.defs.dagster_internals import remote_repository
from captcha_assets.paths import REPOSITORY

#: What makes the platform run by itself.
SENSORS = ("inbox_sensor", "automation", "retraining")


def switch(
    instance: dg.DagsterInstance, *, on: bool, workspace: Path = REPOSITORY / "workspace.yaml"
) -> None:
    """Switch all of `SENSORS` on or off; a daemon that runs obeys from its next tick."""
    with remote_repository(instance, workspace) as repository:
        for name in SENSORS:
            sensor = repository.get_sensor(name)
            if on:
                instance.start_sensor(sensor)
            else:
                instance.stop_sensor(sensor.get_remote_origin_id(), sensor.selector_id, sensor)


def switched_on(instance: dg.DagsterInstance) -> dict[str, bool]:
    """Which of `SENSORS` are on."""
    return {name: is_on(instance, name) for name in SENSORS}


def is_on(instance: dg.DagsterInstance, sensor: str) -> bool:
    """Whether somebody switched a sensor on."""
    return any(
        state.instigator_name == sensor and state.status.value == "RUNNING"
        for state in instance.all_instigator_state()
    )
