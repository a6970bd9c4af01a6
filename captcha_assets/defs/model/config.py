"""The run config of a training, derived from the JSON schema of `TrainingSettings`.

No field has a default here: a setting that a run does not name has its production value, which is read when
the run starts. So a run without run config, an automated one for instance, trains as production does.

It is a schema rather than a `dg.Config` class. A class does not tell an absent field from null, which is a
value of `sample_size`, and Dagster checks its bounds only when the run has started.
"""

import json
from collections.abc import Mapping
from typing import Annotated, Any

import dagster as dg
from pydantic import Field, TypeAdapter, ValidationError

from captcha_assets.defs.dagster_internals import ConfigScalar, ConfigScalarKind, PostProcessingError
from captcha_assets.training.config import TrainingSettings
from captcha_assets.validation_errors import reason_of

#: The asset, and the op, that is configured.
TRAINED = "resnet18"

_KINDS: dict[str, type] = {"integer": int, "number": float}


class _Number(ConfigScalar):
    """A number within the bounds of a training setting."""

    def __init__(self, setting: str, schema: Mapping[str, Any]) -> None:
        kind, low, high = _KINDS[schema["type"]], schema.get("minimum"), schema.get("maximum")
        bounded: Any = Annotated[kind, Field(ge=low, le=high, allow_inf_nan=False)]
        self._setting, self._adapter = setting, TypeAdapter[Any](bounded)
        name = f"{kind.__name__}, {low} to {high}" if high is not None else f"{kind.__name__}, {low} or more"
        super().__init__(f"training.{setting}", name, ConfigScalarKind[kind.__name__.upper()])

    def post_process(self, value: float) -> float:
        """Reject what is out of bounds: Dagster shows the message and starts no run."""
        try:
            self._adapter.validate_python(value)
        except ValidationError as error:
            message = f"{self._setting}={value!r} cannot be used: {reason_of(error)}"
            raise PostProcessingError(message) from error
        return value


def _type(setting: str, schema: Mapping[str, Any]) -> Any:
    """Return Dagster's type of a setting."""
    if "anyOf" in schema:
        return dg.Noneable(_type(setting, next(one for one in schema["anyOf"] if one["type"] != "null")))
    if "enum" in schema:
        return dg.Enum(f"training.{setting}", [dg.EnumValue(choice) for choice in schema["enum"]])
    if schema["type"] == "array":
        return dg.Array(_type(setting, schema["items"]))
    return bool if schema["type"] == "boolean" else _Number(setting, schema)


def _description(schema: Mapping[str, Any]) -> str:
    return (
        f"{schema['description']} Left out: the production value, which is {json.dumps(schema['default'])} "
        "unless configs/training.yaml says otherwise."
    )


#: Run config of `resnet18`: the settings that differ from production.
TRAINING_CONFIG = dg.Shape(
    {
        setting: dg.Field(_type(setting, schema), is_required=False, description=_description(schema))
        for setting, schema in TrainingSettings.model_json_schema()["properties"].items()
    }
)
