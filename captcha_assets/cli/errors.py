"""How errors are said: in one line that says what is wrong, where, and what to do."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class _Kind:
    """Errors of a library: what they are about, and what to do."""

    module: str
    name: str
    subject: str = ""
    advice: str = ""


_STORE = "check CAPTCHA_ARTIFACTS, the credentials and AWS_ENDPOINT_URL"

#: The errors of libraries that are not defects of this one. More special ones stand first.
_KINDS = (
    _Kind("sqlalchemy.exc", "SQLAlchemyError", "Dagster's database in DAGSTER_HOME (<home>/.dagster): "),
    _Kind("sqlite3", "Error", "Dagster's database in DAGSTER_HOME (<home>/.dagster): "),
    _Kind("polars.exceptions", "PolarsError", "a table: "),
    _Kind("pyarrow.lib", "ArrowException", "a table: "),
    _Kind("botocore.exceptions", "BotoCoreError", "the object store: ", _STORE),
    _Kind("botocore.exceptions", "ClientError", "the object store: ", _STORE),
    _Kind("aiohttp.client_exceptions", "ClientError", "the object store: ", _STORE),
    _Kind("zipfile", "BadZipFile", "an archive: "),
    _Kind("yaml.error", "YAMLError", "a YAML file: "),
    _Kind("dagster._core.errors", "DagsterError", "Dagster: "),
    _Kind("dagster_shared.check.functions", "CheckError", "Dagster: "),
    _Kind("builtins", "OSError"),
    _Kind("builtins", "ValueError"),
    _Kind("builtins", "RuntimeError"),
)


def _classes(kind: _Kind) -> Iterator[type[BaseException]]:
    # A library that is not loaded has raised nothing.
    found = getattr(sys.modules.get(kind.module), kind.name, None)
    if found is not None:
        yield found


def known() -> tuple[type[BaseException], ...]:
    """The classes of the errors that are said in one line; all others are defects."""
    return tuple(found for kind in _KINDS for found in _classes(kind))


def in_one_line(error: BaseException) -> str:
    """Say an error in one line.

    An error of this library speaks for itself. Of another library's error the first line is taken, since
    what follows is for its developers, and what the error is about is said before it.
    """
    cause = getattr(error, "orig", None) or error  # SQLAlchemy's error is the database's, with the statement
    if type(error).__module__ == "builtins" and isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    if type(error).__module__.startswith(("captcha_assets.", "builtins")):
        return " ".join(str(cause).split()) or type(error).__name__
    kind = next((kind for kind in _KINDS if isinstance(error, tuple(_classes(kind)))), _Kind("", ""))
    words = _first_line(str(cause)) or type(error).__name__
    return f"{kind.subject}{words}{f'; {kind.advice}' if kind.advice else ''}"


def unexpected(error: BaseException) -> str:
    """Say a defect in one line, and how to see more of it."""
    words = _first_line(str(error))
    named = f"{type(error).__name__}: {words}" if words else type(error).__name__
    return f"unexpected error: {named}; run it again with CAPTCHA_DEBUG=1 and report what it says"


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")
