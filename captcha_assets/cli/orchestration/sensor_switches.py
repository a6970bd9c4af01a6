"""Switching sensors on and off, as the UI does.

Dagster's daemon reads the state of a sensor and writes it back with its cursor, at the begin and at the end
of each tick. A switch that falls in between is lost: so the states are looked at again after the tick.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from captcha_assets.cli.orchestration import code_location
from captcha_assets.defs.dagster_internals import remote_repository
from captcha_assets.defs.sensor_states import SENSORS, switched_on

if TYPE_CHECKING:
    from captcha_assets.defs.dagster_internals import RemoteSensor

#: Seconds that a tick under way is waited for.
LONGEST_TICK = 60.0

#: Seconds between two looks at the states.
_BETWEEN_LOOKS = 1.0

#: A daemon that gave no sign of life for so many seconds runs no tick; it gives one every 30 seconds.
_DAEMON_GONE = 120.0


class SwitchError(RuntimeError):
    """Sensors that could not be switched for certain; the message says which, and what to do."""


def switch(
    instance: dg.DagsterInstance,
    *,
    on: bool,
    workspace: Path | None = None,
    waits_for: Callable[[str], object] = lambda _words: None,
    longest_tick: float = LONGEST_TICK,
) -> None:
    """Switch all of `SENSORS` on or off; a daemon that runs obeys from its next tick.

    Args:
        instance: the Dagster instance.
        on: whether they are on afterwards.
        workspace: Dagster's file of the code location; default that of the folder that it is started in.
        waits_for: is called once with what is waited for, in one line.
        longest_tick: seconds that ticks under way are waited for.

    Raises:
        SwitchError: a tick has not ended in this time, so that it may undo the switch.
    """
    with remote_repository(instance, workspace or code_location.folder() / "workspace.yaml") as repository:
        sensors = [repository.get_sensor(name) for name in SENSORS]
        _switch(instance, sensors, on=on)
        if _daemon_runs(instance):
            _settle(instance, sensors, on=on, waits_for=waits_for, longest_tick=longest_tick)


def _switch(instance: dg.DagsterInstance, sensors: Sequence["RemoteSensor"], *, on: bool) -> None:
    for sensor in sensors:
        if on:
            instance.start_sensor(sensor)
        else:
            instance.stop_sensor(sensor.get_remote_origin_id(), sensor.selector_id, sensor)


def _settle(
    instance: dg.DagsterInstance,
    sensors: Sequence["RemoteSensor"],
    *,
    on: bool,
    waits_for: Callable[[str], object],
    longest_tick: float,
) -> None:
    """Switch again until two looks in a row find every sensor as wanted and no tick that may undo it."""
    switched, good_looks, named = time.time(), 0, False
    ends = time.monotonic() + longest_tick
    while good_looks < 2:
        wrong = [name for name, is_on in switched_on(instance).items() if is_on != on]
        if wrong:
            _switch(instance, sensors, on=on)
            switched = time.time()
        ticking = [sensor.name for sensor in sensors if _ticks_since_before(instance, sensor, switched)]
        good_looks = 0 if wrong or ticking else good_looks + 1
        if ticking and not named:
            waits_for(f"waiting for the tick of {', '.join(ticking)} that is under way")
            named = True
        if good_looks == 0 and time.monotonic() > ends:
            names = ", ".join(dict.fromkeys([*wrong, *ticking]))
            raise SwitchError(
                f"{names}: a tick of the daemon is still under way and may undo the switch; see "
                "captcha-assets automation show, and switch again"
            )
        time.sleep(_BETWEEN_LOOKS)


def _ticks_since_before(instance: dg.DagsterInstance, sensor: "RemoteSensor", moment: float) -> bool:
    """Whether a tick of a sensor is under way that began before a moment: a later one has read the switch."""
    latest = instance.get_ticks(sensor.get_remote_origin_id(), sensor.selector_id, limit=1)
    return any(tick.status.value == "STARTED" and tick.timestamp <= moment for tick in latest)


def _daemon_runs(instance: dg.DagsterInstance) -> bool:
    heartbeats = instance.get_daemon_heartbeats().values()
    return any(time.time() - heartbeat.timestamp < _DAEMON_GONE for heartbeat in heartbeats)
