"""Projects made from the template, and what is run in them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from captcha_assets_tests.commands import run
from captcha_assets_tests.conftest import REPOSITORY

#: Folder of the programs of this environment: a project would install the same, 7 GB of it.
BIN = Path(sys.executable).parent

DIGITS = ("--classes", "0,1,2,3,4,5,6,7,8,9", "--height", "8", "--width", "8", "--defaults")
#: As the page on the template asks for them.
_PAGE = (REPOSITORY / "docs" / "template.md").read_text()
PHOTOS = tuple(
    _PAGE.partition("captcha-assets new photos ")[2].partition("cd photos")[0].replace("\\\n", "").split()
)


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=Test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false")
    command = ["git", *identity, "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def commit(folder: Path, tag: str | None = None) -> None:
    """Commit all that a folder holds, as a repository of its own."""
    if not (folder / ".git").exists():
        git(folder, "init", "--initial-branch", "main")
    git(folder, "add", "--all")
    git(folder, "commit", "--message", "state")
    if tag:
        git(folder, "tag", tag)


def template_repository(folder: Path) -> Path:
    """Make a git repository of the template as it is now, with its first version."""
    shutil.copytree(REPOSITORY / "template", folder / "template")
    (folder / "configs").mkdir()
    for name in ("copier.yml", "requirements.lock", "configs/sweep.yaml"):
        shutil.copy(REPOSITORY / name, folder / name)
    commit(folder, "1.0.0")
    return folder


def new(template: Path, folder: Path, *options: str) -> Path:
    """Make a project from a template, and return its folder."""
    arguments = ("--template", str(template), "--source", str(REPOSITORY), *options)
    done = run(folder.parent, "new", str(folder), *arguments)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return folder


def environment(**variables: str) -> dict[str, str]:
    """Return the environment of a user who has exported nothing of ours and started us from no other make."""
    ours = ("CAPTCHA_", "DAGSTER_", "MAKE", "MFLAGS")
    others = {name: text for name, text in os.environ.items() if not name.startswith(ours)}
    return {**others, **variables}


def said(folder: Path, *command: str, **variables: str) -> str:
    """Run a program of the environment, or make, in a project; it must succeed. Return what it printed."""
    program = [str(BIN / command[0]), *command[1:]] if (BIN / command[0]).exists() else list(command)
    if command[0] == "make":
        program.append(f"BIN={BIN}")
    done = subprocess.run(
        program, cwd=folder, env=environment(**variables), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr
