"""The code location that a command works on: the project's, or else that of `captcha_assets.definitions`."""

import importlib
from pathlib import Path

import dagster as dg

from captcha_assets.paths import REPOSITORY
from captcha_assets.project import ProjectError, project


def folder() -> Path:
    """Return the folder that Dagster starts the code location in: it holds `workspace.yaml`.

    Raises:
        ProjectError: there is no such file.
    """
    own = project()
    found = own.folder if own else REPOSITORY
    if (found / "workspace.yaml").exists():
        return found
    if own:
        raise ProjectError(f"{found} holds no workspace.yaml: restore it")
    raise ProjectError("this folder belongs to no project: change to one (captcha-assets new PATH makes it)")


def definitions() -> dg.Definitions:
    """Return what the code location of the working directory's project defines; outside of any, our own.

    Raises:
        ProjectError: the module that the project's `pyproject.toml` names cannot be loaded.
    """
    own = project()
    if own is None:
        from captcha_assets.definitions import defs

        return defs()
    try:
        found = importlib.import_module(own.definitions).defs
    except (ImportError, AttributeError, SyntaxError) as error:
        file = own.folder / "pyproject.toml"
        raise ProjectError(
            f"{file}: the code location {own.definitions} cannot be loaded: {error}"
        ) from error
    return found if isinstance(found, dg.Definitions) else found()
