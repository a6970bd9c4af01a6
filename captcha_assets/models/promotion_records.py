"""What was decided on every candidate: one file a decision, created once and never rewritten.

    decisions/<candidate>--<champion>--<test split>.json

A candidate is compared once against a champion on a test split. Later promotions return the recorded
decision, so that repetition cannot change it.
"""

from dataclasses import dataclass
from typing import Any

from captcha_assets.atomic_files import AnyPath, create, json_text
from captcha_assets.models.registry_records import read, to_json

#: In the place of the champion's id where there was none.
_NONE = "none"


@dataclass(frozen=True)
class Decision:
    """What the promotion rule decided on a candidate, and the figures that it rests on."""

    candidate: str
    champion: str | None
    """The champion that it was compared with."""
    test_split: str
    """Hash of the test split: the ids and labels of its images."""
    splits_version: str
    """Data version of the splits then."""
    since: str
    """UTC, ISO 8601."""
    promoted: bool
    ground: str | None
    """Why it was promoted, in one word; None where it was not."""
    reason: str
    """The decision in one line."""
    criteria: list[dict[str, Any]]
    """Each with name, passed, figures, words."""


def find(registry: AnyPath, candidate: str, champion: str | None, test_split: str) -> Decision | None:
    """Return the decision on a candidate, compared with a champion on a test split; None where there is none.

    Raises:
        RegistryError: the decision is damaged.
    """
    path = _place(registry, candidate, champion, test_split)
    return read(path, Decision) if path.exists() else None


def record(registry: AnyPath, decision: Decision) -> Decision:
    """Keep a decision and return it; the former one where another process recorded one meanwhile."""
    path = _place(registry, decision.candidate, decision.champion, decision.test_split)
    create(path, json_text(to_json(decision)))
    return read(path, Decision)


def last(registry: AnyPath, candidate: str) -> Decision | None:
    """Return the latest decision on a candidate, or None where it was never compared.

    Raises:
        RegistryError: a decision on it is damaged.
    """
    found = [read(path, Decision) for path in _paths(registry) if path.name.startswith(f"{candidate}--")]
    return max(found, key=lambda decision: (decision.since, decision.test_split), default=None)


def compared(registry: AnyPath) -> set[str]:
    """Return every model that was compared on a test split, as candidate or as champion."""
    models = {model for path in _paths(registry) for model in path.name.split("--")[:2]}
    return models - {_NONE}


def of_a_champion(registry: AnyPath, candidate: str | None) -> AnyPath | None:
    """Return a decision from which a champion is known, now or then; None where there is none.

    It compares with a champion, or promoted another model than the candidate of now. The decision on that one
    may still have to be carried out.

    Raises:
        RegistryError: a decision is damaged.
    """
    for path in _paths(registry):
        names = path.name.split("--")
        if names[1:2] not in ([], [_NONE]) or (names[0] != candidate and read(path, Decision).promoted):
            return path
    return None


def _paths(registry: AnyPath) -> list[AnyPath]:
    folder = registry / "decisions"
    if not folder.exists():
        return []
    found = (path for path in folder.iterdir() if path.suffix == ".json" and not path.name.startswith("."))
    return sorted(found, key=lambda path: path.name)


def _place(registry: AnyPath, candidate: str, champion: str | None, test_split: str) -> AnyPath:
    return registry / "decisions" / f"{candidate}--{champion or _NONE}--{test_split[:16]}.json"
