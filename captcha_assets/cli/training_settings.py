"""The training settings that a command is given by its option `--config`."""

from pathlib import Path
from typing import TYPE_CHECKING

from captcha_assets.paths import Paths

if TYPE_CHECKING:
    from captcha_assets.training.config import TrainingSettings


def chosen_settings(paths: Paths, config: Path | None) -> "TrainingSettings":
    """Return the settings of a run config, or the production settings where none is given.

    Raises:
        SettingsError: the file has no run config of a training, or a setting cannot be used.
        YamlFileError: the file is no YAML.
    """
    from captcha_assets.sweeps.production_settings import production_settings
    from captcha_assets.training import yaml_file
    from captcha_assets.training.config import SettingsError

    production, keys = production_settings(paths), ("ops", "resnet18", "config")
    if config is None:
        return production
    file = yaml_file.read(config)
    if keys not in file.lines:
        raise SettingsError(f"{config} has no run config of resnet18: ops, resnet18, config")
    return file.settings(production, *keys)
