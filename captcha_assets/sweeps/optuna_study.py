"""Optuna's suggestions for the next trial.

Optuna's study is built from the trials' records whenever it is used, so there is no database that
could differ from the records, and trials may run in any number of processes and machines.
"""

import json
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState, create_trial

from captcha_assets.sweeps.definition import Range, Sweep, kind_of
from captcha_assets.sweeps.trial_records import COMPLETE, FAILED, Record

optuna.logging.set_verbosity(optuna.logging.WARNING)


def suggest(sweep: Sweep, number: int, records: Sequence[Record]) -> dict[str, Any]:
    """Return values for a trial of a search.

    The same records give the same values. Trials that are asked for at the same moment, with the same
    records, get different ones, since the trial's number is in the sampler's seed.
    """
    space = distributions(sweep)
    study = optuna.create_study(direction="maximize", sampler=_sampler(sweep.seed, number))
    for record in records:
        if record.state != FAILED and (trial := _trial(space, record)):
            study.add_trial(trial)
    asked = study.ask(space)
    return {name: _decoded(space[name], value) for name, value in asked.params.items()}


def _sampler(seed: int, number: int) -> optuna.samplers.BaseSampler:
    state = np.random.SeedSequence((seed, number)).generate_state(1)
    return optuna.samplers.TPESampler(seed=int(state[0]))


def distributions(sweep: Sweep) -> dict[str, BaseDistribution]:
    """Return a search space in Optuna's terms; values of a list as JSON, which may hold lists."""
    assert sweep.search is not None
    return {name: _distribution(name, values) for name, values in sweep.search.items()}


def _distribution(name: str, values: Range | list[Any]) -> BaseDistribution:
    if not isinstance(values, Range):
        return CategoricalDistribution([json.dumps(value) for value in values])
    if kind_of(name) is int:
        return IntDistribution(int(values.low), int(values.high), values.log, int(values.step or 1))
    return FloatDistribution(values.low, values.high, values.log, values.step)


def _decoded(distribution: BaseDistribution, value: Any) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return json.loads(value)
    if not isinstance(distribution, FloatDistribution):
        return value
    if distribution.step is not None:  # computed in decimal, 3.0000000000000004 is 3.0
        low, step = Decimal(str(distribution.low)), Decimal(str(distribution.step))
        return float(low + round((Decimal(str(value)) - low) / step) * step)
    # Four digits are all that a person wants to read, and more than accuracy depends on.
    return min(max(float(f"{value:.4g}"), distribution.low), distribution.high)


def _trial(space: dict[str, BaseDistribution], record: Record) -> FrozenTrial | None:
    """Return a record as Optuna's trial; None where its values are not in the space.

    Earlier versions rounded the values of a range that has a step, so that they lie between the steps.
    """
    values = {
        name: json.dumps(value) if isinstance(space[name], CategoricalDistribution) else value
        for name, value in record.parameters.items()
    }
    try:
        return create_trial(
            state=TrialState.COMPLETE if record.state == COMPLETE else TrialState.PRUNED,
            params=values,
            distributions=space,
            value=record.value if record.state == COMPLETE else None,
            intermediate_values={entry["epoch"]: entry["validation_accuracy"] for entry in record.history},
        )
    except ValueError:
        return None
