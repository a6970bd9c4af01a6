"""The changes that the pages on contributing show apply to this version, and their tests pass."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from captcha_assets.paths import REPOSITORY

PAGES = sorted((REPOSITORY / "docs" / "contributing").glob("*.md"))
FOLDERS = ("captcha_assets", "captcha_assets_tests")


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_change_of_a_page_applies_and_passes_its_own_tests(page: Path, tmp_path: Path) -> None:
    if shutil.which("git") is None:
        pytest.skip("git, which applies the changes, is not installed")
    text = page.read_text()
    (change,) = re.findall(r"```diff\n(.*?)```", text, re.DOTALL)
    (tests,) = re.findall(r"^\.venv/bin/pytest (.*)$", text, re.MULTILINE)
    for name in FOLDERS:
        shutil.copytree(REPOSITORY / name, tmp_path / name)
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)

    applied = subprocess.run(
        ["git", "apply", "-"], cwd=tmp_path, input=change, capture_output=True, text=True, check=False
    )
    assert applied.returncode == 0, applied.stderr
    changed = re.findall(r"^\+\+\+ b/(.*\.py)$", change, re.MULTILINE)
    assert (
        ran(tmp_path, "ruff", "check", *changed) == ran(tmp_path, "ruff", "format", "--check", *changed) == 0
    )
    assert ran(tmp_path, "pytest", "-n0", "-m", "slow or not slow", *tests.split()) == 0


def ran(folder: Path, module: str, *arguments: str) -> int:
    """Run a tool on a copy of the repository, whose package is taken, and return its exit status."""
    ours = ("PYTEST_", "TESTS_SERVER_")  # a server has imported the package as it is here
    mine = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    environment = {**mine, "PYTHONPATH": str(folder)}
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, check=False).returncode
