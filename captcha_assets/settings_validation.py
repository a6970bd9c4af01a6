"""Settings from the environment: an unknown variable is rejected, an error names its variable in one line."""

import difflib
import os
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from pydantic import ValidationError

from captcha_assets.validation_errors import reason_of, setting_of

#: What Kubernetes sets in every container of a service that is called `captcha…`.
_OF_KUBERNETES = re.compile(
    r"(^|_)(SERVICE_(HOST|PORT)(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)$", re.ASCII
)
_WITH_PASSWORD = re.compile(r"://[^/@]*:[^/@]*@")


class SettingsError(ValueError):
    """A setting that cannot be used; the message names the variable and says what to do."""


def check_variables(
    prefix: str,
    settings: Collection[str],
    others: Collection[str] = (),
    *,
    never_empty: Collection[str] = (),
) -> None:
    """Raise an error for a variable of the prefix that is no setting here, or that may not be empty.

    Args:
        prefix: of the variables.
        settings: names of the settings.
        others: variables of the prefix that are no settings; a name with an underscore at its end stands for
            all that begin with it.
        never_empty: names of the settings whose empty value would turn off what protects.

    Raises:
        SettingsError: there is one; the message names it, and the setting that it resembles.
    """
    families = tuple(name for name in others if name.endswith("_"))
    known = {name.upper() for name in settings} | set(others) - set(families)
    filled = {f"{prefix}{name.upper()}" for name in never_empty}
    for variable in sorted(os.environ):
        name = variable.upper().removeprefix(prefix)
        if variable in filled and not os.environ[variable].strip():
            raise SettingsError(f"{variable} is empty: give a value, or unset the variable for the default")
        known_as_written = variable == variable.upper() and (name in known or name.startswith(families))
        if name == variable.upper() or known_as_written or _OF_KUBERNETES.search(name):
            continue
        near = difflib.get_close_matches(name, sorted(known), n=1)
        meant = f"is {prefix}{near[0]} meant?" if near else "docs/settings.md lists all settings."
        raise SettingsError(f"{variable} is no setting: {meant} Rename the variable, or unset it")


def debugging() -> bool:
    """Whether `CAPTCHA_DEBUG` asks for tracebacks; a value that `Settings` rejects does not."""
    return os.environ.get("CAPTCHA_DEBUG", "").lower() in {"1", "true", "t", "yes", "y", "on"}


@contextmanager
def errors_name_their_variable(prefix: str, secrets: Collection[str] = ()) -> Iterator[None]:
    """Raise a SettingsError of one line for what pydantic raises when it reads settings.

    Args:
        prefix: of the variables.
        secrets: fields whose value no message shows.
    """
    try:
        yield
    except ValidationError as error:
        field, value = setting_of(error), error.errors()[0]["input"]
        if not field:  # several settings contradict each other; the reason names them
            raise SettingsError(reason_of(error)) from error
        if value is None:
            raise SettingsError(f"{prefix}{field.upper()} is not set: {reason_of(error)}") from error
        secret = field in secrets or _WITH_PASSWORD.search(str(value))
        given = f"{prefix}{field.upper()}" + ("" if secret else f"={str(value)!r}")
        raise SettingsError(f"{given} cannot be used: {reason_of(error)}") from error
