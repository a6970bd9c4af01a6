"""Text as messages show it. Light to import."""

from datetime import UTC, datetime


def first_line(said: object, longest: int = 500) -> str:
    """Return the first line of a message that is not blank; of an exception without one, its type's name.

    Args:
        said: an exception, or a message.
        longest: so many characters of it are enough.
    """
    found = next((line.strip() for line in str(said).splitlines() if line.strip()), "")
    return (found or (type(said).__name__ if isinstance(said, BaseException) else ""))[:longest]


def shown_time(moment: str | float) -> str:
    """Return a time as people read it: UTC, to the minute. What programs read is ISO 8601.

    Args:
        moment: in ISO 8601, or in seconds since 1970.
    """
    found = datetime.fromisoformat(moment) if isinstance(moment, str) else datetime.fromtimestamp(moment, UTC)
    return found.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
