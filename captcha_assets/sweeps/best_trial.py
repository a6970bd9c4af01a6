"""The settings of the best trial, as production settings or as a run config."""

from pathlib import Path
from typing import Any

import yaml

from captcha_assets.atomic_files import replacing
from captcha_assets.paths import Paths
from captcha_assets.sweeps.leaderboard import best
from captcha_assets.sweeps.production_settings import make_production, production_settings
from captcha_assets.sweeps.trial_records import Record, described
from captcha_assets.training.config import TrainingSettings


def apply(paths: Paths, trial: str | None = None, *, only_varied: bool = False) -> str:
    """Make the settings of a trial the production settings, and return one line about them.

    Args:
        paths: where things are kept.
        trial: which; None takes the best complete one on today's images.
        only_varied: take what its sweep varied, and leave the rest as it is in production.

    Raises:
        SweepError: there is no such trial.
    """
    record = best(paths, trial)
    path = make_production(paths, _chosen(paths, record, only_varied), _why(record))
    return f"{path}: the settings of {record.trial} ({_figure(record)}; {described(record.parameters)})"


def write_run_config(paths: Paths, path: Path, trial: str | None = None, *, only_varied: bool = False) -> str:
    """Write the settings of a trial as run config of `resnet18`; production stays as it is.

    Raises:
        SweepError: there is no such trial.
    """
    record = best(paths, trial)
    chosen = TrainingSettings.of(_chosen(paths, record, only_varied)).model_dump(mode="json")
    config = {"ops": {"resnet18": {"config": chosen}}}
    with replacing(path) as part:
        part.write_text(f"# {_why(record)}\n{yaml.safe_dump(config, sort_keys=False)}")
    return f"{path}: run config with the settings of {record.trial} ({_figure(record)})"


def _chosen(paths: Paths, record: Record, only_varied: bool) -> dict[str, Any]:
    rest = production_settings(paths).model_dump() if only_varied else record.settings
    return {**rest, **record.parameters}


def _figure(record: Record) -> str:
    return f"validation accuracy {record.value:.4f}"


def _why(record: Record) -> str:
    return f"From the trial {record.trial}: {_figure(record)}."
