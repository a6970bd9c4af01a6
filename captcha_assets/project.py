"""The project of a data set of one's own: its `pyproject.toml` names the `DatasetSpec` and the code location.

    [tool.captcha-assets]
    dataset = "digits.dataset:DATASET"

`captcha-assets new` makes such a folder. A command that runs in it takes it for its home.
"""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_TABLE = "captcha-assets"


class ProjectError(ValueError):
    """A project that cannot be used; the message names the file and says what is wrong."""


@dataclass(frozen=True)
class Project:
    """One project.

    Attributes:
        folder: where its `pyproject.toml` lies.
        dataset: `module:name` of its `DatasetSpec`.
        definitions: module of its code location.
    """

    folder: Path
    dataset: str
    definitions: str


def project_of(folder: Path) -> Project | None:
    """Return the project that a folder belongs to, None where it belongs to none.

    Only the nearest project of Dagster is looked at, as `dg` does.

    Raises:
        ProjectError: its `pyproject.toml` cannot be used.
    """
    for place in (folder, *folder.parents):
        file = place / "pyproject.toml"
        text = file.read_text() if file.is_file() else ""
        if f"[tool.{_TABLE}]" in text:
            return _read(file, text)
        if "[tool.dg" in text:
            return None
    return None


def project() -> Project | None:
    """Return the project that the working directory belongs to, None where it belongs to none."""
    folder = _working_directory()
    return project_of(folder) if folder else None


def other_project() -> Path | None:
    """Return the `pyproject.toml` of a Dagster project that the working directory lies in; None: of none."""
    here = _working_directory()
    files = [place / "pyproject.toml" for place in (here, *here.parents)] if here else []
    return next((file for file in files if file.is_file() and "[tool.dg" in file.read_text()), None)


def _working_directory() -> Path | None:
    try:
        return Path.cwd()
    except FileNotFoundError:  # it was removed meanwhile
        return None


def _read(file: Path, text: str) -> Project:
    try:
        tools: dict[str, Any] = tomllib.loads(text)["tool"]
    except tomllib.TOMLDecodeError as error:
        raise ProjectError(f"{file} cannot be read: {error}") from error
    own, dagster = tools[_TABLE], tools.get("dg", {}).get("project", {})
    if set(own) != {"dataset"} or not isinstance(own["dataset"], str):
        raise ProjectError(
            f'{file}: the table tool.{_TABLE} has one line, dataset = "package.module:NAME of a DatasetSpec"'
        )
    if "root_module" not in dagster:
        raise ProjectError(f"{file}: the table tool.dg.project names no root_module")
    module = dagster.get("code_location_target_module") or f"{dagster['root_module']}.definitions"
    return Project(file.parent, own["dataset"], module)
