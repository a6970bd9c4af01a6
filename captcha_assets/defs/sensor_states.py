"""Which of the sensors that make the platform run by itself are on."""

import dagster as dg

#: What makes the platform run by itself.
SENSORS = ("inbox_sensor", "automation", "retraining", "automatic_rollback")


def switched_on(instance: dg.DagsterInstance) -> dict[str, bool]:
    """Which of `SENSORS` are on."""
    return {name: is_on(instance, name) for name in SENSORS}


def is_on(instance: dg.DagsterInstance, sensor: str) -> bool:
    """Whether somebody switched a sensor on."""
    return any(
        state.instigator_name == sensor and state.status.value == "RUNNING"
        for state in instance.all_instigator_state()
    )
