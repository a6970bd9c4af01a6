"""Which of the sensors of unattended operation are on."""

import dagster as dg

#: The sensors of unattended operation.
SENSORS = ("inbox_sensor", "automation", "retraining", "automatic_rollback")


def switched_on(instance: dg.DagsterInstance) -> dict[str, bool]:
    """Which of `SENSORS` are on."""
    return {name: is_on(instance, name) for name in SENSORS}


def is_on(instance: dg.DagsterInstance, sensor: str) -> bool:
    """Whether a sensor was switched on."""
    return any(
        state.instigator_name == sensor and state.status.value == "RUNNING"
        for state in instance.all_instigator_state()
    )
