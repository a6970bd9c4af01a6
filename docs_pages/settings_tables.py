"""The settings, from the fields of their pydantic models."""

import typing
from enum import Enum
from pathlib import Path
from typing import Any, Literal

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from captcha_assets.paths import Paths
from captcha_assets.serving.settings import PREFIX, ServingSettings
from captcha_assets.settings import Settings
from captcha_assets.training.config import TrainingSettings
from docs_pages.tables import table

#: Where more is said of a setting.
_MORE = {
    "profile": "shared.md",
    "database": "shared.md",
    "dvc_remote": "recovery.md#on-another-machine",
    "compute": "training.md#on-a-ray-cluster",
    "compute_image": "deployment.md#trainings-on-kubernetes",
    "dataset": "template.md",
    "alert_webhook": "alerts.md",
    "retrain_new_images": "automation.md#when-a-training-starts",
    "retrain_corrections": "automation.md#when-a-training-starts",
    "corrections_in_batch": "prediction-log.md",
    "promotion_margin": "automation.md#promotion",
    "rollback": "promotion.md#automatic-rollback",
    "precision": "serving.md#int8",
    "allowed_hosts": "serving.md#hosts",
    "prediction_log": "prediction-log.md",
    "page": "web-page.md",
}
_SIGNS = {Ge: ("ge", "≥"), Gt: ("gt", ">"), Le: ("le", "≤"), Lt: ("lt", "<")}


def platform() -> str:
    """Return the settings of an installation."""
    fields = {**Paths.model_fields, **Settings.model_fields}
    return _variables("CAPTCHA_", {name: field for name, field in fields.items() if name != "paths"})


def service() -> str:
    """Return the settings of the prediction service and its log."""
    return _variables(PREFIX, ServingSettings.model_fields)


def training() -> str:
    """Return the settings of a training."""
    rows = [
        (f"`{name}`", _meaning(field) + _bounds(field), _default(field))
        for name, field in TrainingSettings.model_fields.items()
    ]
    return table(("setting", "meaning", "default"), rows)


def _variables(prefix: str, fields: dict[str, FieldInfo]) -> str:
    rows = []
    for name, field in fields.items():
        more = f" ([more]({_MORE[name]}))" if name in _MORE else ""
        rows.append((f"`{prefix}{name.upper()}`", _meaning(field) + _bounds(field) + more, _default(field)))
    return table(("variable", "meaning", "default"), rows)


def _said(field: FieldInfo) -> tuple[str, str]:
    """Return what a field's description says of its meaning, and what of its default."""
    meaning, _, default = str(field.description).partition("; default ")
    return _escaped(meaning.rstrip(" .")), _escaped(default.rstrip("."))


def _meaning(field: FieldInfo) -> str:
    return _said(field)[0]


def _default(field: FieldInfo) -> str:
    described = _said(field)[1]
    if described:
        return described
    value = field.default
    if value is PydanticUndefined or value is None:
        return "none"
    if isinstance(value, Path):
        return "the repository"
    return f"`{_written(value)}`"


def _written(value: Any) -> str:
    """Return a value as it is written in the environment or in YAML."""
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(str, value))}]"
    return str(value)


def _bounds(field: FieldInfo) -> str:
    """Return which values are allowed, as far as the type of the field says so, in brackets."""
    if choices := _choices(field.annotation):
        return f" ({', '.join(f'`{choice}`' for choice in choices)})"
    found = []
    for limit in field.metadata:
        if type(limit) in _SIGNS:
            attribute, sign = _SIGNS[type(limit)]
            found.append(f"{sign} {getattr(limit, attribute):,}")
    return f" ({', '.join(found)})" if found else ""


def _choices(annotation: Any) -> tuple[Any, ...]:
    """Return the values of a `Literal`, wherever it stands in the annotation."""
    if typing.get_origin(annotation) is Literal:
        return typing.get_args(annotation)
    return tuple(choice for part in typing.get_args(annotation) for choice in _choices(part))


def _escaped(text: str) -> str:
    """Return text that shows <home> and * as they are."""
    return text.replace("<", "&lt;").replace("*", "\\*")
