"""The training's settings as the launchpad shows them: the library's own dataclass, field by field.

Nothing is preset here. What a run does not name has its production value, which is looked up when the run
starts: so a run that nobody configured, an automated one for instance, trains as production does.
"""

import dataclasses
import types
from typing import Any, get_args, get_origin, get_type_hints

import dagster as dg
import pydantic

from captcha_assets.training.config import TrainingSettings

#: Stands for "not named" where null is a value of its own: Dagster cannot tell the two apart.
_NOT_NAMED = -1


def _field(field: "dataclasses.Field[Any]", hint: Any) -> tuple[Any, Any]:
    default: Any = field.default
    if get_origin(hint) is tuple:  # Dagster's config knows lists, not tuples
        hint, default = list[int], list(default)
    help_ = f"{field.metadata['help']} Where it is not named: the production value, {default} by default."
    unnamed = _NOT_NAMED if field.name in _NULLABLE else None
    return hint | None, pydantic.Field(unnamed, description=help_)


_HINTS = get_type_hints(TrainingSettings)
_NULLABLE = {name for name, hint in _HINTS.items() if types.NoneType in get_args(hint)}
_FIELDS: Any = {
    entry.name: _field(entry, _HINTS[entry.name]) for entry in dataclasses.fields(TrainingSettings)
}
_Fields: Any = pydantic.create_model("_Fields", __base__=dg.Config, **_FIELDS)


class TrainingConfig(_Fields):
    """Run config of `resnet18`: what is to be otherwise than in production."""

    def to_settings(self, production: TrainingSettings) -> TrainingSettings:
        """The library's settings.

        Args:
            production: what holds for all that the run config does not name.

        Raises:
            SettingsError: a value is out of bounds.
        """
        named = {
            name: value
            for name, value in self.model_dump().items()
            if value != (_NOT_NAMED if name in _NULLABLE else None)
        }
        return TrainingSettings.of({**dataclasses.asdict(production), **named})
