"""What pydantic found wrong, in one line for the person who wrote the value."""

import difflib
from collections.abc import Collection

from pydantic import ValidationError


def setting_of(error: ValidationError) -> str:
    """Return the name of the first setting that cannot be used; empty where several are the matter."""
    location = error.errors()[0]["loc"]
    return str(location[0]) if location else ""


def reason_of(error: ValidationError) -> str:
    """Return why the first value cannot be used."""
    return error.errors()[0]["msg"].removeprefix("Value error, ")


def one_line(error: ValidationError, known: Collection[str]) -> str:
    """Return the first problem: the setting, its value, and what is possible.

    Args:
        error: what pydantic raised.
        known: the names of the settings, to find the one that resembles an unknown one.
    """
    first = error.errors()[0]
    if first["type"] == "extra_forbidden" and len(first["loc"]) == 1:
        return unknown(
            sorted(str(one["loc"][0]) for one in error.errors() if one["type"] == first["type"]), known
        )
    name = _name(first["loc"])
    if not name or first["type"] == "missing":
        return f"{name}: {reason_of(error)}" if name else reason_of(error)
    return f"{name}={_short(first['input'])} cannot be used: {reason_of(error)}"


def unknown(names: Collection[str], known: Collection[str]) -> str:
    """Return that settings are unknown, and which one resembles the first."""
    first, *_ = names
    near = difflib.get_close_matches(first, sorted(known), n=1)
    meant = f"is {near[0]} meant? " if near else ""
    return f"unknown settings: {', '.join(names)}; {meant}known are {', '.join(sorted(known))}"


def _name(location: tuple[int | str, ...]) -> str:
    """Return `channels[3]` for the fourth element of `channels`; validators are no part of a name."""
    parts = [one for one in location if isinstance(one, int) or not one.startswith("function-")]
    return "".join(f"[{one}]" if isinstance(one, int) else f".{one}" for one in parts).removeprefix(".")


def _short(value: object, most: int = 80) -> str:
    """Return a value as Python writes it, its end left out where it is long."""
    text = " ".join(repr(value).split())
    return text if len(text) <= most else f"{text[:most]}..."
