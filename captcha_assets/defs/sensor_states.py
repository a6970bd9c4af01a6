"""Which of the sensors of unattended operation are on."""

import dagster as dg

#: The sensors of unattended operation.
SENSORS = ("inbox_sensor", "automation", "retraining", "automatic_rollback")


def switched_on(instance: dg.DagsterInstance) -> dict[str, bool]:
    """Which of `SENSORS` are on."""
    running = _running(instance)
    return {name: name in running for name in SENSORS}


def is_on(instance: dg.DagsterInstance, sensor: str) -> bool:
    """Whether a sensor was switched on."""
    return sensor in _running(instance)


def _running(instance: dg.DagsterInstance) -> set[str]:
    states = instance.all_instigator_state()
    return {state.instigator_name for state in states if state.status.value == "RUNNING"}
