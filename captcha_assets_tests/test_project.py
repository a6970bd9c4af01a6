"""A project is found from any of its folders; what its `pyproject.toml` lacks is said in one line."""

from pathlib import Path

import pytest

from captcha_assets.project import Project, ProjectError, project_of
from captcha_assets.settings import SettingsError, load_settings
from captcha_assets_tests.commands import run

PROJECT = """
[tool.captcha-assets]
dataset = "digits.dataset:DATASET"
[tool.dg.project]
root_module = "digits"
"""
SPEC = """
from captcha_assets.dataset import DatasetSpec
DATASET = DatasetSpec(name="digits", classes=tuple("0123456789"), height=8, width=8)
"""
DEFINITIONS = """
import dagster as dg
from captcha_assets.definitions import build_definitions
from digits.dataset import DATASET
@dg.asset(deps=["champion"])
def announcement() -> None: ...
@dg.definitions
def defs() -> dg.Definitions:
    return dg.Definitions.merge(build_definitions(DATASET), dg.Definitions([announcement]))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project, and no other home."""
    monkeypatch.delenv("CAPTCHA_HOME")
    package = tmp_path / "project" / "digits"
    package.mkdir(parents=True)
    (package.parent / "configs").mkdir()
    (package.parent / "pyproject.toml").write_text(PROJECT)
    (package / "__init__.py").touch()
    (package / "dataset.py").write_text(SPEC)
    (package / "definitions.py").write_text(DEFINITIONS)
    return package.parent


def test_it_is_found_from_the_folders_inside_of_it_only(folder: Path) -> None:
    found = Project(folder, "digits.dataset:DATASET", "digits.definitions")
    assert project_of(folder) == project_of(folder / "digits") == found
    assert project_of(folder.parent) is None


def test_a_project_of_dagster_inside_of_it_is_another_one(folder: Path) -> None:
    inner = folder / "vendor" / "other"
    inner.mkdir(parents=True)
    (inner / "pyproject.toml").write_text("[tool.dg]\ndirectory_type = 'project'\n")
    assert project_of(inner) is None
    (inner / "pyproject.toml").write_text("[project]\nname = 'a-library'\n")
    assert project_of(inner) == project_of(folder)


def test_it_names_its_code_location(folder: Path) -> None:
    with (folder / "pyproject.toml").open("a") as file:
        file.write('code_location_target_module = "digits.elsewhere"\n')
    found = project_of(folder)
    assert found is not None
    assert found.definitions == "digits.elsewhere"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[tool.captcha-assets]\ndataset = \n", "cannot be read"),
        ("[tool.captcha-assets]\n", "has one line, dataset ="),
        ("[tool.captcha-assets]\ndataset = 3\n", "has one line, dataset ="),
        ("[tool.captcha-assets]\ndataset = 'a:B'\nhome = '.'\n", "has one line, dataset ="),
        ("[tool.captcha-assets]\ndataset = 'a:B'\n", "names no root_module"),
    ],
)
def test_a_table_that_cannot_be_used_names_the_file(folder: Path, text: str, words: str) -> None:
    (folder / "pyproject.toml").write_text(text)
    with pytest.raises(ProjectError, match=words) as caught:
        project_of(folder)
    assert str(folder / "pyproject.toml") in str(caught.value)


def test_the_project_is_the_home_and_has_the_data_set(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder / "digits")
    settings = load_settings()
    assert (settings.paths.home, settings.dataset) == (folder, "digits.dataset:DATASET")
    monkeypatch.setenv("CAPTCHA_HOME", str(folder.parent / "other"))
    settings = load_settings()
    assert (settings.paths.home, settings.dataset) == (folder.parent / "other", "digits.dataset:DATASET")
    monkeypatch.setenv("CAPTCHA_DATASET", "letters:DATASET")
    with pytest.raises(SettingsError, match="CAPTCHA_DATASET='letters:DATASET' cannot be used in"):
        load_settings()


def test_in_a_project_of_dagster_alone_the_home_has_to_be_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = folder.parent / "other"
    (project / "defs").mkdir(parents=True)
    (project / "pyproject.toml").write_text("[tool.dg]\ndirectory_type = 'project'\n")
    monkeypatch.chdir(project / "defs")
    with pytest.raises(SettingsError, match="whose data sets have homes of their own") as one:
        load_settings()
    assert str(one.value).startswith(f"CAPTCHA_HOME is not set, and {project / 'pyproject.toml'} ")
    monkeypatch.setenv("CAPTCHA_HOME", str(folder.parent / "home"))
    assert load_settings().paths.home == folder.parent / "home"


def test_commands_load_the_code_location_of_the_project(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder / "digits")
    shown = run(folder, "graph")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "champion --> announcement" in shown.stdout
    (folder / "digits" / "definitions.py").write_text("import no_such_module")
    failed = run(folder, "update", "--dry-run")
    expected = (
        f"{folder / 'pyproject.toml'}: the code location digits.definitions cannot be loaded: No module"
    )
    assert failed.returncode == 1
    assert failed.stderr.startswith(f"Error: {expected}")
    assert len(failed.stderr.splitlines()) == 1


def test_the_file_env_is_read_as_dg_reads_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (folder / ".env").write_text("CAPTCHA_RETRAIN_NEW_IMAGES=none\n")
    failed = run(folder, "status")
    assert failed.returncode == 1
    assert failed.stderr.startswith("Error: CAPTCHA_RETRAIN_NEW_IMAGES='none' cannot be used")


def test_a_project_without_workspace_yaml_has_no_automation(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    failed = run(folder, "automation", "on")
    assert (failed.returncode, failed.stderr) == (
        1,
        f"Error: {folder} holds no workspace.yaml: restore it\n",
    )
