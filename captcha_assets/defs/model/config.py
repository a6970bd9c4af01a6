"""The training's settings as the launchpad shows them: the library's own dataclass, field by field."""

import dataclasses
from typing import Any, get_type_hints

import dagster as dg
import pydantic

from captcha_assets.training.config import TrainingSettings


def _fields() -> dict[str, Any]:
    hints = get_type_hints(TrainingSettings)
    return {
        field.name: (_plain(hints[field.name]), pydantic.Field(_plain_value(field.default), description=field.metadata["help"]))
        for field in dataclasses.fields(TrainingSettings)
    }


def _plain(hint: Any) -> Any:
    # Dagster's config knows lists, not tuples.
    return list[int] if getattr(hint, "__origin__", None) is tuple else hint


def _plain_value(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


#: Run config of `resnet18`; its defaults are the production values.
TrainingConfig: type[dg.Config] = pydantic.create_model("TrainingConfig", __base__=dg.Config, **_fields())


def training_settings(config: dg.Config) -> TrainingSettings:
    """The library's settings from a run's config.

    Raises:
        TrainingConfigError: a value is out of bounds.
    """
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in config.model_dump().items()}
    return TrainingSettings(**values)
