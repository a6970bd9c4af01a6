"""Text as messages show it. Light to import."""


def first_line(said: object, longest: int = 500) -> str:
    """Return the first line of a message that is not blank; of an exception without one, its type's name.

    Args:
        said: an exception, or a message.
        longest: so many characters of it are enough.
    """
    found = next((line.strip() for line in str(said).splitlines() if line.strip()), "")
    return (found or (type(said).__name__ if isinstance(said, BaseException) else ""))[:longest]
