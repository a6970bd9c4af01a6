"""Small JSON files of the registry, each with the hash of its content: checked when they are read."""

import hashlib
import json
from dataclasses import MISSING, asdict, fields
from datetime import UTC, datetime
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from captcha_assets.atomic_files import AnyPath, contents, json_text, raise_if_passing, regular

T = TypeVar("T")

#: The field with the SHA-256 of the others. Records of versions before this one lack it.
_HASH = "sha256"


class RegistryError(RuntimeError):
    """Something the registry does not hold or will not do; the message says what to do."""


def now() -> str:
    """Return the time as records have it: UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def to_json(record: Any) -> dict[str, Any]:
    """Return what is stored of a record, a dataclass: its fields, and the hash of their content."""
    value = json.loads(json_text(asdict(record)))  # as it is read again: the keys of a dictionary are text
    return {**value, _HASH: _hash(value)}


def _hash(value: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def read(path: AnyPath, kind: type[T], remedy: str = "restore it from a backup") -> T:
    """Read a record: an object with the fields of the dataclass `kind`, each of its type, as stored.

    Args:
        path: where it lies.
        kind: the dataclass.
        remedy: what helps where the record is damaged.

    Raises:
        RegistryError: the file is no such record, or was changed after it was stored; the message names it
            and the field.
    """
    try:
        value = json.loads(contents(regular(path)).decode())
    except (ValueError, OSError, RecursionError) as error:
        raise_if_passing(error)
        raise RegistryError(f"{path} is damaged: {error}; {remedy}") from error
    content = (
        {name: entry for name, entry in value.items() if name != _HASH} if isinstance(value, dict) else value
    )
    if fault := _fault(content, kind) or _changed(value, content):
        raise RegistryError(f"{path} is damaged: {fault}; {remedy}")
    return kind(**content)


def _changed(value: dict[str, Any], content: dict[str, Any]) -> str | None:
    """Say whether the content is another one than was stored; None where not, or no hash was stored."""
    found = _hash(content)
    if value.get(_HASH, found) == found:
        return None
    return "it was changed after it was stored (the content has another hash)"


def _fault(value: Any, kind: type[Any]) -> str | None:
    """Say what is wrong with a record, or None where nothing is."""
    if not isinstance(value, dict):
        return f"it holds {value!r:.40}, not an object"
    hints = get_type_hints(kind)
    needed = [one.name for one in fields(kind) if one.default is MISSING and one.default_factory is MISSING]
    if missing := [name for name in needed if name not in value]:
        return f"it has no {', '.join(missing)}"
    if unknown := sorted(set(value) - set(hints)):
        return f"it has unknown fields: {', '.join(unknown)}"
    wrong = [f"{name} is {entry!r:.40}" for name, entry in value.items() if not _fits(entry, hints[name])]
    return "; ".join(wrong) or _no_time(value) or _no_folder_name(value)


def _fits(entry: Any, hint: Any) -> bool:
    if isinstance(hint, UnionType):
        return any(_fits(entry, one) for one in get_args(hint))
    if isinstance(entry, bool):  # an int to Python
        return hint is bool
    return isinstance(entry, get_origin(hint) or hint)


def _no_folder_name(value: dict[str, Any]) -> str | None:
    """Say whether the id of a model would lead out of the folder of the models."""
    model_id = value.get("model_id", "")
    return f"model_id is {model_id!r:.40}, not an id" if {"/", "\\", "\0"} & set(model_id) else None


def _no_time(value: dict[str, Any]) -> str | None:
    try:
        datetime.fromisoformat(value.get("since", "2000-01-01"))
    except ValueError:
        return f"since is {value['since']!r:.40}, not a time in ISO 8601"
    return None
