"""The registry: one folder per model, the candidate, and the history of what served.

    <model id>/             a model folder, verified by its hashes when it comes and before it serves
    candidate.json          the model that was trained last
    history/000001.json     one file per change of the champion; the last one names the champion
    latest_change.json      the number of the last one: where that is lost, the one before must not serve
    refused/<model id>.json models that a person does not want promoted, and why
    decisions/              what the promotion rule decided: see `promotion_records`

A change of the champion is the creation of the next file of the history, whole, and only if it is not
there yet. So a reader sees the champion of before or the one of after, a process killed half-way
changed nothing, of two processes that change it at once the later one changes what the earlier one
left, and nothing is ever rewritten. Each record holds the hash of its content, so that one that was edited
is named as damaged. This holds on local disks and on object stores alike.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from captcha_assets.atomic_files import AnyPath, create, fetched, json_text, replacing_folder, write_json
from captcha_assets.models import folder, promotion_records
from captcha_assets.models.folder import ModelConfig
from captcha_assets.models.manifest import MANIFEST, ModelFolderError, read_manifest
from captcha_assets.models.registry_records import RegistryError, now, read, to_json
from captcha_assets.text_formats import shown_time

By = Literal["rule", "human"]

#: The ground of a promotion that rests on newer data alone: the accuracy is not shown to be higher.
NEWER_DATA = "newer data"

_ENTRY = re.compile(r"\d{6}\.json")


@dataclass(frozen=True)
class Candidate:
    """The model that was trained last."""

    model_id: str
    since: str
    """UTC, ISO 8601."""


@dataclass(frozen=True)
class LatestChange:
    """The last change of the champion, which has to be in the history."""

    number: int
    """Its position there."""


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


def model_folder(registry: AnyPath, model_id: str) -> AnyPath:
    """Return where the registry keeps a model.

    Raises:
        RegistryError: there is no such model.
    """
    path = registry / model_id
    if not model_id or "/" in model_id or not (path / MANIFEST).exists():
        known = ", ".join(list_models(registry)) or "none"
        raise RegistryError(f"there is no model {model_id!r} in {registry}; known are: {known}")
    return path


def list_models(registry: AnyPath) -> list[str]:
    """Return the ids of all models in the registry, sorted."""
    if not registry.exists():
        return []
    return sorted(
        path.name
        for path in registry.iterdir()
        if not path.name.startswith(".") and (path / MANIFEST).exists()
    )


@contextmanager
def verified(registry: AnyPath, model_id: str) -> Iterator[Path]:
    """Give a local copy of a model's folder, which is whole and that of this model.

    Raises:
        RegistryError: there is no such model.
        ModelFolderError: it is damaged, or another one than its folder's name says.
    """
    with fetched(model_folder(registry, model_id)) as local:
        check_id(folder.verify(local), model_id, registry)
        yield local


def config(registry: AnyPath, model_id: str) -> ModelConfig:
    """Return what a model is, by the manifest and the configuration in its folder; its weights are not read.

    Raises:
        RegistryError: there is no such model.
        ModelFolderError: a file is missing or damaged, or the folder holds another model.
    """
    place = model_folder(registry, model_id)
    with fetched(place / MANIFEST) as local:
        check_id(str(read_manifest(local.parent).get("model_id")), model_id, registry)
    with fetched(place / folder.CONFIG) as local:
        return folder.read_config(local.parent)


def check_id(found: str, model_id: str, registry: AnyPath) -> None:
    """Raise an error if the folder of a model holds another one, `found`.

    Raises:
        ModelFolderError: it does.
    """
    if found != model_id:
        raise ModelFolderError(f"{registry / model_id} holds the model {found}: restore the folder")


def _verify(registry: AnyPath, model_id: str) -> None:
    with verified(registry, model_id):
        pass


def holds(registry: AnyPath, model_id: str) -> bool:
    """Whether a model is there and whole."""
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
    if not holds(registry, model_id):
        with replacing_folder(registry / model_id) as part:
            for file in trained.iterdir():
                (part / file.name).write_bytes(file.read_bytes())
    make_candidate(registry, model_id)
    return model_id


def make_candidate(registry: AnyPath, model_id: str) -> None:
    """Make a model of the registry the candidate; a pointer that is lost or damaged is written again."""
    if pointed_at(registry) != model_id:
        write_json(registry / "candidate.json", to_json(Candidate(model_id, now())))


def pointed_at(registry: AnyPath) -> str | None:
    """Return the id of the candidate; None where there is none, or the pointer is damaged."""
    try:
        current = candidate(registry)
    except RegistryError:
        return None
    return current.model_id if current else None


def candidate(registry: AnyPath) -> Candidate | None:
    """Return the model that was trained last, or None where none was.

    Raises:
        RegistryError: the pointer is damaged.
    """
    path = registry / "candidate.json"
    return read(path, Candidate, remedy="captcha-assets update writes it again") if path.exists() else None


def _entries(registry: AnyPath) -> list[AnyPath]:
    """Return the records of the history, the first one first.

    Raises:
        RegistryError: the last one, or all of them, are lost.
    """
    latest = _latest_change(registry)  # first: a change is recorded before its number is
    folder = registry / "history"
    found: list[Any] = list(folder.iterdir()) if folder.exists() else []
    entries = sorted((path for path in found if _ENTRY.fullmatch(path.name)), key=lambda path: path.name)
    if latest and (not entries or int(entries[-1].stem) < latest.number):
        raise RegistryError(
            f"{record_path(registry, latest.number)} is missing, which says what serves: restore it from a "
            f"backup (or remove {_latest_path(registry)}, and the change counts as never made)"
        )
    if not entries and (decision := promotion_records.of_a_champion(registry, pointed_at(registry))):
        raise RegistryError(
            f"{folder} is missing, which says what serves ({decision} tells of a champion): restore it from "
            f"a backup (or remove {decision.parent}, and no model counts as having served)"
        )
    return entries


def _latest_path(registry: AnyPath) -> AnyPath:
    return registry / "latest_change.json"


def _latest_change(registry: AnyPath) -> LatestChange | None:
    path = _latest_path(registry)
    return read(path, LatestChange, remedy="remove it; the next change writes it") if path.exists() else None


def champion(registry: AnyPath) -> Champion | None:
    """Return the model that serves, or None where none was promoted yet.

    Raises:
        RegistryError: the last entry of the history is damaged or lost.
    """
    entries = _entries(registry)
    return _entry(entries[-1]) if entries else None


def history(registry: AnyPath) -> list[Champion]:
    """Return every change of the champion, the first one first.

    Raises:
        RegistryError: an entry is damaged or missing.
    """
    entries = [_entry(path) for path in _entries(registry)]
    for number, entry in enumerate(entries, start=1):
        if entry.number != number:
            raise RegistryError(f"{record_path(registry, number)} is missing: restore it from a backup")
    return entries


def record_path(registry: AnyPath, number: int) -> AnyPath:
    """Return where the record of a change of the champion lies; the first one has number 1."""
    return registry / "history" / f"{number:06d}.json"


def _entry(path: AnyPath) -> Champion:
    entry = read(path, Champion)
    if entry.number != int(path.stem):
        raise RegistryError(f"{path} is damaged: its number is {entry.number}; restore it from a backup")
    return entry


def _append(registry: AnyPath, before: Champion | None, **entry: Any) -> Champion | None:
    """Make `entry` the champion after `before`; None where another process came first."""
    number = before.number + 1 if before else 1
    appended = Champion(number=number, since=now(), instead_of=before.model_id if before else None, **entry)
    if not create(record_path(registry, number), json_text(to_json(appended))):
        return None
    latest = _latest_change(registry)
    if latest is None or latest.number < number:
        write_json(_latest_path(registry), to_json(LatestChange(number)))
    return appended


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
        serves = champion(registry)
        if serves and serves.model_id == model_id:
            return serves
        if instead_of is not None and (serves is None or serves.model_id != instead_of):
            raise RegistryError(
                f"{model_id} was to replace {instead_of}, but {serves.model_id if serves else 'none'} serves "
                "by now: decide again"
            )
        appended = _append(
            registry, serves, model_id=model_id, reason=reason, by=by, metrics=dict(metrics or {})
        )
        if appended:
            return appended


def _replay(entries: Iterable[Champion]) -> tuple[list[str], dict[str, Champion]]:
    """Return what a rollback can go back through, and the models that were taken out of service.

    The first is like a browser's history: a promotion adds the model at the end, a rollback removes all
    that came after the model it goes back to; the last one serves. The second maps a model to the entry
    that took it back; one that is promoted again is not in it.
    """
    served: list[str] = []
    taken_back: dict[str, Champion] = {}
    for entry in entries:
        at = _last_place(served[:-1], entry.model_id) if entry.action == "rollback" else None
        if at is not None:
            gone = served[at + 1 :]
            del served[at + 1 :]
        else:
            gone = served[-1:] if entry.by == "human" else []
            served.append(entry.model_id)
        taken_back |= dict.fromkeys(gone, entry)
        taken_back.pop(entry.model_id, None)
    return served, taken_back


def _last_place(served: list[str], model_id: str) -> int | None:
    return max((position for position, one in enumerate(served) if one == model_id), default=None)


def rollback(
    registry: AnyPath,
    reason: str,
    to: str | None = None,
    by: By = "human",
    *,
    force: bool = False,
    instead_of: Champion | None = None,
    verify: Callable[[str], None] | None = None,
) -> Champion:
    """Make a previous champion serve again, at once and whole; the history records it.

    Rollbacks go back through what served, one step each: after A, B, A, C they lead to A, to B, to A.

    Args:
        registry: folder or address of the registry.
        reason: one line, for the history.
        to: go back to this model; by default to the one that served before today's.
        by: "rule" or "human".
        force: go back to `to` although a person refused it.
        instead_of: the entry that the decision rests on; rolls back only while it is the last one.
        verify: what else a model must pass before it serves; it is called with the id, and raises.

    Raises:
        RegistryError: there is nothing to go back to, `to` never served or serves already, the model was
            refused, or the champion is another one by now.
        ModelFolderError: the model is damaged.
    """
    while True:
        entries = history(registry)
        if instead_of is not None and entries[-1] != instead_of:
            raise RegistryError(
                f"{instead_of.model_id} was to be rolled back, but the champion was changed meanwhile, to "
                f"{entries[-1].model_id}: decide again"
            )
        target = to or _before(entries)
        past = {entry.model_id: entry for entry in entries}
        if target not in past or entries[-1].model_id == target:
            state = "serves already" if target in past else "never served"
            raise RegistryError(f"{target} {state}; those that did: {', '.join(past) or 'none'}")
        refused = refusal(registry, target)
        if refused and not (to and force):
            raise RegistryError(_refused_before(entries, target, refused))
        _verify(registry, target)
        if verify:
            verify(target)
        appended = _append(
            registry,
            entries[-1],
            model_id=target,
            reason=reason,
            by=by,
            action="rollback",
            metrics=past[target].metrics,
        )
        if appended:
            return appended


def _before(entries: list[Champion]) -> str:
    served, _ = _replay(entries)
    if len(served) < 2:
        raise RegistryError("no other model served before: there is nothing to go back to")
    return served[-2]


def _refused_before(entries: list[Champion], target: str, why: str) -> str:
    others = [one for one in dict.fromkeys(reversed(_replay(entries)[0][:-1])) if one != target]
    further = f"; or name one that served earlier: {', '.join(others)}" if others else ""
    return (
        f"{target} served before, but was refused: {why}; to go back to it all the same, add "
        f"--to {target} --force{further}"
    )


def refuse(registry: AnyPath, model_id: str, reason: str) -> Refusal:
    """Keep the rule from ever promoting a model; a person still may.

    Raises:
        RegistryError: there is no such model, it serves, or it was refused before.
    """
    model_folder(registry, model_id)
    serves = champion(registry)
    if serves and serves.model_id == model_id:
        raise RegistryError(f"{model_id} serves: take it back with a rollback")
    recorded = Refusal(model_id, now(), reason)
    if not create(registry / "refused" / f"{model_id}.json", json_text(to_json(recorded))):
        raise RegistryError(f"{model_id} was refused before: {refusal(registry, model_id)}")
    return recorded


def refusal(registry: AnyPath, model_id: str) -> str | None:
    """Why and when a person refused a model; None where no one did.

    Raises:
        RegistryError: the record is damaged.
    """
    path = registry / "refused" / f"{model_id}.json"
    if not path.exists():
        return None
    found = read(path, Refusal)
    return f"{found.reason} ({shown_time(found.since)})"


def has_served(registry: AnyPath, model_id: str) -> bool:
    """Whether a model serves or once did.

    Raises:
        RegistryError: the history is damaged.
    """
    return any(entry.model_id == model_id for entry in history(registry))


def barred(registry: AnyPath, model_id: str, entries: Sequence[Champion] | None = None) -> str | None:
    """Why the rule may not promote a model: refused, rolled back, or replaced by a person; None if it may.

    Args:
        registry: folder or address of the registry.
        model_id: the model.
        entries: the history, where it has been read already.

    Raises:
        RegistryError: the history is damaged.
    """
    if refused := refusal(registry, model_id):
        return f"refused: {refused}"
    entry = _replay(history(registry) if entries is None else entries)[1].get(model_id)
    if entry is None:
        return None
    how = "rolled back" if entry.action == "rollback" else "replaced by a person"
    return f"{how}: {entry.reason} ({shown_time(entry.since)})"


def reference(entries: list[Champion]) -> str:
    """Return the model that a candidate is held to beside the champion; `entries` is the history, not empty.

    A champion that was promoted for newer data alone may be a little worse than the one before. So that
    such losses do not add up, the rule goes back to the last champion that was promoted for its accuracy,
    as the first, or by a person.
    """
    model_id = entries[-1].model_id
    while True:
        at = _last_place([one.model_id if one.action == "promote" else "" for one in entries], model_id)
        before = entries[at].instead_of if at is not None else None
        if at is None or before is None or entries[at].metrics.get("ground") != NEWER_DATA:
            return model_id
        model_id, entries = before, entries[:at]
