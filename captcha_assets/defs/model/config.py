"""The training's settings as the launchpad shows them: the library's own dataclass, field by field."""

import dataclasses
from typing import Any, get_origin, get_type_hints

import dagster as dg
import pydantic

from captcha_assets.training.config import TrainingSettings


def _field(field: "dataclasses.Field[Any]", hint: Any) -> tuple[Any, Any]:
    default: Any = field.default
    if get_origin(hint) is tuple:  # Dagster's config knows lists, not tuples
        hint, default = list[int], list(default)
    return hint, pydantic.Field(default, description=field.metadata["help"])


_HINTS = get_type_hints(TrainingSettings)
_FIELDS: Any = {
    entry.name: _field(entry, _HINTS[entry.name]) for entry in dataclasses.fields(TrainingSettings)
}
_Fields: Any = pydantic.create_model("_Fields", __base__=dg.Config, **_FIELDS)


class TrainingConfig(_Fields):
    """Run config of `resnet18`; its defaults are the production values."""

    def to_settings(self) -> TrainingSettings:
        """The library's settings.

        Raises:
            SettingsError: a value is out of bounds.
        """
        return TrainingSettings.of(self.model_dump())
