"""The production settings: those of a training without run config.

They are the defaults of `TrainingSettings`, and over them the file `configs/training.yaml` of the home,
where there is one. It is a file to commit.
"""

from collections.abc import Mapping
from typing import Any

import yaml

from captcha_assets.atomic_files import AnyPath, replacing
from captcha_assets.models.retraining_policy import Situation, situation
from captcha_assets.paths import Paths
from captcha_assets.training import yaml_file
from captcha_assets.training.config import TRAINING_CODE, SettingsError, TrainingSettings
from captcha_assets.training.yaml_file import YamlFileError


def production_settings(paths: Paths) -> TrainingSettings:
    """Return the settings of an automated training.

    Raises:
        SettingsError: the file names a setting that there is not, or a value that cannot be used.
    """
    return _read(paths.training_settings)


def production_version(paths: Paths) -> str:
    """Return the version of the production settings.

    Raises:
        SettingsError: the file cannot be used.
    """
    return production_settings(paths).version


def situation_now(paths: Paths) -> Situation:
    """Return what decides whether to train, with the training's code and the production settings of now.

    Raises:
        SettingsError: the file of the production settings cannot be used.
        RegistryError: the registry is damaged.
        ModelFolderError: the folder of the candidate is damaged.
    """
    production = production_settings(paths)
    return situation(paths, TRAINING_CODE, production.version, production.model_dump(mode="json"))


def problem(paths: Paths) -> str | None:
    """Return what is wrong with the file of the production settings, in one line; None where nothing is."""
    try:
        production_settings(paths)
    except SettingsError as error:
        return str(error)
    return None


def _read(path: AnyPath) -> TrainingSettings:
    if not path.exists() and not path.is_symlink():  # a broken link is an error, no absence
        return TrainingSettings()
    try:
        return yaml_file.read(path).settings(TrainingSettings())
    except YamlFileError as error:
        raise SettingsError(str(error)) from error


def make_production(paths: Paths, chosen: Mapping[str, Any], reason: str) -> AnyPath:
    """Write the production settings; what is as in the code's defaults is left out.

    Args:
        paths: where the file lies.
        chosen: all the settings that differ from the defaults, others too.
        reason: why, one line for the reader of the file.

    Raises:
        SettingsError: a value cannot be used.
    """
    defaults, wanted = (one.model_dump() for one in (TrainingSettings(), TrainingSettings.of(chosen)))
    differing = {name: value for name, value in wanted.items() if value != defaults[name]}
    head = f"# The settings of every training without run config.\n# {reason}\n"
    with replacing(paths.training_settings) as part:
        part.write_text(head + "".join(_line(*entry) for entry in plain(differing).items()))
    return paths.training_settings


def _line(name: str, value: Any) -> str:
    """Return a setting as YAML, a list on one line."""
    return yaml.safe_dump({name: value}, default_flow_style=None if isinstance(value, list) else False)


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings in what YAML knows: lists, no tuples."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
