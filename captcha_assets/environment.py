"""Settings from the environment: an unknown variable is rejected, an error names its variable in one line."""

import difflib
import os
import re
from collections.abc import Collection
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_settings import BaseSettings

from captcha_assets.validation_errors import reason_of, setting_of

#: What Kubernetes sets in every container of a service that is called `captcha…`.
_OF_KUBERNETES = re.compile(
    r"(^|_)(SERVICE_(HOST|PORT)(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)$", re.ASCII
)
_WITH_PASSWORD = re.compile(r"://[^/@]*:[^/@]*@")

S = TypeVar("S", bound=BaseSettings)


class SettingsError(ValueError):
    """A setting that cannot be used; the message names the variable and says what to do."""


def load(
    kind: type[S],
    overrides: dict[str, Any],
    *,
    others: Collection[str] = (),
    secrets: Collection[str] = (),
    listed_in: str = "docs/settings.md",
) -> S:
    """Read settings from the environment.

    Args:
        kind: the settings; their prefix is that of the variables.
        overrides: fields given explicitly; they win over the environment.
        others: variables of the prefix that are no settings of `kind`; a name with an underscore at its end
            stands for all that begin with it.
        secrets: fields whose value no message shows.
        listed_in: the page that lists the settings.

    Raises:
        SettingsError: a value cannot be used, or there is no such setting; the message names the variable.
    """
    prefix = kind.model_config.get("env_prefix", "")
    _check_variables(prefix, {name.upper() for name in kind.model_fields}, others, listed_in)
    try:
        return kind(**overrides)
    except ValidationError as error:
        field, value = setting_of(error), str(error.errors()[0]["input"])
        secret = field in secrets or _WITH_PASSWORD.search(value)
        given = f"{prefix}{field.upper()}" + ("" if secret else f"={value!r}")
        raise SettingsError(f"{given} cannot be used: {reason_of(error)}") from error


def _check_variables(prefix: str, fields: set[str], others: Collection[str], listed_in: str) -> None:
    """Refuse a variable of the prefix that nothing reads: it is a typing error, or meant for another version.

    Raises:
        SettingsError: there is one; the message names it, and the one that it resembles.
    """
    whole = {name for name in others if not name.endswith("_")}
    families = tuple(name for name in others if name.endswith("_"))
    known = fields | whole
    for variable in sorted(os.environ):
        name = variable.upper().removeprefix(prefix)
        known_as_written = variable == variable.upper() and (name in known or name.startswith(families))
        if name == variable.upper() or known_as_written or _OF_KUBERNETES.search(name):
            continue
        near = difflib.get_close_matches(name, sorted(known), n=1)
        meant = f"is {prefix}{near[0]} meant?" if near else f"{listed_in} lists all settings."
        raise SettingsError(f"{variable} is no setting: {meant} Rename the variable, or unset it")
