"""Switching sensors on and off, as the UI does."""

from pathlib import Path

import dagster as dg

from captcha_assets.defs.dagster_internals import remote_repository
from captcha_assets.defs.sensor_states import SENSORS
from captcha_assets.paths import REPOSITORY


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
