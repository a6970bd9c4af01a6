"""The registry: one folder per model, the candidate, and the history of what served.

    <model id>/             a model folder, verified by its hashes when it comes and before it serves
    candidate.json          the model that was trained last
    history/000001.json     one file per change of the champion; the last one names the champion
    refused/<model id>.json models that a person does not want promoted, and why

A change of the champion is the creation of the next file of the history, whole, and only if it is not
there yet. So a reader sees the champion of before or the one of after, a process killed half-way
changed nothing, of two processes that change it at once the later one changes what the earlier one
left, and nothing is ever rewritten. This holds on local disks and on object stores alike.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from captcha_assets.models import folder
from captcha_assets.models.manifest import MANIFEST, ModelFolderError
from captcha_assets.storage import AnyPath, create, fetched, json_text, replacing_folder, write_json

By = Literal["rule", "human"]

_ENTRY = re.compile(r"\d{6}\.json")


class RegistryError(RuntimeError):
    """Something the registry does not hold or will not do; the message says what to do."""


@dataclass(frozen=True)
class Candidate:
    """The model that was trained last."""

    model_id: str
    since: str
    """UTC, ISO 8601."""


@dataclass(frozen=True)
class Champion:
    """A model that serves, or once did: one entry of the history."""

    number: int
    """Position in the history, from 1."""
    model_id: str
    since: str
    """UTC, ISO 8601."""
    instead_of: str | None
    """The champion before."""
    reason: str
    by: str = "rule"
    """"rule" or "human"."""
    action: str = "promote"
    """"promote" or "rollback"."""
    metrics: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Refusal:
    """A person's word that a model is not to be promoted by the rule."""

    model_id: str
    since: str
    """UTC, ISO 8601."""
    reason: str


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _read(path: AnyPath) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except (ValueError, OSError) as error:
        raise RegistryError(f"{path} is damaged: {error}; restore it from a backup") from error
    if not isinstance(value, dict):
        raise RegistryError(f"{path} is damaged: it is no object; restore it from a backup")
    return value


def model_folder(registry: AnyPath, model_id: str) -> AnyPath:
    """Return where the registry keeps a model.

    Raises:
        RegistryError: there is no such model.
    """
    place = registry / model_id
    if not model_id or "/" in model_id or not (place / MANIFEST).exists():
        known = ", ".join(list_models(registry)) or "none"
        raise RegistryError(f"there is no model {model_id!r} in {registry}; known are: {known}")
    return place


def list_models(registry: AnyPath) -> list[str]:
    """Return the ids of all models in the registry, sorted."""
    if not registry.exists():
        return []
    return sorted(
        place.name
        for place in registry.iterdir()
        if not place.name.startswith(".") and (place / MANIFEST).exists()
    )


def _verify(registry: AnyPath, model_id: str) -> None:
    """Refuse a model that is not there, is damaged, or is another one than its folder's name says."""
    with fetched(model_folder(registry, model_id)) as local:
        found = folder.verify(local)
    if found != model_id:
        raise ModelFolderError(f"{registry / model_id} holds the model {found}: restore the folder")


def _holds(registry: AnyPath, model_id: str) -> bool:
    try:
        _verify(registry, model_id)
    except (RegistryError, ModelFolderError):
        return False
    return True


def add_candidate(registry: AnyPath, trained: Path) -> str:
    """Take a copy of a trained model's folder and make it the candidate.

    A model that the registry holds already is not copied again; a damaged copy is replaced.

    Args:
        registry: folder or address of the registry.
        trained: local model folder.

    Returns:
        The model's id.

    Raises:
        ModelFolderError: the folder is damaged.
    """
    model_id = folder.verify(trained)
    if not _holds(registry, model_id):
        with replacing_folder(registry / model_id) as part:
            for file in trained.iterdir():
                (part / file.name).write_bytes(file.read_bytes())
    current = candidate(registry)
    if current is None or current.model_id != model_id:
        write_json(registry / "candidate.json", asdict(Candidate(model_id, _now())))
    return model_id


def candidate(registry: AnyPath) -> Candidate | None:
    """Return the model that was trained last, or None where none was.

    Raises:
        RegistryError: the pointer is damaged.
    """
    path = registry / "candidate.json"
    return Candidate(**_read(path)) if path.exists() else None


def _entries(registry: AnyPath) -> list[AnyPath]:
    place = registry / "history"
    if not place.exists():
        return []
    return sorted(
        (path for path in place.iterdir() if _ENTRY.fullmatch(path.name)), key=lambda path: path.name
    )


def champion(registry: AnyPath) -> Champion | None:
    """Return the model that serves, or None where none was promoted yet.

    Raises:
        RegistryError: the last entry of the history is damaged.
    """
    entries = _entries(registry)
    return Champion(**_read(entries[-1])) if entries else None


def history(registry: AnyPath) -> list[Champion]:
    """Return every change of the champion, the first one first.

    Raises:
        RegistryError: an entry is damaged.
    """
    return [Champion(**_read(path)) for path in _entries(registry)]


def _append(registry: AnyPath, before: Champion | None, **entry: Any) -> Champion | None:
    """Make `entry` the champion after `before`; None where another process came first."""
    number = before.number + 1 if before else 1
    made = Champion(number=number, since=_now(), instead_of=before.model_id if before else None, **entry)
    path = registry / "history" / f"{number:06d}.json"
    return made if create(path, json_text(asdict(made))) else None


def promote(
    registry: AnyPath,
    model_id: str,
    reason: str,
    metrics: Mapping[str, Any] | None = None,
    *,
    by: By = "rule",
    instead_of: str | None = None,
) -> Champion:
    """Make a model the champion, at once and whole. The champion itself stays what it is.

    Args:
        registry: folder or address of the registry.
        model_id: a model of the registry.
        reason: one line, for the history.
        metrics: figures that the decision rests on, for the history.
        by: "rule" or "human".
        instead_of: the champion that the decision rests on; promotes only while it still is.

    Raises:
        RegistryError: there is no such model, or the champion is another one by now.
        ModelFolderError: the model is damaged.
    """
    _verify(registry, model_id)
    while True:
        now = champion(registry)
        if now and now.model_id == model_id:
            return now
        if instead_of is not None and (now is None or now.model_id != instead_of):
            raise RegistryError(
                f"{model_id} was to replace {instead_of}, but {now.model_id if now else 'none'} serves by "
                "now: decide again"
            )
        made = _append(registry, now, model_id=model_id, reason=reason, by=by, metrics=dict(metrics or {}))
        if made:
            return made


def _served_before(entries: list[Champion]) -> str | None:
    """Return the champion before today's: what a rollback goes back to, further with every rollback."""
    served: list[str] = []
    for entry in entries:
        if entry.action == "rollback" and entry.model_id in served:
            del served[served.index(entry.model_id) + 1 :]
        else:
            served.append(entry.model_id)
    return served[-2] if len(served) > 1 else None


def rollback(registry: AnyPath, reason: str, to: str | None = None, by: By = "human") -> Champion:
    """Make the champion of before serve again, at once and whole; the history tells of it.

    Args:
        registry: folder or address of the registry.
        reason: one line, for the history.
        to: go back to this model; by default the one that served before today's, and one further with
            every rollback.
        by: "rule" or "human".

    Raises:
        RegistryError: there is nothing to go back to, or `to` never served or serves already.
        ModelFolderError: the model is damaged.
    """
    while True:
        entries = history(registry)
        target = to or _served_before(entries)
        if target is None:
            raise RegistryError("no other model served before: there is nothing to go back to")
        past = {entry.model_id: entry for entry in entries}
        if target not in past or entries[-1].model_id == target:
            state = "serves already" if target in past else "never served"
            raise RegistryError(f"{target} {state}; those that did: {', '.join(past) or 'none'}")
        _verify(registry, target)
        made = _append(
            registry,
            entries[-1],
            model_id=target,
            reason=reason,
            by=by,
            action="rollback",
            metrics=past[target].metrics,
        )
        if made:
            return made


def refuse(registry: AnyPath, model_id: str, reason: str) -> Refusal:
    """Keep the rule from ever promoting a model; a person still may.

    Raises:
        RegistryError: there is no such model, it serves, or it was refused before.
    """
    model_folder(registry, model_id)
    now = champion(registry)
    if now and now.model_id == model_id:
        raise RegistryError(f"{model_id} serves: take it back with a rollback")
    made = Refusal(model_id, _now(), reason)
    if not create(registry / "refused" / f"{model_id}.json", json_text(asdict(made))):
        raise RegistryError(f"{model_id} was refused before: {_refusal(registry, model_id)}")
    return made


def _refusal(registry: AnyPath, model_id: str) -> str | None:
    path = registry / "refused" / f"{model_id}.json"
    if not path.exists():
        return None
    refusal = Refusal(**_read(path))
    return f"{refusal.reason} ({refusal.since})"


def barred(registry: AnyPath, model_id: str) -> str | None:
    """Why the rule may not promote a model: a person refused it or rolled back from it; None if it may.

    Raises:
        RegistryError: the history is damaged.
    """
    if refusal := _refusal(registry, model_id):
        return f"refused: {refusal}"
    for entry in reversed(history(registry)):
        if entry.action == "rollback" and entry.instead_of == model_id:
            return f"rolled back: {entry.reason} ({entry.since})"
    return None
