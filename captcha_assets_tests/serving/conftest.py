"""Homes whose champion is served."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from captcha_assets_tests.defs.conftest import made_once
from captcha_assets_tests.serving.services import RunningService, make_home, running


@pytest.fixture(scope="session")
def served_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with exported models, to be copied."""
    return made_once(tmp_path_factory, "served", make_home)


@pytest.fixture
def served_home(served_folder: Path, tmp_path: Path) -> Path:
    """A copy of that home, to change at will."""
    return Path(shutil.copytree(served_folder, tmp_path / "home"))


@pytest.fixture(scope="module")
def service(served_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service that the tests of a module share."""
    home = Path(shutil.copytree(served_folder, tmp_path_factory.mktemp("service") / "home"))
    with running(home) as service:
        yield service
