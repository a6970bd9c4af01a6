"""A switch holds, although the daemon writes the state of a sensor back at the end of a tick."""

import threading
import time

import dagster as dg
import pytest
from dagster._core.scheduler.instigation import InstigatorState, InstigatorTick, TickData, TickStatus
from dagster._daemon.types import DaemonHeartbeat

from captcha_assets.cli.orchestration.sensor_switches import SwitchError, switch
from captcha_assets.defs.sensor_states import SENSORS, is_on, switched_on
from captcha_assets_tests.defs.conftest import Home

#: Each switch starts a code server.
pytestmark = pytest.mark.slow


def begin_tick(instance: dg.DagsterInstance, sensor: str) -> tuple[InstigatorTick, InstigatorState]:
    """Begin a tick as the daemon does: with a sign of life, and the state of the sensor at its begin."""
    instance.add_daemon_heartbeat(DaemonHeartbeat(time.time(), "SENSOR", "a daemon"))
    (state,) = [one for one in instance.all_instigator_state() if one.instigator_name == sensor]
    tick = TickData(
        instigator_origin_id=state.instigator_origin_id,
        instigator_name=sensor,
        instigator_type=state.instigator_type,
        status=TickStatus.STARTED,
        timestamp=time.time(),
        selector_id=state.selector_id,
    )
    return instance.create_tick(tick), state


def test_a_switch_that_falls_into_a_tick_holds_when_the_tick_has_ended_and_otherwise_fails(
    home: Home,
) -> None:
    switch(home.instance, on=True)
    tick, state = begin_tick(home.instance, "automation")

    def end_tick_when_switched() -> None:
        while is_on(home.instance, "automation"):
            time.sleep(0.05)
        home.instance.update_instigator_state(state)
        home.instance.update_tick(tick.with_status(TickStatus.SUCCESS))

    daemon = threading.Thread(target=end_tick_when_switched)
    daemon.start()
    switch(home.instance, on=False)
    daemon.join()
    assert switched_on(home.instance) == dict.fromkeys(SENSORS, False)

    begin_tick(home.instance, "automation")
    said: list[str] = []
    with pytest.raises(SwitchError, match="automation: a tick of the daemon is still under way"):
        switch(home.instance, on=True, waits_for=said.append, longest_tick=0)
    assert said == ["waiting for the tick of automation that is under way"]
