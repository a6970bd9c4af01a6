"""The values that a trial tries."""

from collections.abc import Sequence
from typing import Any

from captcha_assets.sweeps.definition import Sweep, number_of
from captcha_assets.sweeps.trial_records import Record


def trial_parameters(
    sweep: Sweep, trial: str, peers: Sequence[Record], before: Record | None
) -> dict[str, Any]:
    """Return the values that a trial tries: its earlier ones, its combination of the grid, or a suggestion.

    Args:
        sweep: what is tried.
        trial: the trial's name.
        peers: the trials that have ended, on the same images and by the same code.
        before: what became of this trial when it was run last.
    """
    if before is not None:
        return before.parameters
    if sweep.grid:
        return sweep.combination(number_of(trial))
    from captcha_assets.sweeps.optuna_study import suggest  # noqa: PLC0415  (Optuna takes seconds to import)

    return suggest(sweep, number_of(trial), peers)
