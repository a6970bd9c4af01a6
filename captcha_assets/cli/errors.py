"""How errors are said: in one line that says what is wrong, where, and what to do."""

import errno
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from captcha_assets.atomic_files import CLIENT_ERRORS
from captcha_assets.text_formats import first_line


@dataclass(frozen=True)
class _Kind:
    """Errors of a library: what they are about, and what to do."""

    module: str
    name: str
    subject: str = ""
    advice: str = ""
    whole: bool = False  # its message is for people, on all its lines


_DATABASE = "Dagster's database in {dagster_home}: "
_DATABASE_ADVICE = (
    "free some space if it is full; move it away if it is damaged, and Dagster creates a new one"
)
_SHARED_ADVICE = "check that the server runs and lets this user in (docs/shared.md)"
_TABLE_ADVICE = "captcha-assets status names the damaged file, and update materializes it again"
_STORE = "check CAPTCHA_ARTIFACTS, the credentials, and for s3:// AWS_ENDPOINT_URL"

_PLACES = "CAPTCHA_HOME and CAPTCHA_ARTIFACTS say where things are kept: it must be possible to write there"

#: What to do about an error of a file, where the error does not say it.
_OF_FILES = {
    errno.EROFS: _PLACES,
    errno.EACCES: _PLACES,
    errno.EPERM: _PLACES,
    errno.ENOSPC: "free some space and run it again",
    errno.EDQUOT: "free some space and run it again",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}

#: How long a line may be, in characters.
_LONGEST = 1000

#: The errors of libraries that are not defects of this one. More special ones stand first.
_KINDS = (
    _Kind("psycopg2", "Error", "the database: ", _SHARED_ADVICE),
    _Kind("dagster_postgres.utils", "DagsterPostgresException", "the database: ", _SHARED_ADVICE),
    _Kind("sqlalchemy.exc", "SQLAlchemyError", _DATABASE, _DATABASE_ADVICE),
    _Kind("sqlite3", "Error", _DATABASE, _DATABASE_ADVICE),
    _Kind("polars.exceptions", "PolarsError", "a table: ", _TABLE_ADVICE),
    _Kind("pyarrow.lib", "ArrowException", "a table: ", _TABLE_ADVICE),
    *(_Kind(module, name, "the object store: ", _STORE) for module, name in CLIENT_ERRORS),
    _Kind("zipfile", "BadZipFile", "an archive: "),
    _Kind("yaml.error", "YAMLError", "a YAML file: ", whole=True),
    _Kind("dagster", "DagsterError", "Dagster: ", whole=True),
    _Kind("dagster_shared.check.functions", "CheckError", "Dagster: "),
    _Kind("alembic.util.exc", "CommandError", _DATABASE, _DATABASE_ADVICE),
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


def in_one_line(error: BaseException, dagster_home: object = "DAGSTER_HOME") -> str:
    """Say an error in one line.

    An error of this library speaks for itself. Of another library's error the first line is taken, since
    what follows is for its developers, and what the error is about is said before it.

    Args:
        error: what was raised.
        dagster_home: where Dagster's database is, for an error without a note that names the file.
    """
    if type(error).__module__ == "builtins" and isinstance(error, OSError) and error.filename is not None:
        said_already = str(error.strerror).endswith("run it again")  # see `atomic_files.replacing`
        advice = None if said_already else _OF_FILES.get(error.errno or 0)
        return f"{error.filename}: {error.strerror}{f'; {advice}' if advice else ''}"
    if isinstance(error, OSError) and _is_of_store(error):
        return f"the object store: {_joined(error.strerror or str(error))}; {_STORE}"
    if type(error).__module__.startswith(("captcha_assets.", "builtins")):
        return _joined(str(error)) or type(error).__name__
    original = getattr(error, "orig", None)  # SQLAlchemy's is the database's, with the statement
    kind = next(
        (
            kind
            for kind in _KINDS
            if isinstance(original, found := tuple(_classes(kind))) or isinstance(error, found)
        ),
        _Kind("", ""),
    )
    text = str(original or error)
    words = (_joined(text) if kind.whole else first_line(text)) or type(error).__name__
    place = next(iter(getattr(error, "__notes__", ())), dagster_home)  # the file, where it is known
    subject = kind.subject.format(dagster_home=place)
    return f"{subject}{words}{f'; {kind.advice}' if kind.advice else ''}"


def _is_of_store(error: OSError) -> bool:
    """Whether the client of an object store raised a system error: it translates answers such as 503."""
    if type(error).__module__ != "builtins":
        return False
    return error.errno in {errno.EBUSY, errno.EREMOTEIO} or (
        isinstance(error, PermissionError) and error.errno is None
    )


def unexpected(error: BaseException) -> str:
    """Say in one line that a library is not installed; or a defect, and how to see more of it."""
    if isinstance(error, ModuleNotFoundError) and not str(error.name).startswith("captcha_assets"):
        return f"this command needs {error.name}: install captcha-assets[platform]"
    words = first_line(str(error))
    named = f"{type(error).__name__}: {words}" if words else type(error).__name__
    return f"unexpected error: {named}; run it again with CAPTCHA_DEBUG=1 and report what it says"


def _joined(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= _LONGEST else f"{words[:_LONGEST]} ..."
