"""Trials as they are recorded, without any training."""

from collections.abc import Sequence
from typing import Any

from captcha_assets.sweeps.definition import Sweep
from captcha_assets.sweeps.trial_records import COMPLETE, FAILED, Record

GRID = Sweep(name="grid", fixed={"epochs": 2}, grid={"learning_rate": [0.1, 0.2], "batch_size": [32, 64]})
SEARCH = Sweep.model_validate(
    {
        "name": "search",
        "fixed": {"epochs": 4},
        "search": {
            "learning_rate": {"low": 0.01, "high": 1.0, "log": True},
            "batch_size": {"low": 16, "high": 128, "step": 16},
            "rotation": {"low": 0, "high": 10},
            "channels": [[8, 16, 32, 64], [16, 32, 64, 128]],
        },
        "trials": 20,
        "pruning": {"keep": 0.5, "after_trials": 2, "after_epochs": 2},
    }
)


def record(
    sweep: Sweep, number: int, parameters: dict[str, Any], accuracies: Sequence[float], state: str = COMPLETE
) -> Record:
    """A trial that reached these accuracies, epoch by epoch."""
    return Record(
        trial=sweep.trial_names[number],
        sweep=sweep.identity,
        state=state,
        parameters=parameters,
        settings=sweep.settings_with(parameters).model_dump(),
        value=None if state == FAILED else accuracies[-1],
        history=[
            {"epoch": epoch, "validation_accuracy": accuracy} for epoch, accuracy in enumerate(accuracies, 1)
        ],
        splits_version="s1",
        code_version="1",
        error="it diverged" if state == FAILED else None,
    )
