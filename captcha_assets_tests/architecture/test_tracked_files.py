"""What git keeps names no package registry and no developer's machine, and fits one lock."""

import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from captcha_assets_tests.architecture.source import REPOSITORY

REGISTRY = re.compile(
    r"""(?ix)
    \b (?: pypi | pythonhosted | anaconda | npmjs | npmmirror | gemfury | jfrog | devpi ) \. [a-z]{2,} \b
    | \b (?: download | wheels? | packages ) \. [\w.-]+ \. (?: org | com | io ) \b
    | \b (?: ghcr | quay | gcr | docker ) \. io \b
    | (?: index-url | extra-index-url | find-links | default-index ) ["'\s=:]+ \S*:// """
)
MACHINE = re.compile(
    r"""(?x) (?<! [\w.}-] ) / (?: root | work | home/\w+ | Users | workspace | opt/\w+ ) / [\w.]"""
)


@cache
def _tracked() -> tuple[Path, ...]:
    if shutil.which("git") is None or not (REPOSITORY / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    paths = (REPOSITORY / name for name in listed.stdout.split("\0") if name)
    return tuple(path for path in paths if path.is_file())


def _lines(pattern: re.Pattern[str]) -> Iterator[str]:
    """Yield where a pattern occurs in the text that git keeps."""
    for path in _tracked():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if pattern.search(line):
                yield f"{path.relative_to(REPOSITORY)}:{number}: {line.strip()[:120]}"


def test_no_file_names_a_package_registry() -> None:
    assert list(_lines(REGISTRY)) == []


def test_no_file_names_a_path_of_one_machine() -> None:
    assert list(_lines(MACHINE)) == []


@pytest.mark.parametrize(
    ("pattern", "pieces"),
    [
        (REGISTRY, ["https://py", "pi.org/simple"]),
        (REGISTRY, ["--index", "-url http://10.0.0.1/simple"]),
        (REGISTRY, ["FROM gh", "cr.io/someone/image"]),
        (MACHINE, ["cd /", "work/main"]),
        (MACHINE, ["open('/", "root/.cache')"]),
    ],
)
def test_the_patterns_find_what_they_look_for(pattern: re.Pattern[str], pieces: list[str]) -> None:
    assert pattern.search("".join(pieces))


def test_no_second_lock_file_stands_beside_the_first() -> None:
    locks = {"uv.lock", "pylock.toml", "poetry.lock", "Pipfile.lock"}
    assert [path.name for path in _tracked() if path.name in locks] == []


def test_no_file_is_large() -> None:
    large = {path.name: path.stat().st_size for path in _tracked() if path.stat().st_size > 1_000_000}
    assert large == {}, "data belongs to DVC"


# --- the lock


@cache
def _locked() -> dict[str, str]:
    lock = (REPOSITORY / "requirements.lock").read_text()
    return dict(re.findall(r"(?m)^([a-z0-9-]+)==(\S+)", lock))


def _declared() -> list[Requirement]:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    return [Requirement(one) for group in groups for one in group]


def test_the_lock_holds_every_dependency_in_a_version_that_is_asked_for() -> None:
    wrong = []
    for one in _declared():
        version = _locked().get(canonicalize_name(one.name), "not locked")
        if one.name != "captcha-assets" and (version == "not locked" or version not in one.specifier):
            wrong.append(f"{one}: {version}")
    assert wrong == [], "run: make lock"


def test_everything_in_the_lock_carries_a_hash() -> None:
    blocks = re.split(r"(?m)^(?=[a-z0-9])", (REPOSITORY / "requirements.lock").read_text())
    assert [
        block.splitlines()[0] for block in blocks if block.strip() and "--hash=sha256:" not in block
    ] == []
