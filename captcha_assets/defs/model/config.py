"""The training's settings as the launchpad shows them: the library's own dataclass, field by field.

Nothing is preset here. What a run does not name has its production value, which is looked up when the run
starts: so a run that nobody configured, an automated one for instance, trains as production does.

A schema of its own rather than a `dg.Config` class, which cannot tell an absent field from null: null is a
value of `sample_size`. And Dagster instantiates such a class, which checks the bounds, when the run is under
way already; what stands here is checked before there is a run.
"""

import dataclasses
import json
import types
from collections.abc import Mapping
from typing import Any, get_args, get_origin, get_type_hints

import dagster as dg

from captcha_assets.defs.dagster_internals import ConfigScalar, ConfigScalarKind, PostProcessingError
from captcha_assets.training.config import SettingsError, TrainingSettings, bounds

#: The asset, and the op, that is configured.
TRAINED = "resnet18"


class _Number(ConfigScalar):
    """A number within the bounds of a training setting."""

    def __init__(self, entry: "dataclasses.Field[Any]", kind: type) -> None:
        self._setting, self._in_list = entry.name, isinstance(entry.default, tuple)
        name = f"{kind.__name__}, {bounds(entry.metadata['low'], entry.metadata['high'])}"
        super().__init__(f"training.{entry.name}", name, ConfigScalarKind[kind.__name__.upper()])

    def post_process(self, value: float) -> float:
        """Refuse what is out of bounds: Dagster shows the message and starts no run."""
        try:
            TrainingSettings.check(self._setting, [value] if self._in_list else value)
        except SettingsError as error:
            raise PostProcessingError(str(error)) from error
        return value


def _type(entry: "dataclasses.Field[Any]", hint: Any) -> Any:
    if choices := entry.metadata["choices"]:
        return dg.Enum(f"training.{entry.name}", [dg.EnumValue(choice) for choice in choices])
    if get_origin(hint) is tuple:  # Dagster's config knows lists, not tuples
        return dg.Array(_type(entry, get_args(hint)[0]))
    if isinstance(hint, types.UnionType):
        return dg.Noneable(_type(entry, next(one for one in get_args(hint) if one is not types.NoneType)))
    return bool if hint is bool else _Number(entry, hint)


def _description(entry: "dataclasses.Field[Any]") -> str:
    return (
        f"{entry.metadata['help']} Left out: the production value, which is {json.dumps(entry.default)} "
        "unless configs/training.yaml says otherwise."
    )


_HINTS = get_type_hints(TrainingSettings)

#: Run config of `resnet18`: what is to be otherwise than in production.
TRAINING_CONFIG = dg.Shape(
    {
        entry.name: dg.Field(
            _type(entry, _HINTS[entry.name]), is_required=False, description=_description(entry)
        )
        for entry in dataclasses.fields(TrainingSettings)
    }
)


def with_named(production: TrainingSettings, named: Mapping[str, Any]) -> TrainingSettings:
    """Return what a training is told.

    Args:
        production: what holds for all that the run config does not name.
        named: the run config, as Dagster checked it.

    Raises:
        SettingsError: the values cannot be used together.
    """
    return TrainingSettings.of({**dataclasses.asdict(production), **named})
